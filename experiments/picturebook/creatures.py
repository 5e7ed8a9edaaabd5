"""Whom a hero meets: feet at the origin, 100 units tall."""

from experiments.picturebook.pen import CREAM, GREY, INK, ORANGE, PINK, WHITE, WOOD, mix


def owl(pen, page):
    brown, pale = "#8c705c", "#e8d8c0"
    for side in (-1, 1):
        pen.shape(brown, side * 34, -76, side * 36, -106, side * 8, -90)
    pen.oval(brown, 0, -48, 42, 48)
    pen.oval(pale, 0, -34, 26, 30)
    for side in (-1, 1):
        pen.oval(mix(brown, INK, 0.3), side * 40, -40, 11, 28, side * -10)
        pen.oval(WHITE, side * 17, -66, 18, 18)
        pen.oval(INK, side * 15, -66, 8, 8)
        pen.oval(ORANGE, side * 12, 0, 8, 6)
    pen.shape(ORANGE, -7, -58, 7, -58, 0, -44)


def hedgehog(pen, page):
    spikes, pale = "#70584c", "#f0d4b4"
    for k in range(11):
        pen.at(0, -44, tilt=-125 + 25 * k).shape(spikes, -13, -30, 13, -30, 0, -60)
    pen.oval(spikes, 0, -42, 40, 42)
    pen.oval(pale, 0, -32, 27, 31)
    for side in (-1, 1):
        pen.oval(INK, side * 10, -42, 4.5, 5.5)
        pen.oval(pale, side * 14, -2, 10, 5)
    pen.oval(INK, 0, -30, 6, 5)


def monster(pen, page):
    fur = "#423c54"
    for k in range(13):
        pen.at(0, -50, tilt=-110 + 18 * k).shape(fur, -12, -38, 12, -38, 0, -58)
    pen.oval(fur, 0, -46, 44, 50)
    for side in (-1, 1):
        pen.shape(CREAM, side * 32, -82, side * 36, -108, side * 18, -90)
        pen.oval("#fcfadc", side * 17, -62, 15, 16)
        pen.oval(INK, side * 15, -60, 6, 7)
    pen.shape(INK, -24, -34, 24, -34, 14, -20, -14, -20)
    for x in (-14, 0, 14):
        pen.shape(WHITE, x - 5, -34, x + 5, -34, x, -26)


def mole(pen, page):
    fur = "#5c545c"
    pen.oval(fur, 0, -44, 36, 46)
    pen.oval("#968c92", 0, -24, 20, 22)
    pen.line(fur, 14, -28, -44, -44, -66)
    pen.line(WOOD, 7, -36, -54, -58, -100)
    pen.box(GREY, -80, -112, -40, -92)
    for side in (-1, 1):
        pen.oval(WHITE, side * 12, -66, 9, 9)
        pen.oval(INK, side * 11, -66, 4, 4)
        pen.oval(PINK, side * 16, -3, 12, 6)
    pen.oval(PINK, 0, -52, 8, 7)


def alien(pen, page):
    skin = "#cef0d6"
    for side in (-1, 1):
        pen.line(skin, 5, side * 10, -80, side * 22, -100)
        pen.oval("#ff8ca0", side * 22, -102, 6, 6)
        pen.oval(skin, side * 14, -3, 11, 6)
        pen.line(skin, 9, side * 18, -28, side * 38, -40)
    pen.oval(skin, 0, -24, 24, 24)
    pen.oval(skin, 0, -62, 36, 28)
    for x in (-19, 0, 19):
        pen.oval(WHITE, x, -66, 9, 9)
        pen.oval(INK, x, -65, 4.5, 4.5)
