"""The objects: their middle at the origin, 100 units tall, in colours of their own."""

from experiments.picturebook.pen import DARK_WOOD, INK, PINK, WHITE, WOOD


def kite(pen):
    pen.line(INK, 2.5, 0, -30, 10, -42, -4, -52, 6, -64)
    for x, y in ((9, -42), (-3, -53)):
        pen.shape(PINK, x - 9, y + 5, x + 9, y - 5, x + 9, y + 5, x - 9, y - 5)
    pen.symmetric("#18b0b2", 0, 50, 38, 12, 0, -36)
    for tip, side in ((50, 38), (-36, -38)):
        pen.shape("#7ee0d6", 0, tip, side, 12, 0, 12)


def balloon(pen):
    pen.line(INK, 2.5, 0, -22, 5, -34, -4, -46, 2, -56)
    pen.symmetric("#d63280", 6, -27, 0, -18)
    pen.oval("#f0549c", 0, 14, 33, 37)
    pen.oval("#ffc4e0", -12, 28, 7, 11, 25)


def boat(pen):
    pen.line(DARK_WOOD, 5, 0, -20, 0, 52)
    pen.shape(WHITE, 4, 48, 42, -12, 4, -12)
    pen.shape("#d6dce6", -4, 40, -34, -12, -4, -12)
    pen.symmetric("#26325c", 48, -18, 32, -46)
    pen.line(WHITE, 4, -38, -27, 38, -27)


def drum(pen):
    skin, rope = "#faeac8", "#783c28"
    pen.box(skin, 38, -32, 22)
    pen.oval(skin, 0, -32, 38, 12)
    pen.line(rope, 5, -36, -34, -24, 10, -12, -38, 0, 8, 12, -38, 24, 10, 36, -34)
    pen.oval(rope, 0, 20, 41, 15)
    pen.oval(WHITE, 0, 22, 36, 11)
    for half in pen.halves():
        half.line(WOOD, 6, 34, 52, 6, 22)


def robot(pen):
    steel, dark, light = "#acb6c4", "#626c7c", "#ff785a"
    pen.line(dark, 4, 0, 34, 0, 48)
    pen.oval(light, 0, 50, 6)
    for half in pen.halves():
        half.line(dark, 8, 22, -4, 38, -20)
        half.at(13).box(dark, 7, -50, -30)
    pen.box(steel, 26, -36, 6)
    pen.box(steel, 30, 6, 40)
    pen.box(INK, 22, 14, 32)
    for half in pen.halves():
        half.oval("#96f0ff", 11, 23, 6)
    pen.oval("#ffd65a", -8, -14, 6)
    pen.oval(light, 9, -14, 6)


def pumpkin(pen):
    pen.line("#60783c", 9, 0, 24, 6, 46)
    for x, fill in ((26, "#e27018"), (13, "#f48c26"), (0, "#fca23c")):
        for half in pen.halves():
            half.oval(fill, x, -8, 20, 34)
