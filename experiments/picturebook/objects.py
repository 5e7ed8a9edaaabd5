"""The objects: their middle at the origin, 100 units tall, in colours of their own."""

from experiments.picturebook.pen import DARK_WOOD, INK, PINK, WHITE, WOOD


def kite(pen):
    teal, sky = "#18b0b2", "#7ee0d6"
    pen.line(INK, 2.5, 0, 30, 10, 42, -4, 52, 6, 64)
    for x, y in ((9, 42), (-3, 53)):
        pen.shape(PINK, x - 9, y - 5, x + 9, y + 5, x + 9, y - 5, x - 9, y + 5)
    pen.shape(teal, 0, -50, 38, -12, 0, 36, -38, -12)
    pen.shape(sky, 0, -50, 38, -12, 0, -12)
    pen.shape(sky, 0, 36, -38, -12, 0, -12)


def balloon(pen):
    pen.line(INK, 2.5, 0, 22, 5, 34, -4, 46, 2, 56)
    pen.shape("#d63280", -6, 27, 6, 27, 0, 18)
    pen.oval("#f0549c", 0, -14, 33, 37)
    pen.oval("#ffc4e0", -12, -28, 7, 11, 25)


def boat(pen):
    pen.line(DARK_WOOD, 5, 0, 20, 0, -52)
    pen.shape(WHITE, 4, -48, 42, 12, 4, 12)
    pen.shape("#d6dce6", -4, -40, -34, 12, -4, 12)
    pen.shape("#26325c", -48, 18, 48, 18, 32, 46, -32, 46)
    pen.line(WHITE, 4, -38, 27, 38, 27)


def drum(pen):
    pen.box("#faeac8", -38, -22, 38, 32)
    pen.oval("#faeac8", 0, 32, 38, 12)
    pen.line("#783c28", 5, -36, 34, -24, -10, -12, 38, 0, -8, 12, 38, 24, -10, 36, 34)
    pen.oval("#783c28", 0, -20, 41, 15)
    pen.oval(WHITE, 0, -22, 36, 11)
    pen.line(WOOD, 6, -34, -52, -6, -22)
    pen.line(WOOD, 6, 34, -52, 6, -22)


def robot(pen):
    steel, dark = "#acb6c4", "#626c7c"
    pen.line(dark, 4, 0, -34, 0, -48)
    pen.oval("#ff785a", 0, -50, 6, 6)
    for side in (-1, 1):
        pen.line(dark, 8, side * 22, 4, side * 38, 20)
        pen.box(dark, side * 13 - 7, 30, side * 13 + 7, 50)
    pen.box(steel, -26, -6, 26, 36)
    pen.box(steel, -30, -40, 30, -6)
    pen.box(INK, -22, -32, 22, -14)
    for side in (-1, 1):
        pen.oval("#96f0ff", side * 11, -23, 6, 6)
    pen.oval("#ffd65a", -8, 14, 6, 6)
    pen.oval("#ff785a", 9, 14, 6, 6)


def pumpkin(pen):
    deep = "#e27018"
    pen.line("#60783c", 9, 0, -24, 6, -46)
    for x, fill in ((-26, deep), (26, deep), (-13, "#f48c26"), (13, "#f48c26"), (0, "#fca23c")):
        pen.oval(fill, x, 8, 20, 34)


OBJECTS = {draw.__name__: draw for draw in (kite, balloon, boat, drum, robot, pumpkin)}
