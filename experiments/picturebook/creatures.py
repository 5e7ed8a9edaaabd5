"""Whom a hero meets: feet at the origin, 100 units tall."""

from experiments.picturebook.pen import CREAM, GREY, INK, ORANGE, PINK, WHITE, WOOD, mix


def owl(pen):
    brown = "#8c705c"
    pen.oval(brown, 0, 48, 42, 48)
    pen.oval("#e8d8c0", 0, 34, 26, 30)
    for half in pen.halves():
        half.shape(brown, 34, 76, 36, 106, 8, 90)
        half.oval(mix(brown, INK, 0.3), 40, 40, 11, 28, -10)
        half.oval(WHITE, 17, 66, 18)
        half.oval(INK, 15, 66, 8)
        half.oval(ORANGE, 12, 0, 8, 6)
    pen.symmetric(ORANGE, 7, 58, 0, 44)


def hedgehog(pen):
    fur, pale = "#70584c", "#f0d4b4"
    for tilt in range(-125, 126, 25):
        pen.at(0, 44, tilt=tilt).symmetric(fur, 13, 30, 0, 60)
    pen.oval(fur, 0, 42, 40, 42)
    pen.oval(pale, 0, 32, 27, 31)
    for half in pen.halves():
        half.oval(INK, 10, 42, 4.5, 5.5)
        half.oval(pale, 14, 2, 10, 5)
    pen.oval(INK, 0, 30, 6, 5)


def monster(pen):
    fur = "#423c54"
    for tilt in range(-110, 107, 18):
        pen.at(0, 50, tilt=tilt).symmetric(fur, 12, 38, 0, 58)
    pen.oval(fur, 0, 46, 44, 50)
    pen.symmetric(INK, 24, 34, 14, 20)
    for half in pen.halves():
        half.shape(CREAM, 32, 82, 36, 108, 18, 90)
        half.oval("#fcfadc", 17, 62, 15, 16)
        half.oval(INK, 15, 60, 6, 7)
    for x in (-14, 0, 14):
        pen.shape(WHITE, x - 5, 34, x + 5, 34, x, 26)


def mole(pen):
    fur = "#5c545c"
    pen.oval(fur, 0, 44, 36, 46)
    pen.oval("#968c92", 0, 24, 20, 22)
    pen.line(fur, 14, -28, 44, -44, 66)
    pen.line(WOOD, 7, -36, 54, -58, 100)
    pen.at(-60, 92).box(GREY, 20, 0, 20)
    for half in pen.halves():
        half.oval(WHITE, 12, 66, 9)
        half.oval(INK, 11, 66, 4)
        half.oval(PINK, 16, 3, 12, 6)
    pen.oval(PINK, 0, 52, 8, 7)


def alien(pen):
    skin = "#cef0d6"
    pen.oval(skin, 0, 24, 24)
    pen.oval(skin, 0, 62, 36, 28)
    for half in pen.halves():
        half.line(skin, 5, 10, 80, 22, 100)
        half.oval("#ff8ca0", 22, 102, 6)
        half.oval(skin, 14, 3, 11, 6)
        half.line(skin, 9, 18, 28, 38, 40)
    for x in (-19, 0, 19):
        pen.oval(WHITE, x, 66, 9)
        pen.oval(INK, x, 65, 4.5)
