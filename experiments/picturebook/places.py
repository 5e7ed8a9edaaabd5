"""The places and the weather over them: sky, far and near layers.

The ground is clear from 66 down.
"""

import math

from PIL import Image

from experiments.picturebook.pen import DARK_WOOD, WHITE, WOOD, Pen, mix, rgb


def hill(pen, rng, fill, y, height):
    phase, length = rng.uniform(0, 6.3), rng.uniform(11, 17)
    pen.shape(
        fill,
        *((x, y - height * math.sin(phase + x / length)) for x in range(-4, 109, 7)),
        (104, 104),
        (-4, 104),
    )


def forest(pen, rng):
    rows = ("#9ec8b4", 66, 42, 9), ("#569680", 70, 50, 15), ("#2c685c", 74, 60, 26)
    for fill, base, height, step in rows:
        x = rng.uniform(-6, 4)
        while x < 106:
            tall, wide = height * rng.uniform(0.82, 1.15), height * 0.2
            pen.box(DARK_WOOD, x - 1.5, base - 8, x + 1.5, base + 3)
            for low, high in ((6, 0.52), (0.34 * tall, 0.8), (0.62 * tall, 1)):
                pen.shape(fill, x - wide, base - low, x, base - high * tall, x + wide, base - low)
                wide *= 0.8
            x += step * rng.uniform(0.8, 1.25)
    hill(pen, rng, "#769e68", 72, 1.5)
    hill(pen, rng, "#628c5c", 86, 2)
    for _ in range(5):
        x, y = rng.uniform(4, 96), rng.uniform(80, 97)
        pen.line("#467454", 1, x - 2.5, y - 5, x, y, x + 2.5, y - 5)


def desert(pen, rng):
    x = rng.uniform(20, 75)
    pen.shape("#eebe88", x - 24, 66, x, 34, x + 24, 66)
    pen.shape("#e0a874", x, 34, x + 24, 66, x + 5, 66)
    hill(pen, rng, "#f3c484", 62, 4)
    hill(pen, rng, "#ebb06a", 72, 3)
    hill(pen, rng, "#e1a05a", 88, 3)
    for x in (rng.uniform(4, 18), rng.uniform(82, 96)):
        cactus = pen.at(x, rng.uniform(70, 77), rng.uniform(26, 38))
        cactus.line("#5c8a54", 20, 0, -8, 0, -92)
        cactus.line("#5c8a54", 14, 0, -34, 30, -40, 30, -66)
        cactus.line("#5c8a54", 14, 0, -46, -30, -52, -30, -76)


def village(pen, rng):
    hill(pen, rng, "#ced4b2", 56, 3)
    walls = ["#faecd4", "#ecd6c4", "#e2e2e8", "#f6dcb4"]
    x = rng.uniform(-10, -2)
    while x < 100:
        wide, tall = rng.uniform(18, 24), rng.uniform(22, 34)
        top, wall, roof = (70 - tall, rng.choice(walls), mix("#be604a", "#965450", rng.random()))
        pen.box(wall, x, top, x + wide, 72)
        pen.shape(
            roof, x - 2.5, top + 1, x + wide / 2, top - rng.uniform(12, 18), x + wide + 2.5, top + 1
        )
        for window in (0.18, 0.6):
            pen.box("#7890a6", x + wide * window, top + 6, x + wide * (window + 0.22), top + 13)
        pen.box(DARK_WOOD, x + wide * 0.38, 59, x + wide * 0.64, 72)
        x += wide + rng.uniform(0.5, 4)
    pen.box("#d6caba", -4, 70, 104, 104)
    for _ in range(14):
        pen.oval("#c4b6a6", rng.uniform(0, 100), rng.uniform(74, 98), rng.uniform(3, 5), 1.5)


def meadow(pen, rng):
    hill(pen, rng, "#c4de96", 58, 5)
    mill = pen.at(rng.choice((rng.uniform(8, 22), rng.uniform(78, 92))), 66, rng.uniform(40, 48))
    mill.shape("#faf0e0", -16, 0, -10, -62, 10, -62, 16, 0)
    mill.shape(WOOD, -14, -60, 0, -82, 14, -60)
    turn = rng.uniform(0, 90)
    for quarter in range(4):
        sail = mill.at(0, -62, 100, tilt=turn + 90 * quarter)
        sail.shape(WHITE, 2, -4, 12, -6, 12, -48, 2, -48)
        sail.line(DARK_WOOD, 3, 0, 0, 0, -50)
    hill(pen, rng, "#a6ce70", 68, 4)
    hill(pen, rng, "#92c062", 84, 3)
    for _ in range(22):
        x, y = rng.uniform(0, 100), rng.uniform(72, 99)
        pen.oval(rng.choice((WHITE, "#ffe282", "#fab4c4")), x, y, 1.6, 1.6)


