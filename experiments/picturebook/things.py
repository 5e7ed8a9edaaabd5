"""The things of a scene, each a function of its name.

Feet at the origin and 100 units tall, unless they float: then their middle is at the origin.
"""

import math
from itertools import product

from experiments.picturebook.pen import (
    CREAM,
    DARK_WOOD,
    GREY,
    INK,
    ORANGE,
    WHITE,
    WOOD,
    arc,
    mix,
    star,
)


def magnifier(pen):
    pen.line(DARK_WOOD, 13, 24, -26, 48, -58)
    pen.oval(INK, 0, 8, 44)
    pen.oval("#d6f0fa", 0, 8, 34)
    pen.line(WHITE, 6, -18, 6, -4, 26)


def branch(pen):
    pen.line(DARK_WOOD, 14, -60, 0, 60, -6)
    pen.line(DARK_WOOD, 8, -30, -2, -50, 16)
    pen.ovals("#82a06e", (-54, 22, 14, 8, 30), (-62, -8, 14, 8, 30), (-44, -12, 14, 8, 30))


def bubble(pen):
    pen.oval(WHITE, 0, 0, 72, 52)
    pen.shape(WHITE, 30, -36, 62, -22, 84, -60)
    pen.page.draw_object(pen.at(size=82))


def hearts(pen):
    for x, y, size in ((-62, -8, 17), (-26, 30, 13), (30, 30, 17), (66, -4, 13)):
        heart = pen.at(x, y, size)
        for half in heart.halves():
            half.oval("#ec486e", 55, 0, 66, 62)
        heart.symmetric("#ec486e", 114, -20, 0, -145)


def cake(pen):
    sponge, icing = "#fae2be", "#f6b8c4"
    for width, low, high, fill in ((46, 0, 32, sponge), (34, 32, 58, icing), (22, 58, 80, sponge)):
        pen.box(fill, width, low, high)
        pen.line(WHITE, 7, 2 - width, high, width - 2, high)
        for x in range(8 - width, width - 4, 14):
            pen.oval(WHITE, x, high - 5, 5, 7)
    for x in (-12, 0, 12):
        pen.line("#96c8d2", 4, x, 82, x, 96)
        pen.oval(ORANGE, x, 101, 3.5, 5.5)
    pen.oval(GREY, 0, -1, 56, 5)


def box(pen):
    pen.box("#f4f0fa", 48, 0, 76)
    pen.box("#fcd66e", 9, 0, 76)
    pen.box("#e2dcee", 54, 70, 90)
    pen.box("#f0be50", 9, 70, 90)


def parcel(pen):
    box(pen)
    for half in pen.halves():
        half.oval("#fad66e", 17, 100, 17, 9, -25)
    pen.oval("#f0be50", 0, 94, 7)


def sled(pen):
    for half in pen.halves():
        half.line(DARK_WOOD, 16, 90, 40, 90, 0)
    pen.line(DARK_WOOD, 20, -150, 0, 140, 0, 180, 60)
    pen.line(WOOD, 24, -150, 44, 150, 44)


def cottage(pen):
    pen.box("#f8e8ce", 40, 0, 58)
    pen.symmetric("#785c54", 52, 56, 0, 100)
    pen.box("#483632", 24, 0, 46)
    pen.shape(WOOD, -24, 46, -42, 40, -42, -4, -24, 0)


def bunting(pen):
    fills = ("#fafafa", "#f496a0", "#78cece", "#fcd66e")
    points = [(x, -64 * math.cos(x / 137)) for x in range(-220, 221, 40)]
    pen.line(INK, 4, *points)
    for k, (x, y) in enumerate(points):
        pen.at(x, y).symmetric(fills[k % 4], 17, 0, 0, -54)


def signpost(pen):
    pen.box(DARK_WOOD, 6, 0, 96)
    left, right = pen.at(0, 44).halves()
    right.shape(WOOD, -34, 50, 34, 50, 52, 36, 34, 22, -34, 22)
    left.shape(mix(WOOD, CREAM, 0.25), -34, 14, 34, 14, 52, 0, 34, -14, -34, -14)
    for y in (84, 76, 48, 40):
        pen.line(DARK_WOOD, 3, -24, y, 24, y)


