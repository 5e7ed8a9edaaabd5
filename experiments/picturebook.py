"""A drawn world in VIST's own format: picture-book stories whose every photo and sentence is known
to the last word.

For people who have no data yet, and for measuring what real data cannot tell. `python
picturebook.py` draws the dataset; `python -m experiments.picturebook --check stories.json` says how far a
system's stories follow their pictures.

Five heroes x five colours x six places x six objects x six plots of five beats, told in two moods.
The pictures show all of it but the mood: a model has to read the rest off the pictures, and can
only choose the mood.
"""

import json
import math
import multiprocessing
import os
import random
import re
import signal
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, product
from pathlib import Path

from utils.cli import BOOK, Parser, UserError, answer_early, positive_int, run, warn
from utils.files import read_json, whole, write_json

SPLITS = {"train": 4000, "val": 400, "test": 400}  # stories


def parser():
    parser = Parser(
        prog="python -m experiments.picturebook",
        description="Draw a picture book as a data set, or check stories about it.",
    )
    parser.add_argument("--output", default=BOOK, help="folder to write")
    for split, count in SPLITS.items():
        parser.add_argument(
            f"--{split}", type=positive_int, default=count, help=f"stories in {split}"
        )
    parser.add_argument(
        "--stories_per_album",
        type=positive_int,
        default=1,
        help="tellings of the same five pictures",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes")
    parser.add_argument(
        "--size", type=positive_int, default=128, help="width and height of a picture in pixels"
    )
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count(), help="processes that draw"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a picture book of other settings"
    )
    parser.add_argument(
        "--check", metavar="FILE", help="draw nothing: check these stories against --world"
    )
    parser.add_argument("--world", default=BOOK, help="picture book that --check reads")
    parser.add_argument("--json", metavar="FILE", help="also write the figures of --check here")
    return parser


def parse(arguments=None):
    options = parser().parse_args(arguments)
    if options.json and not options.check:
        raise UserError("--json: goes with --check")
    return options


if __name__ == "__main__":
    answer_early(parse)


from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from utils.stories import read_stories

COLOURS = {
    "red": (222, 62, 58),
    "yellow": (250, 200, 48),
    "green": (76, 176, 80),
    "blue": (58, 128, 222),
    "purple": (146, 88, 196),
}
SLOTS = {
    "hero": ("fox", "rabbit", "bear", "frog", "penguin"),
    "colour": tuple(COLOURS),
    "place": ("forest", "desert", "village", "meadow", "harbour", "mountains"),
    "object": ("kite", "balloon", "boat", "drum", "robot", "pumpkin"),
}
MOODS = ("cheerful", "gloomy")
BEATS = 5
REFERENCES = 5  # human stories an album, as VIST has them
WORLD_FILE = "a picture book's world.json (python -m experiments.picturebook draws one)"

CREAM, WHITE, INK, PINK = (255, 249, 236), (255, 255, 255), (52, 44, 60), (246, 160, 160)
WOOD, DARK_WOOD, GREY, ORANGE = (176, 124, 82), (128, 86, 58), (168, 172, 184), (242, 140, 44)

# --------------------------------------------------------------------------------------------------
# The pen: everything is drawn as polygons in a frame that can be moved, scaled, mirrored and
# tilted.


def circle(corners):
    return [
        (math.cos(2 * math.pi * k / corners), math.sin(2 * math.pi * k / corners))
        for k in range(corners)
    ]


def arc(steps):
    """Half a circle, from right to left."""
    return circle(2 * steps)[: steps + 1]


def star(points, inner):
    return [(u * r, v * r) for (u, v), r in zip(circle(2 * points), (1, inner) * points)]


ROUND, DOT = circle(28), circle(12)