def harbour(pen, rng):
    pen.box("#70c4ce", -4, 50, 104, 104)
    for _ in range(16):
        x, y = rng.uniform(-4, 98), rng.uniform(53, 70)
        pen.line("#b2e4e6", 1, x, y, x + rng.uniform(4, 9), y)
    tower = pen.at(rng.choice((rng.uniform(9, 20), rng.uniform(80, 91))), 64, rng.uniform(46, 54))
    tower.oval("#848088", 0, -2, 40, 9)
    for band in range(5):
        low, high = 15 - 1.4 * band, 13.6 - 1.4 * band
        tower.shape(
            ("#e27464", WHITE)[band % 2],
            -low,
            -14 * band,
            low,
            -14 * band,
            high,
            -14 * band - 14,
            -high,
            -14 * band - 14,
        )
    tower.box("#ffe896", -7, -84, 7, -70)
    tower.shape("#605a68", -10, -84, 0, -96, 10, -84)
    pen.box("#ac927a", -4, 74, 104, 104)
    for y in (80, 87, 95):
        pen.line("#8a7260", 0.8, -4, y, 104, y)
    for x in range(rng.randrange(0, 14), 110, 24):
        pen.box("#7a6252", x - 2.5, 69, x + 2.5, 80)


def mountains(pen, rng):
    for fill, base, height, step in (("#babed8", 66, 46, 34), ("#8e94b8", 72, 44, 42)):
        x = rng.uniform(-8, 8)
        while x < 112:
            peak = pen.at(x, base, height * rng.uniform(0.85, 1.12))
            peak.shape(fill, -58, 0, 0, -100, 58, 0)
            peak.shape(WHITE, -20, -66, 0, -100, 20, -66, 9, -56, 0, -66, -9, -56)
            x += step * rng.uniform(0.85, 1.15)
    hill(pen, rng, "#a0a8ac", 72, 2)
    hill(pen, rng, "#8c969e", 86, 2.5)
    for _ in range(7):
        pen.oval("#bac0c6", rng.uniform(2, 98), rng.uniform(76, 97), rng.uniform(2, 4), 1.8)


PLACES = {draw.__name__: draw for draw in (forest, desert, village, meadow, harbour, mountains)}
PLACE_SKIES = {
    "forest": ("#c4e2d6", "#e8f4e2"),
    "desert": ("#fcd6aa", "#ffeed2"),
    "village": ("#d6d6f0", "#faece8"),
    "meadow": ("#9ed4f4", "#e2f2f8"),
    "harbour": ("#bee4f0", "#f4faf4"),
    "mountains": ("#ced6f0", "#f4ecf4"),
}
WEATHERS = {  # the sky's top and foot, and the light on the place
    "sunset": ("#f68b64", "#ffd092", "#ffceaa"),
    "night": ("#2a3068", "#6060a8", "#7a80c4"),
    "rain": ("#8591aa", "#a8b2c4", "#b8c0d0"),
    "snow": ("#c0cfe7", "#e6ecf9", "#f0f4fc"),
}


def gradient(size, top, foot):
    ramp = Image.new("RGB", (1, 2))
    ramp.putdata([rgb(top), rgb(foot)])
    return ramp.resize((1, size), Image.Resampling.BILINEAR).resize(
        (size, size), Image.Resampling.NEAREST
    )


def draw_background(page, place, sky):
    """The sky and the place in this weather; heroes and things keep their own colours, so they are
    drawn after it."""
    pixels, rng, pen = page.pixels, page.rng, page.pen
    if sky == "space":
        page.image.paste(gradient(pixels, "#161434", "#3a2c62"))
        stars(pen, rng, 40)
        pen.oval("#c6c4d2", 50, 112, 86, 38)
        for _ in range(5):
            pen.oval("#aaa8ba", rng.uniform(5, 95), rng.uniform(82, 97), rng.uniform(4, 8), 2.4)
        return
    top, foot, light = WEATHERS.get(sky, (*PLACE_SKIES[place], WHITE))
    page.image.paste(gradient(pixels, top, foot))
    if sky == "sunset":
        pen.oval("#ffe896", rng.uniform(35, 65), 46, 22, 22)
    elif sky == "night":
        stars(pen, rng, 22)
    else:
        for _ in range(rng.randint(1, 3)):
            cloud(
                pen.at(rng.uniform(5, 95), rng.uniform(6, 28), rng.uniform(14, 22)),
                mix(foot, WHITE, 0.6),
            )
    PLACES[place](Pen(pen.draw, pen.matrix, tint=light), rng)
    if sky == "snow":
        hill(pen, rng, "#e2eaf6", 76, 2)
        hill(pen, rng, WHITE, 86, 2)


def stars(pen, rng, count):
    for _ in range(count):
        pen.oval("#fff6ce", rng.uniform(1, 99), rng.uniform(1, 60), *[rng.uniform(0.4, 0.9)] * 2)


def cloud(pen, fill):
    for x, y, rx, ry in ((-60, 0, 60, 26), (50, 4, 64, 24), (-8, -26, 46, 40), (36, -16, 36, 30)):
        pen.oval(fill, x, y, rx, ry)
