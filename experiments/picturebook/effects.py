"""What glows or drifts over the whole picture.

These have no paper edge, and alone may use the page's random numbers.
"""

from experiments.picturebook.pen import INK, WHITE, arc, circle, mix, star


def sun(pen):
    for tilt in range(0, 360, 30):
        pen.at(tilt=tilt).symmetric("#ffd66e", 7, 34, 0, 52)
    pen.oval("#ffe282", 0, 0, 34)


def moon(pen):
    pen.oval("#fff4c8", 0, 0, 50)
    pen.ovals("#eedeac", (-16, 12, 9), (14, -8, 12), (-8, -24, 6))


def wind(pen):
    for y, left, right in ((44, -60, 24), (14, -74, 0), (-16, -48, 44), (-44, -70, 16)):
        curl = [(right + 12 * v, y + 12 - 12 * u) for u, v in circle(16)[:13]]
        pen.line(WHITE, 5, (left, y), *curl)


def footprints(pen):
    for k in range(7):
        foot = pen.at(68 * k - 230, 22 if k % 2 else -22)
        foot.ovals(INK, (0, 0, 16, 13), (18, -12, 6), (22, 0, 6), (18, 12, 6))


def flakes(pen):
    for x, y in pen.scatter(46, 0, 100, 100, 0):
        pen.oval(WHITE, x, y, pen.page.rng.uniform(0.8, 1.8))


def confetti(pen):
    rng = pen.page.rng
    for x, y in pen.scatter(30, 0, 100, 84, 8):
        bit = pen.at(x, y, rng.uniform(1.6, 2.6), tilt=rng.uniform(0, 90))
        bit.box(rng.choice(("#fafafa", "#f47896", "#5acece", "#fcd65a")), 50, -50, 50)


def drops(pen):
    for x, y in pen.scatter(44, 0, 104, 104, 4):
        pen.line("#ecf4ff", 1.1, x, y, x - 2.2, y - 7)


def glow(pen):
    for size, light in ((100, 0.35), (70, 0.7)):
        pen.at(size=size).oval(mix("#6e5c78", "#ffce78", light), 0, 0, 72, 22)


def hole(pen):
    pen.oval("#5c4030", 0, 0, 170, 46)


def rays(pen):
    for tilt in range(0, 360, 30):
        pen.at(tilt=tilt).symmetric("#fff0aa", 5, 14, 13, 66)


def rainbow(pen):
    bands = ("#e85c58", "#f6a650", "#fade6e", "#82c478", "#6ca8e4", "#a07ccc")
    for k, fill in enumerate(bands):
        r = 76 - 5.4 * k
        pen.line(fill, 6, *((r * u, 1.12 * r * v) for u, v in arc(18)))


def shadow(pen):
    pen.oval("#5a5a64", 0, 0, 220, 40)


def smoke(pen):
    puffs = (-52, -30, 24), (-34, -18, 20), (-20, -6, 16), (-70, -46, 26), (-30, -40, 18)
    pen.ovals("#eeeef4", *puffs)


def comet(pen):
    pen.shape("#ffecaa", -130, -40, -10, 12, 8, -12)
    pen.shape("#fffad6", *((40 * v, 40 * u) for u, v in star(5, 0.43)))
