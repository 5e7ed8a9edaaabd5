"""The heroes: feet at the origin, 100 units tall."""

from experiments.picturebook.pen import CREAM, GREY, INK, ORANGE, PINK, ROUND, WHITE, mix

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
            pen.shape(fur, side * 29, -68, side * 27, -106, side * 3, -82)
            pen.shape(INK, side * 26, -82, side * 25, -100, side * 13, -84)
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
        pen.line(dark if hero == "penguin" else fur, 11, side * 19, -40, x, y)


def face(pen, hero, light, asleep):
    middle = HEADS[hero]
    eye, eye_x, eye_y = WHITE, 11, middle - 3
    if hero == "fox":
        pen.shape(
            CREAM, -30, middle + 1, -14, middle + 2, 0, middle + 12, 14, middle + 2,
            30, middle + 1, 14, middle + 20, 0, middle + 26, -14, middle + 20)  # fmt: skip
        pen.oval(INK, 0, middle + 20, 5, 4.5)
    elif hero == "rabbit":
        pen.oval(CREAM, 0, middle + 11, 12, 9)
        pen.oval(PINK, 0, middle + 6, 4, 3)
        pen.box(WHITE, -3, middle + 13, 3, middle + 19)
    elif hero == "bear":
        pen.oval(light, 0, middle + 9, 14, 11)
        pen.oval(INK, 0, middle + 4, 6, 4.5)
        pen.line(INK, 1.6, -6, middle + 13, 0, middle + 15, 6, middle + 13)
    elif hero == "frog":
        eye_x, eye_y = 18, middle - 22
        pen.line(
            INK, 2.4, -22, middle + 4, -12, middle + 10, 0, middle + 12, 12, middle + 10,
            22, middle + 4)  # fmt: skip
        for side in (-1, 1):
            pen.oval(WHITE, side * eye_x, eye_y, 9, 9)
    else:
        for side in (-1, 1):
            pen.oval(WHITE, side * 10, middle, 12, 14)
        pen.oval(WHITE, 0, middle + 9, 17, 11)
        pen.shape(ORANGE, -9, middle + 3, 9, middle + 3, 0, middle + 13)
    for side in (-1, 1):
        if asleep:
            pen.line(
                INK, 2, side * eye_x - 5, eye_y, side * eye_x, eye_y + 3, side * eye_x + 5, eye_y
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
        cap.line(GREY, 1.5, -13, -2, 13, -2)
    if helmet:
        pen.line(
            mix(GREY, WHITE, 0.5), 5, *((40 * u, middle - 4 + 38 * v) for u, v in ROUND + ROUND[:1])
        )