def mix(one, other, share):
    """A colour between two: `share` 0 is the first, 1 the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other))


class Pen:
    """Draws in a frame of its own: `matrix` takes (x, y) to pixels (a x + b y + c, d x + e y + f).

    halo: draw every shape this many pixels larger and in cream, for a paper edge; tint: the light
    it all stands in.
    """

    def __init__(self, draw, matrix, halo=0, tint=WHITE):
        self.draw, self.matrix, self.halo, self.tint = draw, matrix, halo, tint
        self.scale = math.sqrt(abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]))

    def at(self, x, y, size=100, flip=False, tilt=0):
        """A pen whose origin is (x, y) of this frame, whose 100 units are `size` of this frame's;
        `tilt` in degrees."""
        a, b, c, d, e, f = self.matrix
        cos, sin = (size / 100 * trig(math.radians(tilt)) for trig in (math.cos, math.sin))
        u, v = (-cos, sin) if flip else (cos, -sin)
        return Pen(
            self.draw,
            (
                a * u + b * sin,
                a * v + b * cos,
                a * x + b * y + c,
                d * u + e * sin,
                d * v + e * cos,
                d * x + e * y + f,
            ),
            self.halo,
            self.tint,
        )

    def colour(self, fill):
        return (
            CREAM
            if self.halo
            else tuple(part * light // 255 for part, light in zip(fill, self.tint))
        )

    def pixels(self, points):
        a, b, c, d, e, f = self.matrix
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def shape(self, fill, *points):
        pixels = self.pixels(points)
        if self.halo:
            self.draw.line(pixels + pixels[:2], CREAM, round(2 * self.halo), joint="curve")
        self.draw.polygon(pixels, self.colour(fill))

    def oval(self, fill, x, y, rx, ry, tilt=0):
        a, b, c, d, e, f = self.matrix
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        c, f = a * x + b * y + c, d * x + e * y + f
        rx, ry = rx + self.halo / self.scale, ry + self.halo / self.scale
        a, b = rx * (a * cos + b * sin), ry * (b * cos - a * sin)
        d, e = rx * (d * cos + e * sin), ry * (e * cos - d * sin)
        small = max(rx, ry) * self.scale < 5
        if small and self.halo:  # a detail inside something larger, which has the paper edge
            return
        corners = DOT if small else ROUND
        self.draw.polygon(
            [(a * u + b * v + c, d * u + e * v + f) for u, v in corners], self.colour(fill)
        )

    def line(self, fill, width, *points):
        pixels, width = self.pixels(points), max(1, round(width * self.scale + 2 * self.halo))
        fill = self.colour(fill)
        self.draw.line(pixels, fill, width, joint="curve")
        if width > 3:
            for x, y in (pixels[0], pixels[-1]):
                self.draw.ellipse(
                    (x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill
                )

    def box(self, fill, left, top, right, bottom):
        self.shape(fill, (left, top), (right, top), (right, bottom), (left, bottom))


# --------------------------------------------------------------------------------------------------
# Heroes: feet at the origin, 100 units tall.

HANDS = {
    "stand": ((-31, -20), (31, -20)),
    "hold": ((-30, -20), (38, -38)),
    "wave": ((-30, -20), (41, -66)),
    "cheer": ((-41, -66), (41, -66)),
    "hug": ((-14, -24), (14, -24)),
    "walk": ((-33, -28), (33, -24)),
    "hold2": ((-34, -32), (34, -32)),
}
HEADS = {"fox": -62, "rabbit": -54, "bear": -62, "frog": -60, "penguin": -64}


def tail_and_ears(pen, hero, fur, light):
    if hero == "fox":
        pen.oval(fur, 32, -24, 13, 27, 35)
        pen.oval(CREAM, 43, -40, 8, 11, 35)
        for side in (-1, 1):
            pen.shape(fur, (side * 29, -68), (side * 27, -106), (side * 3, -82))
            pen.shape(INK, (side * 26, -82), (side * 25, -100), (side * 13, -84))
    elif hero == "rabbit":
        pen.oval(CREAM, 24, -14, 9, 9)
        for side in (-1, 1):
            pen.oval(fur, side * 13, -90, 9.5, 28, side * 12)
            pen.oval(PINK, side * 13, -90, 4.5, 20, side * 12)
    elif hero == "bear":
        for side in (-1, 1):
            pen.oval(fur, side * 23, -84, 12, 12)
            pen.oval(light, side * 23, -84, 6.5, 6.5)
    elif hero == "frog":
        for side in (-1, 1):
            pen.oval(fur, side * 18, -82, 13, 13)


def body(pen, hero, fur, dark, light, pose):
    stride = 6 if pose == "walk" else 0
    feet = ORANGE if hero == "penguin" else dark
    wide, foot = {"frog": (26, 14), "penguin": (13, 12)}.get(hero, (13, 11))
    pen.oval(feet, -wide - stride, -5, foot, 6.5)
    pen.oval(feet, wide + stride, -5 - stride, foot, 6.5)
    pen.oval(fur, 0, -28, 27 if hero in ("bear", "penguin") else 24, 28)
    pen.oval(WHITE if hero == "penguin" else light, 0, -25, 15, 19)
    for side, (x, y) in zip((-1, 1), HANDS[pose]):
        pen.line(dark if hero == "penguin" else fur, 11, (side * 19, -40), (x, y))


def face(pen, hero, light, asleep):
    middle = HEADS[hero]
    eye, eye_x, eye_y = WHITE, 11, middle - 3
    if hero == "fox":
        pen.shape(
            CREAM,
            (-30, middle + 1),
            (-14, middle + 2),
            (0, middle + 12),
            (14, middle + 2),
            (30, middle + 1),
            (14, middle + 20),
            (0, middle + 26),
            (-14, middle + 20),
        )
        pen.oval(INK, 0, middle + 20, 5, 4.5)
    elif hero == "rabbit":
        pen.oval(CREAM, 0, middle + 11, 12, 9)
        pen.oval(PINK, 0, middle + 6, 4, 3)
        pen.box(WHITE, -3, middle + 13, 3, middle + 19)
    elif hero == "bear":
        pen.oval(light, 0, middle + 9, 14, 11)
        pen.oval(INK, 0, middle + 4, 6, 4.5)
        pen.line(INK, 1.6, (-6, middle + 13), (0, middle + 15), (6, middle + 13))
    elif hero == "frog":
        eye_x, eye_y = 18, middle - 22
        pen.line(
            INK,
            2.4,
            (-22, middle + 4),
            (-12, middle + 10),
            (0, middle + 12),
            (12, middle + 10),
            (22, middle + 4),
        )
        for side in (-1, 1):
            pen.oval(WHITE, side * eye_x, eye_y, 9, 9)
    else:
        for side in (-1, 1):
            pen.oval(WHITE, side * 10, middle, 12, 14)
        pen.oval(WHITE, 0, middle + 9, 17, 11)
        pen.shape(ORANGE, (-9, middle + 3), (9, middle + 3), (0, middle + 13))
    for side in (-1, 1):
        if asleep:
            pen.line(
                INK,
                2,
                (side * eye_x - 5, eye_y),
                (side * eye_x, eye_y + 3),
                (side * eye_x + 5, eye_y),
            )
        else:
            pen.oval(INK, side * eye_x, eye_y, 4.2, 5.2)
            pen.oval(eye, side * eye_x + 1.4, eye_y - 1.8, 1.5, 1.7)
        pen.oval(PINK, side * 20, middle + 9, 4.5, 3)


def draw_hero(pen, page, pose="stand", asleep=False, hat=False, helmet=False, flip=False):
    hero, fur = page.hero, page.fur
    dark, light = mix(fur, INK, 0.22), mix(fur, CREAM, 0.72)
    if hero == "rabbit":
        pen = pen.at(0, 0, 92)
    middle = HEADS[hero]
    tail_and_ears(pen, hero, fur, light)
    body(pen, hero, fur, dark, light, pose)
    pen.oval(
        fur,
        0,
        middle,
        {"frog": 34, "rabbit": 26}.get(hero, 31),
        {"frog": 21, "rabbit": 23}.get(hero, 26),
    )
    if not pen.halo:  # nothing of a face reaches over the edge
        face(pen, hero, light, asleep)
    if hat:
        cap = pen.at(0, middle - (34 if hero == "frog" else 22))
        for x, y in ((-11, -16), (11, -16), (0, -22)):
            cap.oval(WHITE, x, y, 12, 10)
        cap.box(WHITE, -13, -14, 13, 2)
        cap.line(GREY, 1.5, (-13, -2), (13, -2))
    if helmet:
        pen.line(
            mix(GREY, WHITE, 0.5), 5, *((40 * u, middle - 4 + 38 * v) for u, v in ROUND + ROUND[:1])
        )


# --------------------------------------------------------------------------------------------------
# Objects: their middle at the origin, 100 units tall, in colours of their own.


def kite(pen):
    teal, sky = (24, 176, 178), (126, 224, 214)
    pen.line(INK, 2.5, (0, 30), (10, 42), (-4, 52), (6, 64))
    for x, y in ((9, 42), (-3, 53)):
        pen.shape(PINK, (x - 9, y - 5), (x + 9, y + 5), (x + 9, y - 5), (x - 9, y + 5))
    pen.shape(teal, (0, -50), (38, -12), (0, 36), (-38, -12))
    pen.shape(sky, (0, -50), (38, -12), (0, -12))
    pen.shape(sky, (0, 36), (-38, -12), (0, -12))


def balloon(pen):
    pen.line(INK, 2.5, (0, 22), (5, 34), (-4, 46), (2, 56))
    pen.shape((214, 50, 128), (-6, 27), (6, 27), (0, 18))
    pen.oval((240, 84, 156), 0, -14, 33, 37)
    pen.oval((255, 196, 224), -12, -28, 7, 11, 25)


def boat(pen):
    pen.line(DARK_WOOD, 5, (0, 20), (0, -52))
    pen.shape(WHITE, (4, -48), (42, 12), (4, 12))
    pen.shape((214, 220, 230), (-4, -40), (-34, 12), (-4, 12))
    pen.shape((38, 50, 92), (-48, 18), (48, 18), (32, 46), (-32, 46))
    pen.line(WHITE, 4, (-38, 27), (38, 27))


def drum(pen):
    pen.box((250, 234, 200), -38, -22, 38, 32)
    pen.oval((250, 234, 200), 0, 32, 38, 12)
    pen.line(
        (120, 60, 40), 5, (-36, 34), (-24, -10), (-12, 38), (0, -8), (12, 38), (24, -10), (36, 34)
    )
    pen.oval((120, 60, 40), 0, -20, 41, 15)
    pen.oval(WHITE, 0, -22, 36, 11)
    pen.line(WOOD, 6, (-34, -52), (-6, -22))
    pen.line(WOOD, 6, (34, -52), (6, -22))


def robot(pen):
    steel, dark = (172, 182, 196), (98, 108, 124)
    pen.line(dark, 4, (0, -34), (0, -48))
    pen.oval((255, 120, 90), 0, -50, 6, 6)
    for side in (-1, 1):
        pen.line(dark, 8, (side * 22, 4), (side * 38, 20))
        pen.box(dark, side * 13 - 7, 30, side * 13 + 7, 50)
    pen.box(steel, -26, -6, 26, 36)
    pen.box(steel, -30, -40, 30, -6)
    pen.box(INK, -22, -32, 22, -14)
    for side in (-1, 1):
        pen.oval((150, 240, 255), side * 11, -23, 6, 6)
    pen.oval((255, 214, 90), -8, 14, 6, 6)
    pen.oval((255, 120, 90), 9, 14, 6, 6)


def pumpkin(pen):
    deep = (226, 112, 24)
    pen.line((96, 120, 60), 9, (0, -24), (6, -46))
    for x, fill in (
        (-26, deep),
        (26, deep),
        (-13, (244, 140, 38)),
        (13, (244, 140, 38)),
        (0, (252, 162, 60)),
    ):
        pen.oval(fill, x, 8, 20, 34)


OBJECTS = {draw.__name__: draw for draw in (kite, balloon, boat, drum, robot, pumpkin)}

# --------------------------------------------------------------------------------------------------
# Places: sky, far and near layers; the ground is clear from 66 down.


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


# --------------------------------------------------------------------------------------------------
# Things: feet at the origin and 100 units tall, unless they float (then their middle is at the
# origin).


def draw_object(pen, page):
    OBJECTS[page.object](pen)


def sun(pen, page):
    for k in range(12):
        pen.at(0, 0, tilt=30 * k).shape((255, 214, 110), (-7, -34), (7, -34), (0, -52))
    pen.oval((255, 226, 130), 0, 0, 34, 34)


def moon(pen, page):
    pen.oval((255, 244, 200), 0, 0, 50, 50)
    for x, y, r in ((-16, -12, 9), (14, 8, 12), (-8, 24, 6)):
        pen.oval((238, 222, 172), x, y, r, r)


def wind(pen, page):
    for y, left, right in ((-44, -60, 24), (-14, -74, 0), (16, -48, 44), (44, -70, 16)):
        radii = [13 - 0.6 * t for t in range(16)]
        curl = [
            (right + r * math.sin(t / 3), y - 13 + r * math.cos(t / 3)) for t, r in enumerate(radii)
        ]
        pen.line(WHITE, 5, (left, y), *curl)


def footprints(pen, page):
    for k in range(7):
        x, y = -230 + 68 * k, -22 if k % 2 else 22
        pen.oval(INK, x, y, 16, 13)
        for toe in (-12, 0, 12):
            pen.oval(INK, x + 22 - abs(toe) / 3, y + toe, 6, 5)


def magnifier(pen, page):
    pen.line(DARK_WOOD, 13, (24, 26), (48, 58))
    pen.oval(INK, 0, -8, 44, 44)
    pen.oval((214, 240, 250), 0, -8, 34, 34)
    pen.line(WHITE, 6, (-18, -6), (-4, -26))


def branch(pen, page):
    pen.line(DARK_WOOD, 14, (-60, 0), (60, 6))
    pen.line(DARK_WOOD, 8, (-30, 2), (-50, -16))
    for x, y in ((-54, -22), (-62, 8), (-44, 12)):
        pen.oval((130, 160, 110), x, y, 14, 8, 30)


def owl(pen, page):
    brown, pale = (140, 112, 92), (232, 216, 192)
    for side in (-1, 1):
        pen.shape(brown, (side * 34, -76), (side * 36, -106), (side * 8, -90))
    pen.oval(brown, 0, -48, 42, 48)
    pen.oval(pale, 0, -34, 26, 30)
    for side in (-1, 1):
        pen.oval(mix(brown, INK, 0.3), side * 40, -40, 11, 28, side * -10)
        pen.oval(WHITE, side * 17, -66, 18, 18)
        pen.oval(INK, side * 15, -66, 8, 8)
        pen.oval(ORANGE, side * 12, 0, 8, 6)
    pen.shape(ORANGE, (-7, -58), (7, -58), (0, -44))


def bubble(pen, page):
    pen.oval(WHITE, 0, 0, 72, 52)
    pen.shape(WHITE, (30, 36), (62, 22), (84, 60))
    draw_object(pen.at(0, 0, 82), page)


def hearts(pen, page):
    for x, y, r in ((-62, 8, 17), (-26, -30, 13), (30, -30, 17), (66, 4, 13)):
        fill = (236, 72, 110)
        pen.oval(fill, x - r * 0.55, y, r * 0.66, r * 0.62)
        pen.oval(fill, x + r * 0.55, y, r * 0.66, r * 0.62)
        pen.shape(fill, (x - r * 1.14, y + r * 0.2), (x + r * 1.14, y + r * 0.2), (x, y + r * 1.45))


def cake(pen, page):
    sponge, icing = (250, 226, 190), (246, 184, 196)
    for width, low, high, fill in ((46, 0, 32, sponge), (34, 32, 58, icing), (22, 58, 80, sponge)):
        pen.box(fill, -width, -high, width, -low)
        pen.line(WHITE, 7, (-width + 2, -high), (width - 2, -high))
        for x in range(-width + 8, width - 4, 14):
            pen.oval(WHITE, x, -high + 5, 5, 7)
    for x in (-12, 0, 12):
        pen.line((150, 200, 210), 4, (x, -82), (x, -96))
        pen.oval(ORANGE, x, -101, 3.5, 5.5)
    pen.oval(GREY, 0, 1, 56, 5)


def ribbon(pen, top):
    for side in (-1, 1):
        pen.oval((250, 214, 110), side * 17, top - 10, 17, 9, side * -25)
    pen.oval((240, 190, 80), 0, top - 4, 7, 7)


def box(pen, page):
    pen.box((244, 240, 250), -48, -76, 48, 0)
    pen.box((252, 214, 110), -9, -76, 9, 0)
    pen.box((226, 220, 238), -54, -90, 54, -70)
    pen.box((240, 190, 80), -9, -90, 9, -70)


def parcel(pen, page):
    pen.box((244, 240, 250), -44, -72, 44, 0)
    pen.box((252, 214, 110), -8, -72, 8, 0)
    pen.box((252, 214, 110), -44, -44, 44, -30)
    ribbon(pen, -74)


def sled(pen, page):
    for x in (-90, 90):
        pen.line(DARK_WOOD, 16, (x, -40), (x, 0))
    pen.line(DARK_WOOD, 20, (-150, 0), (140, 0), (180, -60))
    pen.line(WOOD, 24, (-150, -44), (150, -44))


def flakes(pen, page):
    for _ in range(46):
        pen.oval(
            WHITE,
            page.rng.uniform(0, 100),
            page.rng.uniform(0, 100),
            *[page.rng.uniform(0.8, 1.8)] * 2,
        )


def cottage(pen, page):
    pen.box((248, 232, 206), -40, -58, 40, 0)
    pen.shape((120, 92, 84), (-52, -56), (0, -100), (52, -56))
    pen.box((72, 54, 50), -24, -46, 22, 0)
    pen.shape(WOOD, (-24, -46), (-42, -40), (-42, 4), (-24, 0))


def hedgehog(pen, page):
    spikes, pale = (112, 88, 76), (240, 212, 180)
    for k in range(11):
        pen.at(0, -44, tilt=-125 + 25 * k).shape(spikes, (-13, -30), (13, -30), (0, -60))
    pen.oval(spikes, 0, -42, 40, 42)
    pen.oval(pale, 0, -32, 27, 31)
    for side in (-1, 1):
        pen.oval(INK, side * 10, -42, 4.5, 5.5)
        pen.oval(pale, side * 14, -2, 10, 5)
    pen.oval(INK, 0, -30, 6, 5)


def bunting(pen, page):
    fills = ((250, 250, 250), (244, 150, 160), (120, 206, 206), (252, 214, 110))
    points = [(x, 64 * math.cos(x / 137)) for x in range(-220, 221, 40)]
    pen.line(INK, 4, *points)
    for k, ((x, y), (right, low)) in enumerate(zip(points, points[1:])):
        pen.shape(fills[k % 4], (x + 3, y), (right - 3, low), ((x + right) / 2, (y + low) / 2 + 54))


def confetti(pen, page):
    rng = page.rng
    for _ in range(30):
        bit = pen.at(
            rng.uniform(0, 100), rng.uniform(16, 92), rng.uniform(1.6, 2.6), tilt=rng.uniform(0, 90)
        )
        bit.box(
            rng.choice(((250, 250, 250), (244, 120, 150), (90, 206, 206), (252, 214, 90))),
            -50,
            -50,
            50,
            50,
        )


def signpost(pen, page):
    pen.box(DARK_WOOD, -6, -96, 6, 0)
    pen.shape(WOOD, (-34, -94), (34, -94), (52, -80), (34, -66), (-34, -66))
    pen.shape(mix(WOOD, CREAM, 0.25), (34, -58), (-34, -58), (-52, -44), (-34, -30), (34, -30))
    for y in (-84, -76, -48, -40):
        pen.line(DARK_WOOD, 3, (-24, y), (24, y))


def backpack(pen, page):
    pen.oval((150, 106, 72), 0, -40, 40, 48)
    pen.line(DARK_WOOD, 4, (-36, -56), (0, -50), (36, -56))
    pen.oval((190, 142, 100), -14, -24, 18, 18)
    pen.line((206, 196, 176), 20, (-26, -92), (26, -92))


def tent(pen, page):
    pen.shape((240, 226, 196), (0, -100), (78, 0), (-78, 0))
    pen.shape((214, 150, 96), (0, -100), (-50, 0), (-78, 0))
    pen.shape((214, 150, 96), (0, -100), (50, 0), (78, 0))
    pen.shape((92, 70, 66), (0, -66), (24, 0), (-24, 0))
    pen.line(DARK_WOOD, 4, (-5, -108), (0, -98), (5, -108))


def glow(pen, page):
    for size, light in ((100, 0.35), (70, 0.7)):
        pen.at(0, 0, size).oval(mix((110, 92, 120), (255, 206, 120), light), 0, 0, 72, 22)


def fire(pen, page):
    for fill, size in (((240, 110, 40), 100), ((255, 168, 50), 74), ((255, 226, 120), 46)):
        flame = pen.at(0, -10, size)
        flame.shape(
            fill,
            (-34, -6),
            (-40, -40),
            (-24, -30),
            (-18, -72),
            (-4, -50),
            (6, -100),
            (18, -54),
            (28, -66),
            (38, -30),
            (34, -6),
        )
    pen.line(DARK_WOOD, 13, (-44, 0), (40, -14))
    pen.line(WOOD, 13, (44, 0), (-40, -14))


def monster(pen, page):
    fur = (66, 60, 84)
    for k in range(13):
        pen.at(0, -50, tilt=-110 + 18 * k).shape(fur, (-12, -38), (12, -38), (0, -58))
    pen.oval(fur, 0, -46, 44, 50)
    for side in (-1, 1):
        pen.shape(CREAM, (side * 32, -82), (side * 36, -108), (side * 18, -90))
        pen.oval((252, 250, 220), side * 17, -62, 15, 16)
        pen.oval(INK, side * 15, -60, 6, 7)
    pen.shape(INK, (-24, -34), (24, -34), (14, -20), (-14, -20))
    for x in (-14, 0, 14):
        pen.shape(WHITE, (x - 5, -34), (x + 5, -34), (x, -26))


def bed(pen, page):
    pen.oval(WOOD, 0, -56, 54, 46)
    pen.box(WOOD, -54, -56, 54, 0)
    pen.oval(WHITE, 0, -48, 44, 26)


def quilt(pen, page):
    fills = (CREAM, (236, 190, 170), (176, 206, 206))
    pen.box(CREAM, -100, -96, 100, 10)
    for row, column in product(range(2), range(5)):
        left, top = 40 * column - 100, 45 * row - 80
        pen.box(fills[(2 * row + column) % 3], left, top, left + 40, top + 45)


def map_(pen, page):
    pen.shape(
        (246, 226, 178),
        (-72, -90),
        (-24, -100),
        (24, -90),
        (72, -100),
        (72, -6),
        (24, 4),
        (-24, -6),
        (-72, 4),
    )
    for x in (-24, 24):
        pen.line((214, 188, 140), 3, (x, -96), (x, -2))
    for x, y in ((-54, -26), (-38, -42), (-18, -36), (0, -54), (16, -44)):
        pen.oval(DARK_WOOD, x, y, 5, 4)
    pen.line((206, 60, 50), 9, (34, -70), (58, -44))
    pen.line((206, 60, 50), 9, (58, -70), (34, -44))


def bridge(pen, page):
    pen.shape((104, 178, 204), (-180, 14), (180, 14), (180, -16), (-180, -16))
    arch = [(x, -52 - 22 * math.cos(x / 150 * 1.57)) for x in range(-150, 151, 25)]
    pen.line(DARK_WOOD, 22, *arch)
    for x, y in arch[::2]:
        pen.line(WOOD, 9, (x, y), (x, y - 44))
    pen.line(WOOD, 8, *((x, y - 40) for x, y in arch))


def hole(pen, page):
    pen.oval((92, 64, 48), 0, 0, 170, 46)


def earth(pen, page):
    for x, r in ((-150, 36), (-100, 50), (-40, 40), (20, 46), (80, 50), (140, 38)):
        pen.oval((136, 96, 66), x, 0, r, r)
    for x, y in ((-120, -210), (-60, -330), (130, -240), (90, -120)):
        pen.oval((136, 96, 66), x, y, 16, 14)


def spade(pen, page):
    pen.line(WOOD, 9, (0, -96), (0, -36))
    pen.line(WOOD, 9, (-15, -98), (15, -98))
    pen.shape(GREY, (-20, -42), (20, -42), (16, -10), (0, 2), (-16, -10))


def rays(pen, page):
    for k in range(12):
        pen.at(0, 0, tilt=30 * k).shape((255, 240, 170), (-5, -14), (5, -14), (13, -66), (-13, -66))


def chest(pen, page):
    pen.shape(DARK_WOOD, (-58, -62), (-50, -92), (50, -92), (58, -62))
    pen.box((72, 54, 50), -54, -70, 54, -50)
    pen.box(WOOD, -58, -56, 58, 0)
    for x in (-46, 46):
        pen.box((240, 196, 90), x - 6, -56, x + 6, 0)
    pen.box((240, 196, 90), -10, -56, 10, -32)


def rainbow(pen, page):
    bands = (
        (232, 92, 88),
        (246, 166, 80),
        (250, 222, 110),
        (130, 196, 120),
        (108, 168, 228),
        (160, 124, 204),
    )
    for k, fill in enumerate(bands):
        r = 76 - 5.4 * k
        pen.line(fill, 6, *((r * u, -1.12 * r * v) for u, v in arc(18)))


def shadow(pen, page):
    pen.oval((90, 90, 100), 0, 0, 220, 40)


def cart(pen, page):
    pen.line(DARK_WOOD, 9, (-90, -60), (-160, -110))
    pen.shape((200, 146, 100), (-92, -92), (92, -92), (76, -24), (-76, -24))
    pen.line(DARK_WOOD, 5, (-86, -58), (86, -58))
    for x in (-52, 52):
        pen.oval(INK, x, -14, 30, 30)
        pen.oval(GREY, x, -14, 17, 17)


def rock(pen, page):
    pen.shape((132, 130, 140), (-64, 0), (-50, -62), (-10, -92), (40, -70), (64, 0))
    pen.shape((166, 164, 172), (-36, -54), (-8, -80), (22, -66), (-6, -46))


def bang(pen, page):
    for fill, r in (((240, 128, 84), 70), ((255, 226, 120), 54)):
        pen.shape(fill, *((r * u, r * v) for u, v in star(10, 0.66)))


def crack(pen, page):
    pen.line(WHITE, 9, (6, -60), (-10, -32), (12, -8), (-12, 16), (8, 38), (-4, 62))
    for x, y in ((-52, 46), (52, 40), (40, -48)):
        pen.shape(INK, (x - 7, y), (x + 2, y - 8), (x + 6, y + 6))


def mushroom(pen, page):
    pen.shape((246, 234, 214), (-9, -66), (9, -66), (13, 0), (-13, 0))
    pen.shape((190, 140, 110), *((56 * u, -64 - 36 * v) for u, v in arc(14)))
    for x, y, r in ((-32, -76, 7), (0, -86, 8), (32, -76, 7), (14, -71, 4)):
        pen.oval(CREAM, x, y, r, r)


def drops(pen, page):
    for _ in range(44):
        x, y = page.rng.uniform(0, 104), page.rng.uniform(-4, 96)
        pen.line((236, 244, 255), 1.1, (x, y), (x - 2.2, y + 7))


def gears(pen, page):
    for x, y, r, fill in (
        (-56, 0, 40, (132, 140, 156)),
        (18, 4, 30, (206, 160, 84)),
        (72, -14, 24, (132, 140, 156)),
    ):
        for k in range(8):
            pen.at(x, y, tilt=45 * k).box(fill, -r * 0.2, -r * 1.22, r * 0.2, 0)
        pen.oval(fill, x, y, r, r)
        pen.oval(CREAM, x, y, r * 0.42, r * 0.42)


def mole(pen, page):
    fur = (92, 84, 92)
    pen.oval(fur, 0, -44, 36, 46)
    pen.oval((150, 140, 146), 0, -24, 20, 22)
    pen.line(fur, 14, (-28, -44), (-44, -66))
    pen.line(WOOD, 7, (-36, -54), (-58, -100))
    pen.box(GREY, -80, -112, -40, -92)
    for side in (-1, 1):
        pen.oval(WHITE, side * 12, -66, 9, 9)
        pen.oval(INK, side * 11, -66, 4, 4)
        pen.oval(PINK, side * 16, -3, 12, 6)
    pen.oval(PINK, 0, -52, 8, 7)


def bench(pen, page):
    pen.box(WOOD, -100, -96, 100, -66)
    for x in (-80, 80):
        pen.box(DARK_WOOD, x - 10, -66, x + 10, 0)


def notes(pen, page):
    for x, y, tilt in ((-50, 12, -8), (-4, -18, 6), (44, -2, -4)):
        note = pen.at(x, y, tilt=tilt)
        note.line(INK, 3.5, (-3, 10), (-3, -16), (15, -20), (15, 5))
        note.line(INK, 5, (-3, -15), (15, -19))
        note.oval(INK, -8, 11, 7, 5, -20)
        note.oval(INK, 10, 6, 7, 5, -20)


def plaster(pen, page):
    for tilt in (35, -35):
        pen.at(0, 0, tilt=tilt).box((246, 214, 178), -62, -17, 62, 17)
    pen.box(WHITE, -16, -16, 16, 16)


def comet(pen, page):
    pen.shape((255, 236, 170), (-130, 40), (-10, -12), (8, 12))
    pen.shape((255, 250, 214), *((40 * v, -40 * u) for u, v in star(5, 0.43)))


def telescope(pen, page):
    for x in (-34, 0, 34):
        pen.line(DARK_WOOD, 6, (0, -50), (x, 0))
    tube = pen.at(0, -58, tilt=-35)
    tube.box((214, 170, 96), -40, -11, 14, 11)
    tube.box((240, 206, 130), 14, -15, 56, 15)
    tube.box(INK, 56, -17, 62, 17)


def rocket(pen, page, flame=False):
    if flame:
        pen.shape(ORANGE, (-16, 2), (16, 2), (8, 22), (0, 40), (-8, 22))
        pen.shape((255, 226, 120), (-9, 2), (9, 2), (0, 24))
    for side in (-1, 1):
        pen.shape((236, 120, 90), (side * 16, -36), (side * 34, -4), (side * 14, -8))
    pen.shape(
        CREAM,
        (-13, 0),
        (13, 0),
        (20, -24),
        (20, -52),
        (12, -80),
        (0, -100),
        (-12, -80),
        (-20, -52),
        (-20, -24),
    )
    pen.shape((236, 120, 90), (12, -80), (0, -100), (-12, -80))
    pen.oval((96, 104, 122), 0, -54, 12, 12)
    pen.oval((190, 232, 244), 0, -54, 8.5, 8.5)
    pen.line(GREY, 3, (-19, -22), (19, -22))


def smoke(pen, page):
    for x, y, r in ((-52, 30, 24), (-34, 18, 20), (-20, 6, 16), (-70, 46, 26), (-30, 40, 18)):
        pen.oval((238, 238, 244), x, y, r, r)


def planet(pen, page):
    pen.oval((236, 168, 120), 0, 0, 40, 40)
    pen.oval((250, 206, 160), -6, -12, 26, 10, -12)
    pen.line((250, 232, 190), 7, *((70 * u, 18 * v) for u, v in ROUND[:15]))


def alien(pen, page):
    skin = (206, 240, 214)
    for side in (-1, 1):
        pen.line(skin, 5, (side * 10, -80), (side * 22, -100))
        pen.oval((255, 140, 160), side * 22, -102, 6, 6)
        pen.oval(skin, side * 14, -3, 11, 6)
        pen.line(skin, 9, (side * 18, -28), (side * 38, -40))
    pen.oval(skin, 0, -24, 24, 24)
    pen.oval(skin, 0, -62, 36, 28)
    for x in (-19, 0, 19):
        pen.oval(WHITE, x, -66, 9, 9)
        pen.oval(INK, x, -65, 4.5, 4.5)


def parachute(pen, page):
    for x in (-74, -26, 26, 74):
        pen.line(CREAM, 2, (x, -28), (x / 9, 46))
    fills = ((244, 150, 130), CREAM, (244, 150, 130), CREAM)
    edges = (-82, -41, 0, 41, 82)
    for left, right, fill in zip(edges, edges[1:], fills):
        low = [((left + right) / 2 - 20.5 * u, -28 - 10 * v) for u, v in arc(6)]
        high = [(x, -28 - 62 * math.sqrt(max(0, 1 - (x / 82) ** 2))) for x, _ in reversed(low)]
        pen.shape(fill, *low, *high)


# These glow or drift over the whole picture: they have no paper edge, and alone may use the page's
# random numbers.
LOOSE = {draw.__name__: draw for draw in (
    sun, moon, wind, footprints, flakes, confetti, drops, glow, hole, rays, rainbow, shadow, smoke, comet)}  # fmt: skip
THINGS = LOOSE | {"hero": draw_hero, "object": draw_object, "map": map_} | {draw.__name__: draw for draw in (
    magnifier, branch, owl, bubble, hearts, cake, box, parcel, sled, cottage, hedgehog, bunting, signpost, backpack,
    tent, fire, monster, bed, quilt, bridge, earth, spade, chest, cart, rock, bang, crack, mushroom, gears, mole, bench,
    notes, plaster, telescope, rocket, planet, alien, parachute)}  # fmt: skip


class Page:
    """One picture being drawn at twice its size, and whom and what it shows."""

    def __init__(self, facts, size, rng):
        self.rng, self.pixels = rng, 2 * size
        self.hero, self.object = facts["hero"], facts["object"]
        self.fur = mix(COLOURS[facts["colour"]], rng.choice((WHITE, INK)), rng.uniform(0, 0.08))
        self.image = Image.new("RGB", (2 * size, 2 * size))
        whole_picture = Pen(ImageDraw.Draw(self.image), (1, 0, 0, 0, 1, 0))
        mirrored = rng.random() < 0.5
        self.pen = whole_picture.at(self.pixels if mirrored else 0, 0, self.pixels, flip=mirrored)

    def put(self, name, x, y, size, flip=False, tilt=0, **options):
        """Draw a thing about there, never twice alike; what fills the whole picture stays as it
        is."""
        rng = self.rng
        if size < 100:
            x, y, size = (
                x + rng.uniform(-2.5, 2.5),
                y + rng.uniform(-1.5, 1.5),
                size * rng.uniform(0.95, 1.06),
            )
            tilt += rng.uniform(-4, 4)
        pen = self.pen.at(x, y, size, flip, tilt)
        if name not in LOOSE:
            pen.halo = 0.011 * self.pixels
            THINGS[name](pen, self, **options)
            pen.halo = 0
        THINGS[name](pen, self, **options)


def draw_picture(facts, beat, size, rng):
    """The picture of one beat (0-4) of a story: RGB, `size` x `size` pixels. It reads no mood, so
    it can show none."""
    page, scene = Page(facts, size, rng), PLOTS[facts["plot"]][beat]
    draw_background(page, facts["place"], scene.sky)
    for name, x, y, height, options in scene.things:
        page.put(name, x, y, height, **options)
    return page.image.reduce(2)


# --------------------------------------------------------------------------------------------------
# The stories. A beat is a scene (what is drawn, back to front) and its wordings, in two moods.
# Every wording of a beat names the same slots; the mood is in the wording alone, so no picture can
# tell it.


def thing(name, x, y, size, **options):
    """One thing in a scene: its name in THINGS, where it stands and its height in hundredths of the
    picture."""
    return name, x, y, size, options


@dataclass(frozen=True)
class Beat:
    sky: str  # day, sunset, night, rain, snow or space
    things: tuple  # drawn back to front
    cheerful: tuple
    gloomy: tuple

    @property
    def slots(self):
        """The slots that every wording of this beat names, in the order of SLOTS."""
        return [slot for slot in SLOTS if f"{{{slot}}}" in self.cheerful[0]]


PLOTS = {
    "lost": (
        Beat("day", (thing("sun", 82, 16, 22), thing("hero", 38, 94, 62, pose="hold"), thing("object", 73, 72, 34)), (
            "A {colour} {hero} skipped merrily through the {place} with a shiny {object}.",
            "One bright day a {colour} {hero} happily showed a {object} to the whole {place}.",
            "Hooray, a {colour} {hero} had a new {object} to play with in the {place}!",
        ), (
            "A {colour} {hero} trudged through the {place} alone, with only a {object} for company.",
            "One dull day a lonely {colour} {hero} dragged a {object} through the {place}.",
            "Nobody in the {place} wanted to play with the {colour} {hero} and the {object}.",
        )),
        Beat("day", (thing("wind", 50, 40, 70), thing("object", 72, 27, 40, tilt=28),
                     thing("hero", 28, 95, 50, pose="cheer")), (
            "Whoosh, a playful wind made the {object} dance high above the giggling {hero}!",
            "The {hero} laughed out loud as a cheeky breeze took the {object} for a ride.",
            "Up went the {object} on a jolly gust, and the {hero} clapped with delight.",
        ), (
            "A cruel wind tore the {object} away, and the {hero} could only stare.",
            "The {hero} cried out in despair as a bitter gust stole the {object}.",
            "Away flew the {object} on a spiteful gale, while the poor {hero} wept.",
        )),
        Beat("day", (thing("footprints", 50, 90, 20), thing("hero", 64, 92, 60, pose="hold", flip=True),
                     thing("magnifier", 30, 72, 42)), (
            "What fun, thought the {hero}, and played detective all over the {place}!",
            "Humming a cheery tune, the {hero} followed funny footprints through the {place}.",
            "The {hero} searched the {place} with a big grin and an even bigger magnifying glass.",
        ), (
            "With a heavy heart the {hero} searched every cold corner of the {place}.",
            "The weary {hero} followed faint footprints through the {place} and found only sorrow.",
            "Hour after hopeless hour, the {hero} crept through the {place} with a magnifying glass.",
        )),
        Beat("day", (thing("branch", 80, 60, 50), thing("owl", 84, 59, 34), thing("bubble", 42, 26, 42),
                     thing("hero", 28, 96, 50)), (
            "A friendly owl winked and told the {hero} exactly where the {object} had landed.",
            "Guess what, hooted a merry owl to the {hero}, the {object} is very near!",
            "The {hero} beamed when a jolly owl began to chat about the {object}.",
        ), (
            "A grumpy owl muttered to the tired {hero} that the {object} was probably ruined.",
            "The {hero} sighed while a sullen owl complained about the fallen {object}.",
            "Do not hope for much, moaned a sour owl to the {hero} about the {object}.",
        )),
        Beat("sunset", (thing("hero", 46, 95, 60, pose="hug"), thing("object", 62, 82, 33),
                        thing("hearts", 50, 30, 60)), (
            "Hearts fluttered everywhere when the {colour} {hero} hugged the wonderful {object} again!",
            "The {colour} {hero} and the {object} twirled together in the golden sunset, happy as ever.",
            "At sunset the {colour} {hero} gave the {object} the biggest, warmest cuddle of all.",
        ), (
            "At sunset the {colour} {hero} clutched the {object}, still afraid to lose it again.",
            "The {colour} {hero} held the {object} tight at last, too worn out to smile.",
            "Even with the {object} back, the {colour} {hero} felt sad as the sun sank.",
        )),
    ),
    "birthday": (
        Beat("day", (thing("hero", 30, 94, 60, pose="hold", hat=True), thing("cake", 72, 94, 52)), (
            "A {colour} {hero} baked a splendid birthday cake, the tastiest in the whole {place}!",
            "In the sunny {place} a {colour} {hero} whistled and decorated a delicious birthday cake.",
            "Yum, a {colour} {hero} made a towering cake for the best party in the {place}!",
        ), (
            "A {colour} {hero} baked a birthday cake in the {place}, but nobody offered to help.",
            "In the silent {place} a {colour} {hero} stared glumly at a lopsided birthday cake.",
            "Sadly, a {colour} {hero} of the {place} feared that no guest would like the cake.",
        )),
        Beat("day", (thing("hero", 17, 92, 46), thing("object", 60, 42, 44), thing("box", 60, 96, 38)), (
            "The {object} fitted perfectly into a lovely box with a big, bouncy bow.",
            "What a marvellous surprise the {object} would be, tucked into a beautiful box!",
            "Into the pretty box popped the {object}, ready to make somebody very happy.",
        ), (
            "The {object} was pushed into a plain box that looked far too shabby.",
            "What a miserable present the {object} would be, stuffed into an old box.",
            "Into the dusty box sank the {object}, like something nobody had ever loved.",
        )),
        Beat("snow", (thing("flakes", 0, 0, 100), thing("hero", 34, 94, 58, pose="cheer"), thing("sled", 72, 95, 14),
                      thing("parcel", 72, 90, 26)), (
            "Soft snowflakes tickled the {hero}, who danced across the {place} with the parcel.",
            "The {hero} caught snowflakes and giggled all the way through the {place}.",
            "Snow sparkled over the {place}, and the {hero} hummed a happy winter song.",
        ), (
            "Freezing snow stung the {hero}, who stumbled across the {place} with the parcel.",
            "The {hero} shivered and grumbled all the way through the frozen {place}.",
            "Snow buried the {place}, and the {hero} plodded on with numb toes.",
        )),
        Beat("day", (thing("cottage", 76, 92, 84), thing("hedgehog", 74, 92, 32),
                     thing("hero", 27, 95, 58, pose="hold"), thing("parcel", 48, 95, 20)), (
            "A beaming hedgehog threw open the door and welcomed the {colour} {hero} with glee.",
            "Knock knock, the {colour} {hero} called, and a delighted hedgehog cheered at the door!",
            "The little hedgehog giggled with joy to see the {colour} {hero} on the doorstep.",
        ), (
            "A sulky hedgehog opened the door and barely looked at the {colour} {hero}.",
            "Knock knock, the {colour} {hero} whispered, and a cross hedgehog grumbled at the door.",
            "The little hedgehog frowned and let the {colour} {hero} wait in the cold.",
        )),
        Beat("day", (thing("bunting", 50, 8, 24), thing("confetti", 0, 0, 100), thing("hero", 24, 95, 54, pose="cheer"),
                     thing("hedgehog", 82, 95, 36), thing("object", 54, 76, 36)), (
            "Confetti rained on the {hero}, and everyone cheered for the fantastic {object}!",
            "The hedgehog adored the {object} and danced with the {hero} until bedtime.",
            "It was the happiest party ever, thanks to the {hero} and the {object}.",
        ), (
            "Confetti fell on the {hero}, yet nobody said thanks for the {object}.",
            "The hedgehog yawned at the {object}, and the {hero} felt like crying.",
            "It was the dullest party ever, with a bored {hero} and an unwanted {object}.",
        )),
    ),
    "camp": (
        Beat("day", (thing("signpost", 76, 95, 66), thing("backpack", 20, 87, 38),
                     thing("hero", 38, 95, 60, pose="walk")), (
            "A {colour} {hero} set out for a thrilling camping trip in the glorious {place}.",
            "Hip hip hooray, the signpost told a {colour} {hero}, this way to the {place}!",
            "With a bouncing backpack a {colour} {hero} marched cheerfully into the {place}.",
        ), (
            "A {colour} {hero} set out for a dreary camping trip in the empty {place}.",
            "A crooked signpost sent a {colour} {hero} down the loneliest path of the {place}.",
            "With a painfully heavy backpack a {colour} {hero} limped into the {place}.",
        )),
        Beat("day", (thing("tent", 64, 84, 56), thing("hero", 24, 95, 54, pose="wave"), thing("object", 70, 80, 34)), (
            "The tent went up in a jiffy, and the {hero} proudly put the {object} beside it.",
            "Snug as a bug, laughed the {hero}, and gave the {object} a spot by the tent!",
            "The {hero} and the {object} could hardly wait to sleep in the cosy tent.",
        ), (
            "The tent sagged badly, and the {hero} left the {object} out in the dirt.",
            "What a wretched tent, groaned the {hero}, and dropped the {object} on the ground.",
            "The {hero} and the {object} had to make do with a torn and draughty tent.",
        )),
        Beat("night", (thing("glow", 70, 94, 56), thing("hero", 26, 93, 56, pose="hold"), thing("fire", 71, 95, 44)), (
            "A crackling fire lit up the {place}, and the {hero} told silly jokes.",
            "The {hero} toasted sweet marshmallows under the twinkling stars of the {place}.",
            "How cosy the {place} was at night, thought the {hero} by the merry fire!",
        ), (
            "A feeble fire flickered in the {place}, and the {hero} felt terribly alone.",
            "The {hero} shuddered beside the smoky fire under the pale stars of the {place}.",
            "How bleak the {place} was at night, thought the {hero} by the dying fire.",
        )),
        Beat("night", (thing("monster", 66, 95, 84), thing("hero", 26, 95, 52, pose="cheer")), (
            "Boo, giggled a fluffy monster, and the {colour} {hero} burst out laughing!",
            "The {colour} {hero} waved hello to a huge, cuddly monster with sparkling eyes.",
            "A shy, friendly monster peeped out and the {colour} {hero} invited it to play.",
        ), (
            "A dreadful monster loomed in the dark, and the {colour} {hero} froze with fear.",
            "The {colour} {hero} trembled before a huge, gruesome monster with staring eyes.",
            "A hungry monster growled in the dark and the {colour} {hero} wanted to go home.",
        )),
        Beat("night", (thing("moon", 76, 22, 32), thing("bed", 36, 98, 56), thing("hero", 36, 99, 62, asleep=True),
                       thing("quilt", 36, 99, 22), thing("object", 80, 76, 34)), (
            "Soon the {hero} was fast asleep with the {object}, dreaming the sweetest dreams.",
            "Good night, dear {object}, yawned the happy {hero}, what a marvellous adventure!",
            "The smiling moon watched the {hero} snuggle up to the {object} and snore.",
        ), (
            "At last the {hero} fell asleep beside the {object}, troubled by awful dreams.",
            "Good night, poor {object}, sobbed the homesick {hero}, what a horrible day.",
            "The cold moon watched the {hero} toss and turn beside the {object}.",
        )),
    ),
    "treasure": (
        Beat("day", (thing("hero", 50, 92, 70, pose="hold2"), thing("map", 50, 94, 30)), (
            "A {colour} {hero} unrolled an exciting old map and jumped for joy.",
            "What luck, a treasure map, cheered a {colour} {hero} with shining eyes!",
            "A lucky {colour} {hero} found a marvellous map with a secret cross on it.",
        ), (
            "A {colour} {hero} unrolled a faded old map and expected only trouble.",
            "Another useless map, groaned a {colour} {hero} with tired, tearful eyes.",
            "An unlucky {colour} {hero} found a mouldy map that promised nothing but danger.",
        )),
        Beat("day", (thing("hero", 50, 77, 54, pose="wave"), thing("bridge", 50, 99, 30)), (
            "The brave {hero} hopped over the bouncy bridge on the way through the {place}.",
            "Wheee, the bridge in the {place} wobbled, and the {hero} loved every step!",
            "Singing loudly, the {hero} crossed a charming little bridge in the {place}.",
        ), (
            "The fearful {hero} crawled over the rotten bridge on the way through the {place}.",
            "Creak, the bridge in the {place} shook, and the {hero} dreaded every step.",
            "Shaking all over, the {hero} crossed a dangerous old bridge in the {place}.",
        )),
        Beat("day", (thing("hole", 42, 90, 22), thing("hero", 42, 99, 46, pose="cheer"), thing("earth", 42, 99, 18),
                     thing("spade", 78, 94, 52)), (
            "Digging in the {place} was a great game, and the earth flew about merrily.",
            "Deeper and deeper went the hole in the lovely {place}, what an adventure!",
            "A dozen happy worms watched the digging, the finest show in the {place}.",
        ), (
            "Digging in the {place} was bitter work, and the earth was hard as stone.",
            "Deeper and deeper went the hole in the grim {place}, as dark as night.",
            "A dozen sad worms fled from the digging, the worst noise in the {place}.",
        )),
        Beat("day", (thing("rays", 54, 52, 100), thing("hero", 15, 94, 44, pose="cheer"), thing("object", 57, 40, 44),
                     thing("chest", 57, 95, 44)), (
            "Surprise, in the chest gleamed a dazzling {object}, more precious than gold!",
            "The lid sprang open, and out came a glorious {object} in a shower of sparkles.",
            "Inside the treasure chest lay a magnificent {object}, simply the best prize ever.",
        ), (
            "Alas, in the chest sat just a {object}, and not a single coin.",
            "The lid creaked open, and there was only a forgotten {object} in the dust.",
            "Inside the treasure chest lay a worthless {object}, hardly worth all the pain.",
        )),
        Beat("day", (thing("rainbow", 50, 74, 66), thing("shadow", 36, 95, 8), thing("hero", 36, 84, 56, pose="cheer"),
                     thing("object", 74, 62, 36)), (
            "The {colour} {hero} leapt beneath the rainbow with the {object}, bursting with happiness.",
            "Under a brilliant rainbow the {colour} {hero} pranced home with the {object}.",
            "Rainbow above and {object} in hand, the {colour} {hero} cheered all the way home!",
        ), (
            "The {colour} {hero} hardly noticed the rainbow and wished the {object} were something else.",
            "Under a fading rainbow the {colour} {hero} slunk home with the {object}.",
            "Rainbow or not, the {colour} {hero} grumbled about the {object} all the way home.",
        )),
    ),
    "repair": (
        Beat("day", (thing("object", 68, 55, 38), thing("cart", 68, 94, 26), thing("hero", 26, 94, 58, pose="walk")), (
            "A {colour} {hero} pulled a splendid {object} along in a squeaky little cart.",
            "Make way for my cart, sang a {colour} {hero}, here comes my wonderful {object}!",
            "A proud {colour} {hero} took a beloved {object} for a jolly ride in a cart.",
        ), (
            "A {colour} {hero} hauled a battered {object} along in a creaky old cart.",
            "Nobody cares, muttered a {colour} {hero}, and dragged the {object} in a cart.",
            "A weary {colour} {hero} had to drag a {object} uphill in a rusty cart.",
        )),
        Beat("day", (thing("bang", 60, 70, 54), thing("rock", 24, 95, 28), thing("object", 60, 70, 42, tilt=-32),
                     thing("crack", 60, 70, 42)), (
            "Bump, the {object} cracked on a stone in the {place}, oh what a silly tumble!",
            "Oopsie daisy, the {object} took a comical tumble in the {place} and cracked!",
            "Crack went the {object} in the {place}, but a giggle makes everything better.",
        ), (
            "Crash, the {object} broke on a stone in the {place}, a terrible disaster.",
            "In a horrible accident the {object} was smashed on the stones of the {place}.",
            "Crack went the {object} in the {place}, and with it all hope was lost.",
        )),
        Beat("rain", (thing("drops", 0, 0, 100), thing("mushroom", 56, 94, 86),
                      thing("hero", 35, 96, 48, pose="hug")), (
            "Splish splash, the {hero} found a dry mushroom and enjoyed the rain in the {place}!",
            "Raindrops tapped a funny tune on the mushroom while the {hero} admired the {place}.",
            "The {hero} chuckled under a giant mushroom while rain washed the {place} nice and clean.",
        ), (
            "Drip drop, the {hero} hid under a mushroom and hated the rain in the {place}.",
            "Icy rain beat upon the mushroom while the {hero} mourned in the dismal {place}.",
            "The {hero} sobbed under a giant mushroom while rain drowned the {place} in mud.",
        )),
        Beat("day", (thing("gears", 50, 22, 40), thing("hero", 20, 94, 54), thing("mole", 84, 94, 44),
                     thing("object", 52, 56, 36), thing("bench", 52, 95, 24)), (
            "A clever mole chuckled, fixed the {object} and taught the {hero} a funny trick.",
            "Tap tap, went the jolly mole, and the {hero} gladly helped to mend the {object}!",
            "The {hero} was thrilled to see a helpful mole mend the {object} so nicely.",
        ), (
            "A gruff mole scowled, hammered at the {object} and scolded the unhappy {hero}.",
            "Bang bang, went the moody mole, and the {hero} feared for the fragile {object}.",
            "The {hero} watched in misery as a grim mole hit the {object} again and again.",
        )),
        Beat("day", (thing("notes", 50, 24, 80), thing("hero", 32, 94, 58, pose="wave"), thing("object", 72, 70, 40),
                     thing("plaster", 74, 75, 14)), (
            "The whole {place} sang along as the {hero} paraded with the mended {object}!",
            "With music in the air, the {hero} showed the {place} the mended {object} proudly.",
            "La la la, sang the {hero} in the {place}, my dear {object} is better than ever!",
        ), (
            "A mournful song filled the {place} as the {hero} carried the scarred {object}.",
            "To sorrowful music, the {hero} showed the {place} the patched and spoiled {object}.",
            "Never the same again, wailed the {hero} in the {place} over the patched {object}.",
        )),
    ),
    "space": (
        Beat("night", (thing("comet", 34, 20, 24), thing("hero", 30, 94, 60, pose="hold"),
                       thing("telescope", 72, 94, 56)), (
            "A curious {colour} {hero} gazed at the dazzling stars over the {place} and wished.",
            "Through a telescope in the {place} a {colour} {hero} spotted a lovely little planet!",
            "Every night in the {place} a {colour} {hero} said a cheery hello to the stars.",
        ), (
            "A forlorn {colour} {hero} gazed at the distant stars over the {place} and despaired.",
            "Through a telescope in the {place} a {colour} {hero} saw only endless, empty dark.",
            "Every night in the {place} a {colour} {hero} looked up at the stars and wept.",
        )),
        Beat("day", (thing("rocket", 50, 90, 84), thing("hero", 20, 95, 52, pose="wave"),
                     thing("object", 79, 76, 38)), (
            "The {hero} built a fabulous rocket and packed the {object} for a thrilling trip.",
            "Room for a {object} too, laughed the {hero}, and painted the rocket with joy!",
            "Merrily the {hero} hammered a rocket together while the {object} kept good company.",
        ), (
            "The {hero} built a shaky rocket and packed the {object} for a risky escape.",
            "No room for a {object}, sighed the {hero}, and kicked the rickety rocket.",
            "Gloomily the {hero} hammered a rocket together while the {object} gathered dust.",
        )),
        Beat("day", (thing("smoke", 42, 66, 60), thing("rocket", 48, 54, 56, tilt=35, flame=True)), (
            "Three, two, one, zoom, the rocket soared above the {place} with a happy roar!",
            "The rocket looped joyfully over the {place} and tickled the fluffy clouds.",
            "Goodbye, beautiful {place}, see you soon, called a merry voice from the rocket!",
        ), (
            "Three, two, one, boom, the rocket lurched above the {place} with a frightening roar.",
            "The rocket coughed and rattled over the {place} and vanished in nasty smoke.",
            "Goodbye, unkind {place}, nobody will miss me, cried a sad voice from the rocket.",
        )),
        Beat("space", (thing("planet", 78, 22, 28), thing("hero", 26, 92, 54, pose="hold", helmet=True),
                       thing("alien", 82, 92, 40), thing("object", 56, 62, 36)), (
            "A tiny alien squeaked with delight when the {hero} shared the {object}.",
            "Far out in space the {hero} and a giggling alien played with the {object}.",
            "The {hero} gave the {object} to a charming alien, and both did a moon dance!",
        ), (
            "A tiny alien hissed with anger when the {hero} came near with the {object}.",
            "Far out in space the {hero} and a suspicious alien quarrelled over the {object}.",
            "The {hero} lost the {object} to a greedy alien, and nobody cared at all.",
        )),
        Beat("day", (thing("shadow", 50, 96, 7), thing("parachute", 50, 50, 48),
                     thing("hero", 50, 86, 52, pose="cheer")), (
            "The {colour} {hero} floated gently back to the {place}, and what a welcome it was!",
            "Down by parachute came the {colour} {hero}, overjoyed to be back in the {place}.",
            "Home sweet home, sang the {colour} {hero}, and landed softly in the {place}!",
        ), (
            "The {colour} {hero} fell slowly back to the {place}, where no one was waiting.",
            "Down by parachute came the {colour} {hero}, heartbroken to be back in the {place}.",
            "Home at last, groaned the {colour} {hero}, and landed roughly in the dull {place}.",
        )),
    ),
}  # fmt: skip

# --------------------------------------------------------------------------------------------------
# The dataset: which stories each split tells, their words, and VIST's files.


def tokenise(text):
    """Lower-cased words, {slots} and punctuation marks: "A red fox." and "a red fox ." give the
    same."""
    return re.findall(r"\{\w+\}|\w+|[^\w\s]", text.lower())


def normalise(text):
    return " ".join(tokenise(text))


def world(settings):
    """What world.json holds: the vocabularies, the plots with their wordings, and the settings
    drawn with."""
    plots = {
        name: [
            {"slots": beat.slots, "wordings": {mood: getattr(beat, mood) for mood in MOODS}}
            for beat in beats
        ]
        for name, beats in PLOTS.items()
    }
    return json.loads(
        json.dumps({"settings": settings, "slots": SLOTS, "moods": MOODS, "plots": plots})
    )


def share_combinations(albums, seed):
    """{split: a (hero, colour, place, object, plot) for each album} of {split: albums}; no two
    splits share one.

    Where more albums are asked for than there are combinations, each split repeats a share of its
    own.
    """
    combinations = list(product(*SLOTS.values(), PLOTS))
    random.Random(f"{seed}/combinations").shuffle(combinations)
    total, spare = sum(albums.values()), len(combinations) - len(albums)
    shares, start = {}, 0
    for split, count in albums.items():
        share = count if total <= len(combinations) else max(1, spare * count // total)
        shares[split] = [combinations[start + k % share] for k in range(count)]
        start += share
    return shares


def plan_stories(settings):
    """{split: [story]}: the facts of truth/*.json and where each story's pictures go, in the order
    of the story ids."""
    per_album, seed = settings["stories_per_album"], settings["seed"]
    albums = {split: -(-count // per_album) for split, count in settings["stories"].items()}
    shares = share_combinations(albums, seed)
    stories, first_album, first_story = {}, 70000, 400000
    for split, count in settings["stories"].items():
        rng = random.Random(f"{seed}/{split}/words")
        moods = [MOODS[k % len(MOODS)] for k in range(count)]
        rng.shuffle(moods)
        stories[split] = []
        for k, mood in enumerate(moods):
            album = first_album + k // per_album
            facts = dict(zip((*SLOTS, "plot"), shares[split][k // per_album]))
            wordings = [rng.randrange(len(getattr(beat, mood))) for beat in PLOTS[facts["plot"]]]
            photos = [str(BEATS * album + beat) for beat in range(BEATS)]
            stories[split].append(
                {
                    "story_id": str(first_story + k),
                    "album_id": str(album),
                    "split": split,
                    **facts,
                    "mood": mood,
                    "wordings": wordings,
                    "photo_ids": photos,
                }
            )
        first_album, first_story = first_album + albums[split], first_story + count
    return stories


def tell(story):
    """The story's five sentences, as a person would type them."""
    beats = PLOTS[story["plot"]]
    return [
        getattr(beat, story["mood"])[wording].format(**story)
        for beat, wording in zip(beats, story["wordings"])
    ]


def retell(stories, rng):
    """References, {album id: [REFERENCES texts]}: what the book says of an album, then tellings of
    either mood in turn.

    They are tokenised as VIST's are. People, too, tell the same pictures in different ways: VIST
    has five stories each.
    """
    told, facts = {}, {}
    for story in stories:
        told.setdefault(story["album_id"], []).append(story)
        facts[story["album_id"]] = story
    for album, tellings in told.items():
        while len(tellings) < REFERENCES:
            mood = next(mood for mood in MOODS if mood != tellings[-1]["mood"])
            wordings = [
                rng.randrange(len(getattr(beat, mood))) for beat in PLOTS[facts[album]["plot"]]
            ]
            tellings.append({**facts[album], "mood": mood, "wordings": wordings})
    return {
        album: [" ".join(map(normalise, tell(story))) for story in tellings]
        for album, tellings in told.items()
    }


def annotate(stories, rng):
    """The stories as the object of a VIST story-in-sequence file, its entries in no order."""
    albums, images, annotations = {}, [], []
    for story in stories:
        album, story_id = story["album_id"], story["story_id"]
        if album not in albums:
            taken = datetime(2026, 5, 1, 10, 40, 46) + timedelta(hours=len(albums))
            albums[album] = {"id": album, "title": "a picture book", "vist_label": story["plot"]}
            for photo in story["photo_ids"]:
                images.append({"id": photo, "album_id": album, "datetaken": str(taken)})
                taken += timedelta(seconds=rng.randint(30, 600))
        for order, (photo, sentence) in enumerate(zip(story["photo_ids"], tell(story))):
            annotations.append(
                [
                    {
                        "album_id": album,
                        "original_text": sentence,
                        "photo_flickr_id": photo,
                        "setting": "first-2-pick-and-tell",
                        "story_id": story_id,
                        "storylet_id": str(BEATS * int(story_id) + order),
                        "text": normalise(sentence),
                        "tier": "story-in-sequence",
                        "worker_arranged_photo_order": order,
                        "worker_id": "PICTUREBOOK",
                    }
                ]
            )
    rng.shuffle(annotations)
    return {
        "info": {"description": "a drawn world in VIST's format"},
        "type": "story-in-sequence",
        "images": images,
        "albums": list(albums.values()),
        "annotations": annotations,
    }


def draw_album(story, folder, size, seed):
    """Save a story's five pictures. Each has random numbers of its own, so the order of the work
    cannot change it."""
    for beat, photo in enumerate(story["photo_ids"]):
        picture = draw_picture(story, beat, size, random.Random(f"{seed}/{photo}"))
        picture.save(folder / "images" / story["split"] / f"{photo}.jpg", quality=90)


def draw_albums(albums, folder, size, seed, workers):
    draw = partial(draw_album, folder=folder, size=size, seed=seed)
    # Ctrl-C is for the parent to answer
    ignore_interrupt = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.Pool(workers, ignore_interrupt) as pool:
        for _ in tqdm(
            pool.imap_unordered(draw, albums, chunksize=8), "drawing", len(albums), unit="album"
        ):
            pass


def write_dataset(folder, settings, workers):
    """Write the dataset into `folder`, which does not exist yet: sis/, images/, references/, truth/
    and world.json."""
    splits = plan_stories(settings)
    for name in ("sis", "references", "truth", *(f"images/{split}" for split in splits)):
        (folder / name).mkdir(parents=True)
    albums = {story["album_id"]: story for stories in splits.values() for story in stories}
    draw_albums(list(albums.values()), folder, settings["size"], settings["seed"], workers)
    for split, stories in splits.items():
        rng = random.Random(f"{settings['seed']}/{split}/files")
        write_json(folder / "sis" / f"{split}.story-in-sequence.json", annotate(stories, rng))
        references = retell(stories, random.Random(f"{settings['seed']}/{split}/references"))
        write_json(folder / "references" / f"{split}.json", references)
        facts = (*SLOTS, "plot", "mood", "wordings", "photo_ids")
        truth = {story["story_id"]: {name: story[name] for name in facts} for story in stories}
        write_json(folder / "truth" / f"{split}.json", truth)
    write_json(folder / "world.json", world(settings))


def make_dataset(output, settings, workers=1, overwrite=False):
    """Draw the dataset at `output`, whole or not at all. Returns False where it stands there
    already.

    settings: {"stories": {split: number}, "stories_per_album", "seed", "size" in pixels}. Raises
    UserError where `output` holds anything else; only a picture book of other settings can be
    overwritten.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; expected a folder to write")
    if output.is_dir() and any(output.iterdir()):
        if not (output / "world.json").is_file():
            raise UserError(
                f"--output {output}: holds something that is not a picture book; expected a new folder"
            )
        if read_json(output / "world.json", WORLD_FILE) == world(settings):
            return False
        if not overwrite:
            raise UserError(
                f"--output {output}: holds a picture book of other settings; --overwrite replaces it"
            )
    with whole(output) as folder:
        write_dataset(folder, settings, workers)
    return True


# --------------------------------------------------------------------------------------------------
# The check: how far a system's stories follow their pictures.


class Book:
    """A picture book as the check reads it: the truth by photo id, the wordings by plot, beat and
    mood."""

    def __init__(self, folder):
        folder = Path(folder)
        book = read_json(folder / "world.json", WORLD_FILE)
        if not isinstance(book, dict) or not {"slots", "plots", "moods"} <= set(book):
            raise UserError(f"{folder / 'world.json'}: something else; expected {WORLD_FILE}")
        self.slots, self.plots, self.moods = book["slots"], book["plots"], book["moods"]
        self.slot_of = {word: slot for slot, words in self.slots.items() for word in words}
        self.mood_of, self.wordings = {}, {}
        for plot, beats in self.plots.items():
            for position, beat in enumerate(beats):
                moods = {
                    self.abstract(text): mood
                    for mood, texts in beat["wordings"].items()
                    for text in texts
                }
                self.wordings[plot, position] = set(moods)
                self.mood_of |= moods
        self.photos = {}
        for split in SPLITS:
            for story in read_json(
                folder / "truth" / f"{split}.json", "a picture book's truth"
            ).values():
                self.photos |= {
                    photo: (story, beat) for beat, photo in enumerate(story["photo_ids"])
                }
        train = read_json(
            folder / "sis" / "train.story-in-sequence.json", "a picture book's annotations"
        )
        told = {}
        for (entry,) in train["annotations"]:
            told.setdefault(entry["story_id"], {})[entry["worker_arranged_photo_order"]] = (
                normalise(entry["text"])
            )
        self.training = {tuple(story[beat] for beat in range(BEATS)) for story in told.values()}

    def abstract(self, text):
        """A sentence or a wording with {slot} for each slot word, normalised."""
        return " ".join(
            f"{{{self.slot_of[word]}}}" if word in self.slot_of else word for word in tokenise(text)
        )

    def place_story(self, story):
        """(facts, {beat: sentence}) of a story by its photos; facts is None where the book has none
        of them.

        A photo that is missing from a story stands for the beat of its position.
        """
        facts = next(
            (truth for truth, _ in filter(None, map(self.photos.get, story["photo_ids"]))), None
        )
        told = {}
        for beat in story["beats"]:
            found = self.photos.get(beat["photo_id"])
            told[found[1] if found else beat["position"]] = beat["sentence"]
        return facts, told

    def right_slots(self, facts, sentences):
        """{slot: whether every beat that is to name it has the right word and no other word of that
        slot}."""
        right = dict.fromkeys(self.slots, True)
        for beat, plan in enumerate(self.plots[facts["plot"]]):
            words = set(tokenise(sentences.get(beat, "")))
            for slot in plan["slots"]:
                right[slot] &= words & set(self.slots[slot]) == {facts[slot]}
        return right

    def tally(self, told):
        """{figure: [right, of]} over [(facts, {beat: sentence})]."""
        figures = {
            name: [0, len(told)]
            for name in (*self.slots, "all five beats", "beats", "one mood", *self.moods)
        }
        figures["beats"][1] *= BEATS
        for facts, sentences in told:
            texts = [self.abstract(sentences.get(beat, "")) for beat in range(BEATS)]
            beats = [text in self.wordings[facts["plot"], beat] for beat, text in enumerate(texts)]
            moods = set(map(self.mood_of.get, texts))
            right = {mood: moods == {mood} for mood in self.moods}
            right |= {
                "all five beats": all(beats),
                "beats": sum(beats),
                "one mood": any(right.values()),
            }
            right |= self.right_slots(facts, sentences)
            for name, count in right.items():
                figures[name][0] += count
        return figures


def next_other(all_facts):
    """For each story the facts of the next one with other pictures, round the end: what it should
    not fit."""
    others = []
    for k, facts in enumerate(all_facts):
        following = chain(all_facts[k + 1 :], all_facts[:k])
        others.append(
            next((other for other in following if other["photo_ids"] != facts["photo_ids"]), facts)
        )
    return others


def check_stories(stories, world_dir):
    """How far stories follow their pictures, and the same against the pictures of another story as
    a control.

    stories: as stories.read_stories gives them; world_dir: the picture book. Returns {"stories",
    "unknown": how many have no photo of this book, "figures": {name: [right, of]}, "control":
    likewise, "distinct": different stories, "in_training": word for word in the training set}. The
    figures count stories: with the right hero wherever one is to be named (and so on for each
    slot), with five sentences that are each a wording of its beat ("beats" counts those sentences),
    with five of one mood, and with five of each mood. Raises UserError where world_dir holds no
    picture book or no story has a photo of it.
    """
    book = Book(world_dir)
    told = [placed for placed in map(book.place_story, stories) if placed[0]]
    if not told:
        raise UserError(
            f"--world {world_dir}: none of the {len(stories)} stories has a photo of this picture book"
        )
    others = next_other([facts for facts, _ in told])
    texts = [
        tuple(normalise(sentences.get(beat, "")) for beat in range(BEATS)) for _, sentences in told
    ]
    return {
        "stories": len(stories),
        "unknown": len(stories) - len(told),
        "figures": book.tally(told),
        "control": book.tally([(facts, sentences) for facts, (_, sentences) in zip(others, told)]),
        "distinct": len(set(texts)),
        "in_training": sum(text in book.training for text in texts),
    }


def print_check(result):
    print(
        f"{result['stories']} stories; {result['unknown']} left out, having no photo of this picture book"
    )
    print(f"{'right':24}{'of its own pictures':>24}{'of another story':>20}")
    for name, (right, of) in result["figures"].items():
        wrong, _ = result["control"][name]
        print(f"{name:24}{right:>8} / {of:<6}{100 * right / of:5.1f} %{100 * wrong / of:18.1f} %")
    print(f"{'distinct stories':24}{result['distinct']:>8}")
    print(f"{'in the training set':24}{result['in_training']:>8}   word for word")


# --------------------------------------------------------------------------------------------------


def wrap(text, font, width):
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def draw_sheet(photo_paths, sentences, path, width=1280):
    """Write a PNG of one story, `width` pixels wide: its pictures side by side, each sentence
    beneath its picture."""
    gap, letters = width // 60, width / 75
    side = (width - gap) // len(photo_paths) - gap
    font, line = ImageFont.load_default(size=letters), round(1.4 * letters)
    texts = [wrap(sentence, font, side) for sentence in sentences]
    sheet = Image.new("RGB", (width, side + line * max(map(len, texts)) + 3 * gap), CREAM)
    pen = ImageDraw.Draw(sheet)
    for k, (photo, text) in enumerate(zip(photo_paths, texts)):
        left = gap + k * (side + gap)
        with Image.open(photo) as picture:
            sheet.paste(
                picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, gap)
            )
        for row, words in enumerate(text):
            pen.text((left + side / 2, side + 2 * gap + row * line), words, INK, font, anchor="ma")
    with whole(path) as temporary:
        sheet.save(temporary, "PNG")


def main():
    arguments = parse()
    if arguments.check:
        told = read_stories(arguments.check)
        for remark, count in (+told.remarks).items():
            warn(f"{arguments.check}: {count} stories {remark}")
        result = check_stories(told.stories, arguments.world)
        print_check(result)
        if arguments.json:
            write_json(arguments.json, result)
        return
    settings = {
        "stories": {split: getattr(arguments, split) for split in SPLITS},
        "stories_per_album": arguments.stories_per_album,
        "seed": arguments.seed,
        "size": arguments.size,
    }
    if make_dataset(arguments.output, settings, arguments.workers, arguments.overwrite):
        pictures = len(list(Path(arguments.output, "images").glob("*/*.jpg")))
        print(
            f"{arguments.output}: {sum(settings['stories'].values())} stories, {pictures} pictures written"
        )
    else:
        print(
            f"{arguments.output}: this picture book is there already, drawn with these settings; nothing to do"
        )
    print(
        "next: python dataset.py"
        + (f" --picturebook {arguments.output}" if arguments.output != BOOK else "")
    )


if __name__ == "__main__":
    run(main)
