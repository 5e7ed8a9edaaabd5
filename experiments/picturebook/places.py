"""The places and the weather over them: sky, far and near layers.

The ground is clear from 34 down.
"""

import math

from PIL import Image, ImageOps

from experiments.picturebook.pen import DARK_WOOD, WHITE, WOOD, mix


def hill(pen, fill, y, height):
    uniform = pen.page.rng.uniform
    phase, length = uniform(0, 6.3), uniform(11, 17)
    edge = [(x, y + height * math.sin(phase + x / length)) for x in range(-4, 109, 7)]
    pen.shape(fill, *edge, (104, -4), (-4, -4))


def forest(pen, uniform):
    rows = ("#9ec8b4", 34, 42, 9), ("#569680", 30, 50, 15), ("#2c685c", 26, 60, 26)
    for fill, base, height, step in rows:
        x = uniform(-6, 4)
        while x < 106:
            tall, wide = height * uniform(0.82, 1.15), height * 0.2
            tree = pen.at(x, base)
            tree.box(DARK_WOOD, 1.5, -3, 8)
            for low, high in ((6, 0.52), (0.34 * tall, 0.8), (0.62 * tall, 1)):
                tree.symmetric(fill, wide, low, 0, high * tall)
                wide *= 0.8
            x += step * uniform(0.8, 1.25)
    hill(pen, "#769e68", 28, 1.5)
    hill(pen, "#628c5c", 14, 2)
    for x, y in pen.scatter(5, 4, 96, 20, 3):
        pen.line("#467454", 1, x - 2.5, y + 5, x, y, x + 2.5, y + 5)


def desert(pen, uniform):
    pyramid = pen.at(uniform(20, 75), 34)
    pyramid.symmetric("#eebe88", 24, 0, 0, 32)
    pyramid.shape("#e0a874", 0, 32, 24, 0, 5, 0)
    hill(pen, "#f3c484", 38, 4)
    hill(pen, "#ebb06a", 28, 3)
    hill(pen, "#e1a05a", 12, 3)
    for x in (uniform(4, 18), uniform(82, 96)):
        cactus = pen.at(x, uniform(30, 23), uniform(26, 38))
        cactus.line("#5c8a54", 20, 0, 8, 0, 92)
        cactus.line("#5c8a54", 14, 0, 34, 30, 40, 30, 66)
        cactus.line("#5c8a54", 14, 0, 46, -30, 52, -30, 76)


def village(pen, uniform):
    hill(pen, "#ced4b2", 44, 3)
    x = uniform(-10, -2)
    while x < 100:
        wide, top = uniform(18, 24), 30 + uniform(22, 34)
        wall = pen.page.rng.choice(("#faecd4", "#ecd6c4", "#e2e2e8", "#f6dcb4"))
        roof = mix("#be604a", "#965450", pen.page.rng.random())
        house = pen.at(x + wide / 2)
        house.box(wall, wide / 2, 28, top)
        house.symmetric(roof, wide / 2 + 2.5, top - 1, 0, top + uniform(12, 18))
        for side in (-0.21, 0.21):
            house.at(side * wide, top).box("#7890a6", 0.11 * wide, -13, -6)
        house.box(DARK_WOOD, 0.13 * wide, 28, 41)
        x += wide + uniform(0.5, 4)
    pen.box("#d6caba", 104, 0, 30)
    for x, y in pen.scatter(14, 0, 100, 26, 2):
        pen.oval("#c4b6a6", x, y, uniform(3, 5), 1.5)


def meadow(pen, uniform):
    hill(pen, "#c4de96", 42, 5)
    mill = pen.at(pen.page.rng.choice((uniform(8, 22), uniform(78, 92))), 34, uniform(40, 48))
    mill.symmetric("#faf0e0", 16, 0, 10, 62)
    mill.symmetric(WOOD, 14, 60, 0, 82)
    turn = uniform(0, 90)
    for quarter in range(4):
        sail = mill.at(0, 62, tilt=turn + 90 * quarter)
        sail.shape(WHITE, 2, 4, 12, 6, 12, 48, 2, 48)
        sail.line(DARK_WOOD, 3, 0, 0, 0, 50)
    hill(pen, "#a6ce70", 32, 4)
    hill(pen, "#92c062", 16, 3)
    for x, y in pen.scatter(22, 0, 100, 28, 1):
        pen.oval(pen.page.rng.choice((WHITE, "#ffe282", "#fab4c4")), x, y, 1.6)


