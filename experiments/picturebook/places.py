"""The places and the weather over them: sky, far and near layers.

The ground is clear from 66 down.
"""

import math

from PIL import Image

from experiments.picturebook.pen import DARK_WOOD, WHITE, WOOD, Pen, mix


def hill(pen, rng, fill, y, height):
    phase, length = rng.uniform(0, 6.3), rng.uniform(11, 17)
    pen.shape(
        fill,
        *((x, y - height * math.sin(phase + x / length)) for x in range(-4, 109, 7)),
        (104, 104),
        (-4, 104),
    )


def forest(pen, rng):
    rows = ((158, 200, 180), 66, 42, 9), ((86, 150, 128), 70, 50, 15), ((44, 104, 92), 74, 60, 26)
    for fill, base, height, step in rows:
        x = rng.uniform(-6, 4)
        while x < 106:
            tall, wide = height * rng.uniform(0.82, 1.15), height * 0.2
            pen.box(DARK_WOOD, x - 1.5, base - 8, x + 1.5, base + 3)
            for low, high in ((6, 0.52), (0.34 * tall, 0.8), (0.62 * tall, 1)):
                pen.shape(
                    fill, (x - wide, base - low), (x, base - high * tall), (x + wide, base - low)
                )
                wide *= 0.8
            x += step * rng.uniform(0.8, 1.25)
    hill(pen, rng, (118, 158, 104), 72, 1.5)
    hill(pen, rng, (98, 140, 92), 86, 2)
    for _ in range(5):
        x, y = rng.uniform(4, 96), rng.uniform(80, 97)
        pen.line((70, 116, 84), 1, (x - 2.5, y - 5), (x, y), (x + 2.5, y - 5))


def desert(pen, rng):
    x = rng.uniform(20, 75)
    pen.shape((238, 190, 136), (x - 24, 66), (x, 34), (x + 24, 66))
    pen.shape((224, 168, 116), (x, 34), (x + 24, 66), (x + 5, 66))
    hill(pen, rng, (243, 196, 132), 62, 4)
    hill(pen, rng, (235, 176, 106), 72, 3)
    hill(pen, rng, (225, 160, 90), 88, 3)
    for x in (rng.uniform(4, 18), rng.uniform(82, 96)):
        cactus = pen.at(x, rng.uniform(70, 77), rng.uniform(26, 38))
        cactus.line((92, 138, 84), 20, (0, -8), (0, -92))
        cactus.line((92, 138, 84), 14, (0, -34), (30, -40), (30, -66))
        cactus.line((92, 138, 84), 14, (0, -46), (-30, -52), (-30, -76))


def village(pen, rng):
    hill(pen, rng, (206, 212, 178), 56, 3)
    walls = [(250, 236, 212), (236, 214, 196), (226, 226, 232), (246, 220, 180)]
    x = rng.uniform(-10, -2)
    while x < 100:
        wide, tall = rng.uniform(18, 24), rng.uniform(22, 34)
        top, wall, roof = (
            70 - tall,
            rng.choice(walls),
            mix((190, 96, 74), (150, 84, 80), rng.random()),
        )
        pen.box(wall, x, top, x + wide, 72)
        pen.shape(
            roof,
            (x - 2.5, top + 1),
            (x + wide / 2, top - rng.uniform(12, 18)),
            (x + wide + 2.5, top + 1),
        )
        for window in (0.18, 0.6):
            pen.box(
                (120, 144, 166), x + wide * window, top + 6, x + wide * (window + 0.22), top + 13
            )
        pen.box(DARK_WOOD, x + wide * 0.38, 59, x + wide * 0.64, 72)
        x += wide + rng.uniform(0.5, 4)
    pen.box((214, 202, 186), -4, 70, 104, 104)
    for _ in range(14):
        pen.oval((196, 182, 166), rng.uniform(0, 100), rng.uniform(74, 98), rng.uniform(3, 5), 1.5)


def meadow(pen, rng):
    hill(pen, rng, (196, 222, 150), 58, 5)
    mill = pen.at(rng.choice((rng.uniform(8, 22), rng.uniform(78, 92))), 66, rng.uniform(40, 48))
    mill.shape((250, 240, 224), (-16, 0), (-10, -62), (10, -62), (16, 0))
    mill.shape(WOOD, (-14, -60), (0, -82), (14, -60))
    turn = rng.uniform(0, 90)
    for quarter in range(4):
        sail = mill.at(0, -62, 100, tilt=turn + 90 * quarter)
        sail.shape(WHITE, (2, -4), (12, -6), (12, -48), (2, -48))
        sail.line(DARK_WOOD, 3, (0, 0), (0, -50))
    hill(pen, rng, (166, 206, 112), 68, 4)
    hill(pen, rng, (146, 192, 98), 84, 3)
    for _ in range(22):
        x, y = rng.uniform(0, 100), rng.uniform(72, 99)
        pen.oval(rng.choice((WHITE, (255, 226, 130), (250, 180, 196))), x, y, 1.6, 1.6)


