"""What glows or drifts over the whole picture.

These have no paper edge, and alone may use the page's random numbers.
"""

import math

from experiments.picturebook.pen import INK, WHITE, arc, mix, star


def sun(pen, page):
    for k in range(12):
        pen.at(0, 0, tilt=30 * k).shape("#ffd66e", -7, -34, 7, -34, 0, -52)
    pen.oval("#ffe282", 0, 0, 34, 34)


def moon(pen, page):
    pen.oval("#fff4c8", 0, 0, 50, 50)
    for x, y, r in ((-16, -12, 9), (14, 8, 12), (-8, 24, 6)):
        pen.oval("#eedeac", x, y, r, r)


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


def flakes(pen, page):
    for _ in range(46):
        pen.oval(
            WHITE,
            page.rng.uniform(0, 100),
            page.rng.uniform(0, 100),
            *[page.rng.uniform(0.8, 1.8)] * 2,
        )


def confetti(pen, page):
    rng = page.rng
    for _ in range(30):
        bit = pen.at(
            rng.uniform(0, 100), rng.uniform(16, 92), rng.uniform(1.6, 2.6), tilt=rng.uniform(0, 90)
        )
        bit.box(rng.choice(("#fafafa", "#f47896", "#5acece", "#fcd65a")), -50, -50, 50, 50)


def drops(pen, page):
    for _ in range(44):
        x, y = page.rng.uniform(0, 104), page.rng.uniform(-4, 96)
        pen.line("#ecf4ff", 1.1, x, y, x - 2.2, y + 7)


def glow(pen, page):
    for size, light in ((100, 0.35), (70, 0.7)):
        pen.at(0, 0, size).oval(mix("#6e5c78", "#ffce78", light), 0, 0, 72, 22)


def hole(pen, page):
    pen.oval("#5c4030", 0, 0, 170, 46)


def rays(pen, page):
    for k in range(12):
        pen.at(0, 0, tilt=30 * k).shape("#fff0aa", -5, -14, 5, -14, 13, -66, -13, -66)


def rainbow(pen, page):
    bands = ("#e85c58", "#f6a650", "#fade6e", "#82c478", "#6ca8e4", "#a07ccc")
    for k, fill in enumerate(bands):
        r = 76 - 5.4 * k
        pen.line(fill, 6, *((r * u, -1.12 * r * v) for u, v in arc(18)))


def shadow(pen, page):
    pen.oval("#5a5a64", 0, 0, 220, 40)


def smoke(pen, page):
    for x, y, r in ((-52, 30, 24), (-34, 18, 20), (-20, 6, 16), (-70, 46, 26), (-30, 40, 18)):
        pen.oval("#eeeef4", x, y, r, r)


def comet(pen, page):
    pen.shape("#ffecaa", -130, 40, -10, -12, 8, 12)
    pen.shape("#fffad6", *((40 * v, -40 * u) for u, v in star(5, 0.43)))


LOOSE = {draw.__name__: draw for draw in (
    sun, moon, wind, footprints, flakes, confetti, drops, glow, hole, rays, rainbow, shadow, smoke,
    comet)}  # fmt: skip