def backpack(pen):
    pen.oval("#966a48", 0, 40, 40, 48)
    pen.line(DARK_WOOD, 4, -36, 56, 0, 50, 36, 56)
    pen.oval("#be8e64", -14, 24, 18)
    pen.line("#cec4b0", 20, -26, 92, 26, 92)


def tent(pen):
    pen.symmetric("#f0e2c4", 78, 0, 0, 100)
    for half in pen.halves():
        half.shape("#d69660", 0, 100, 50, 0, 78, 0)
    pen.symmetric("#5c4642", 24, 0, 0, 66)
    pen.line(DARK_WOOD, 4, -5, 108, 0, 98, 5, 108)


def fire(pen):
    for fill, size in (("#f06e28", 100), ("#ffa832", 74), ("#ffe278", 46)):
        flame = pen.at(0, 10, size)
        flame.symmetric(fill, 34, 6, 40, 36, 26, 60, 20, 48, 12, 82, 7, 66, 0, 100)
    pen.line(DARK_WOOD, 13, -44, 0, 40, 14)
    pen.line(WOOD, 13, 44, 0, -40, 14)


def bed(pen):
    pen.oval(WOOD, 0, 56, 54, 46)
    pen.box(WOOD, 54, 0, 56)
    pen.oval(WHITE, 0, 48, 44, 26)


def quilt(pen):
    fills = (CREAM, "#ecbeaa", "#b0cece")
    pen.box(CREAM, 100, -10, 96)
    for row, column in product(range(2), range(5)):
        x, y = 40 * column - 80, 35 - 45 * row
        pen.at(x, y).box(fills[(2 * row + column) % 3], 20, 0, 45)


def chart(pen):
    """The map of the treasure."""
    pen.shape("#f6e2b2", -72, 90, -24, 100, 24, 90, 72, 100, 72, 6, 24, -4, -24, 6, -72, -4)
    for half in pen.halves():
        half.line("#d6bc8c", 3, 24, 96, 24, 2)
    pen.ovals(DARK_WOOD, (-54, 26, 5), (-38, 42, 5), (-18, 36, 5), (0, 54, 5), (16, 44, 5))
    for half in pen.at(46, 57).halves():
        half.line("#ce3c32", 9, -12, 13, 12, -13)


def bridge(pen):
    pen.box("#68b2cc", 180, -14, 16)
    arch = [(x, 52 + 22 * math.cos(x / 150 * 1.57)) for x in range(-150, 151, 25)]
    pen.line(DARK_WOOD, 22, *arch)
    for x, y in arch[::2]:
        pen.line(WOOD, 9, x, y, x, y + 44)
    pen.line(WOOD, 8, *((x, y + 40) for x, y in arch))


def earth(pen):
    heap = (-150, 0, 36), (-100, 0, 50), (-40, 0, 40), (20, 0, 46), (80, 0, 50), (140, 0, 38)
    flying = (-120, 210, 16), (-60, 330, 16), (130, 240, 16), (90, 120, 16)
    pen.ovals("#886042", *heap, *flying)


def spade(pen):
    pen.line(WOOD, 9, 0, 96, 0, 36)
    pen.line(WOOD, 9, -15, 98, 15, 98)
    pen.symmetric(GREY, 20, 42, 16, 10, 0, -2)


def chest(pen):
    pen.symmetric(DARK_WOOD, 58, 62, 50, 92)
    pen.box("#483632", 54, 50, 70)
    pen.box(WOOD, 58, 0, 56)
    for half in pen.halves():
        half.at(46).box("#f0c45a", 6, 0, 56)
    pen.box("#f0c45a", 10, 32, 56)


def cart(pen):
    pen.line(DARK_WOOD, 9, -90, 60, -160, 110)
    pen.symmetric("#c89264", 92, 92, 76, 24)
    pen.line(DARK_WOOD, 5, -86, 58, 86, 58)
    for half in pen.halves():
        half.oval(INK, 52, 14, 30)
        half.oval(GREY, 52, 14, 17)