def harbour(pen, rng):
    pen.box((112, 196, 206), -4, 50, 104, 104)
    for _ in range(16):
        x, y = rng.uniform(-4, 98), rng.uniform(53, 70)
        pen.line((178, 228, 230), 1, (x, y), (x + rng.uniform(4, 9), y))
    tower = pen.at(rng.choice((rng.uniform(9, 20), rng.uniform(80, 91))), 64, rng.uniform(46, 54))
    tower.oval((132, 128, 136), 0, -2, 40, 9)
    for band in range(5):
        low, high = 15 - 1.4 * band, 13.6 - 1.4 * band
        tower.shape(
            ((226, 116, 100), WHITE)[band % 2],
            (-low, -14 * band),
            (low, -14 * band),
            (high, -14 * band - 14),
            (-high, -14 * band - 14),
        )
    tower.box((255, 232, 150), -7, -84, 7, -70)
    tower.shape((96, 90, 104), (-10, -84), (0, -96), (10, -84))
    pen.box((172, 146, 122), -4, 74, 104, 104)
    for y in (80, 87, 95):
        pen.line((138, 114, 96), 0.8, (-4, y), (104, y))
    for x in range(rng.randrange(0, 14), 110, 24):
        pen.box((122, 98, 82), x - 2.5, 69, x + 2.5, 80)


def mountains(pen, rng):
    for fill, base, height, step in (((186, 190, 216), 66, 46, 34), ((142, 148, 184), 72, 44, 42)):
        x = rng.uniform(-8, 8)
        while x < 112:
            peak = pen.at(x, base, height * rng.uniform(0.85, 1.12))
            peak.shape(fill, (-58, 0), (0, -100), (58, 0))
            peak.shape(WHITE, (-20, -66), (0, -100), (20, -66), (9, -56), (0, -66), (-9, -56))
            x += step * rng.uniform(0.85, 1.15)
    hill(pen, rng, (160, 168, 172), 72, 2)
    hill(pen, rng, (140, 150, 158), 86, 2.5)
    for _ in range(7):
        pen.oval((186, 192, 198), rng.uniform(2, 98), rng.uniform(76, 97), rng.uniform(2, 4), 1.8)


PLACES = {draw.__name__: draw for draw in (forest, desert, village, meadow, harbour, mountains)}
PLACE_SKIES = {
    "forest": ((196, 226, 214), (232, 244, 226)),
    "desert": ((252, 214, 170), (255, 238, 210)),
    "village": ((214, 214, 240), (250, 236, 232)),
    "meadow": ((158, 212, 244), (226, 242, 248)),
    "harbour": ((190, 228, 240), (244, 250, 244)),
    "mountains": ((206, 214, 240), (244, 236, 244)),
}
WEATHERS = {  # the sky's top and foot, and the light on the place
    "sunset": ((246, 139, 100), (255, 208, 146), (255, 206, 170)),
    "night": ((42, 48, 104), (96, 96, 168), (122, 128, 196)),
    "rain": ((133, 145, 170), (168, 178, 196), (184, 192, 208)),
    "snow": ((192, 207, 231), (230, 236, 249), (240, 244, 252)),
}


def gradient(size, top, foot):
    ramp = Image.new("RGB", (1, 2))
    ramp.putdata([top, foot])
    return ramp.resize((1, size), Image.Resampling.BILINEAR).resize(
        (size, size), Image.Resampling.NEAREST
    )


def draw_background(page, place, sky):
    """The sky and the place in this weather; heroes and things keep their own colours, so they are
    drawn after it."""
    pixels, rng, pen = page.pixels, page.rng, page.pen
    if sky == "space":
        page.image.paste(gradient(pixels, (22, 20, 52), (58, 44, 98)))
        stars(pen, rng, 40)
        pen.oval((198, 196, 210), 50, 112, 86, 38)
        for _ in range(5):
            pen.oval(
                (170, 168, 186), rng.uniform(5, 95), rng.uniform(82, 97), rng.uniform(4, 8), 2.4
            )
        return
    top, foot, light = WEATHERS.get(sky, (*PLACE_SKIES[place], WHITE))
    page.image.paste(gradient(pixels, top, foot))
    if sky == "sunset":
        pen.oval((255, 232, 150), rng.uniform(35, 65), 46, 22, 22)
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
        hill(pen, rng, (226, 234, 246), 76, 2)
        hill(pen, rng, WHITE, 86, 2)


def stars(pen, rng, count):
    for _ in range(count):
        pen.oval(
            (255, 246, 206), rng.uniform(1, 99), rng.uniform(1, 60), *[rng.uniform(0.4, 0.9)] * 2
        )


def cloud(pen, fill):
    for x, y, rx, ry in ((-60, 0, 60, 26), (50, 4, 64, 24), (-8, -26, 46, 40), (36, -16, 36, 30)):
        pen.oval(fill, x, y, rx, ry)