def harbour(pen, uniform):
    pen.box("#70c4ce", 104, 0, 50)
    for x, y in pen.scatter(16, -4, 98, 47, 30):
        pen.line("#b2e4e6", 1, x, y, x + uniform(4, 9), y)
    tower = pen.at(pen.page.rng.choice((uniform(9, 20), uniform(80, 91))), 36, uniform(46, 54))
    tower.oval("#848088", 0, 2, 40, 9)
    for band in range(5):
        low, fill = 14 * band, ("#e27464", WHITE)[band % 2]
        tower.symmetric(fill, 15 - low / 10, low, 13.6 - low / 10, low + 14)
    tower.box("#ffe896", 7, 70, 84)
    tower.symmetric("#605a68", 10, 84, 0, 96)
    pen.box("#ac927a", 104, 0, 26)
    for y in (20, 13, 5):
        pen.line("#8a7260", 0.8, -4, y, 104, y)
    for x in range(pen.page.rng.randrange(0, 14), 110, 24):
        pen.at(x, 20).box("#7a6252", 2.5, 0, 11)


def mountains(pen, uniform):
    for fill, base, height, step in (("#babed8", 34, 46, 34), ("#8e94b8", 28, 44, 42)):
        x = uniform(-8, 8)
        while x < 112:
            peak = pen.at(x, base, height * uniform(0.85, 1.12))
            peak.symmetric(fill, 58, 0, 0, 100)
            peak.symmetric(WHITE, 0, 66, 9, 56, 20, 66, 0, 100)
            x += step * uniform(0.85, 1.15)
    hill(pen, "#a0a8ac", 28, 2)
    hill(pen, "#8c969e", 14, 2.5)
    for x, y in pen.scatter(7, 2, 98, 24, 3):
        pen.oval("#bac0c6", x, y, uniform(2, 4), 1.8)


PLACES = {  # and the sky's top and foot
    "forest": (forest, "#c4e2d6", "#e8f4e2"),
    "desert": (desert, "#fcd6aa", "#ffeed2"),
    "village": (village, "#d6d6f0", "#faece8"),
    "meadow": (meadow, "#9ed4f4", "#e2f2f8"),
    "harbour": (harbour, "#bee4f0", "#f4faf4"),
    "mountains": (mountains, "#ced6f0", "#f4ecf4"),
}
WEATHERS = {  # the sky's top and foot, and the light on the place
    "sunset": ("#f68b64", "#ffd092", "#ffceaa"),
    "night": ("#2a3068", "#6060a8", "#7a80c4"),
    "rain": ("#8591aa", "#a8b2c4", "#b8c0d0"),
    "snow": ("#c0cfe7", "#e6ecf9", "#f0f4fc"),
}


def paint_sky(page, top, foot):
    column = ImageOps.colorize(Image.linear_gradient("L").resize((1, page.pixels)), top, foot)
    page.image.paste(column.resize(page.image.size, Image.Resampling.NEAREST))


def draw_background(page, place, sky):
    """The sky and the place in this weather; heroes and things keep their own colours, so they are
    drawn after it."""
    pen, uniform = page.pen, page.rng.uniform
    if sky == "space":
        paint_sky(page, "#161434", "#3a2c62")
        stars(pen, 40)
        pen.oval("#c6c4d2", 50, -12, 86, 38)
        for x, y in pen.scatter(5, 5, 95, 18, 3):
            pen.oval("#aaa8ba", x, y, uniform(4, 8), 2.4)
        return
    draw_place, *day = PLACES[place]
    top, foot, light = WEATHERS.get(sky, (*day, WHITE))
    paint_sky(page, top, foot)
    if sky == "sunset":
        pen.oval("#ffe896", uniform(35, 65), 54, 22)
    elif sky == "night":
        stars(pen, 22)
    else:
        for _ in range(page.rng.randint(1, 3)):
            cloud = pen.at(uniform(5, 95), uniform(94, 72), uniform(14, 22))
            puffs = (-60, 0, 60, 26), (50, -4, 64, 24), (-8, 26, 46, 40), (36, 16, 36, 30)
            cloud.ovals(mix(foot, WHITE, 0.6), *puffs)
    pen.tint = light
    draw_place(pen, uniform)
    pen.tint = WHITE
    if sky == "snow":
        hill(pen, "#e2eaf6", 24, 2)
        hill(pen, WHITE, 14, 2)


def stars(pen, count):
    for x, y in pen.scatter(count, 1, 99, 99, 40):
        pen.oval("#fff6ce", x, y, pen.page.rng.uniform(0.4, 0.9))