def rock(pen):
    pen.shape("#84828c", -64, 0, -50, 62, -10, 92, 40, 70, 64, 0)
    pen.shape("#a6a4ac", -36, 54, -8, 80, 22, 66, -6, 46)


def bang(pen):
    for fill, size in (("#f08054", 70), ("#ffe278", 54)):
        pen.at(size=100 * size).shape(fill, *star(10, 0.66))


def crack(pen):
    pen.line(WHITE, 9, 6, 60, -10, 32, 12, 8, -12, -16, 8, -38, -4, -62)
    for x, y in ((-52, -46), (52, -40), (40, 48)):
        pen.shape(INK, x - 7, y, x + 2, y + 8, x + 6, y - 6)


def mushroom(pen):
    pen.symmetric("#f6ead6", 9, 66, 13, 0)
    pen.shape("#be8c6e", *((56 * u, 64 + 36 * v) for u, v in arc(14)))
    pen.ovals(CREAM, (-32, 76, 7), (0, 86, 8), (32, 76, 7), (14, 71, 4))


def gears(pen):
    steel, brass = "#848c9c", "#cea054"
    for x, y, size, fill in ((-56, 0, 40, steel), (18, -4, 30, brass), (72, 14, 24, steel)):
        gear = pen.at(x, y, size)
        for k in range(8):
            gear.at(tilt=45 * k).box(fill, 20, 0, 122)
        gear.oval(fill, 0, 0, 100)
        gear.oval(CREAM, 0, 0, 42)


def bench(pen):
    pen.box(WOOD, 100, 66, 96)
    for half in pen.halves():
        half.at(80).box(DARK_WOOD, 10, 0, 66)


def notes(pen):
    for x, y, tilt in ((-50, -12, -8), (-4, 18, 6), (44, 2, -4)):
        note = pen.at(x, y, tilt=tilt)
        note.line(INK, 3.5, -3, -10, -3, 16, 15, 20, 15, -5)
        note.line(INK, 5, -3, 15, 15, 19)
        note.ovals(INK, (-8, -11, 7, 5, -20), (10, -6, 7, 5, -20))


def plaster(pen):
    for tilt in (35, -35):
        pen.at(tilt=tilt).box("#f6d6b2", 62, -17, 17)
    pen.box(WHITE, 16, -16, 16)


def telescope(pen):
    for x in (-34, 0, 34):
        pen.line(DARK_WOOD, 6, 0, 50, x, 0)
    tube = pen.at(0, 58, tilt=55)
    tube.box("#d6aa60", 11, -40, 14)
    tube.box("#f0ce82", 15, 14, 56)
    tube.box(INK, 17, 56, 62)


def rocket(pen):
    for half in pen.halves():
        half.shape("#ec785a", 16, 36, 34, 4, 14, 8)
    pen.symmetric(CREAM, 13, 0, 20, 24, 20, 52, 12, 80, 0, 100)
    pen.symmetric("#ec785a", 12, 80, 0, 100)
    pen.oval("#60687a", 0, 54, 12)
    pen.oval("#bee8f4", 0, 54, 8.5)
    pen.line(GREY, 3, -19, 22, 19, 22)


def launch(pen):
    tilted = pen.at(tilt=35)
    tilted.symmetric(ORANGE, 16, -2, 8, -22, 0, -40)
    tilted.symmetric("#ffe278", 9, -2, 0, -24)
    rocket(tilted)


def planet(pen):
    pen.oval("#eca878", 0, 0, 40)
    pen.oval("#facea0", -6, 12, 26, 10, -12)
    pen.line("#fae8be", 7, *((70 * u, -18 * v) for u, v in arc(14)))


def parachute(pen):
    for x in (-74, -26, 26, 74):
        pen.line(CREAM, 2, x, 28, x / 9, -46)
    for width, fill in ((82, "#f49682"), (48, CREAM), (16, "#f49682")):
        pen.shape(fill, *((width * u, 28 + 62 * v) for u, v in arc(14)))
