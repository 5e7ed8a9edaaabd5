"""The heroes: feet at the origin, 100 units tall."""

from experiments.picturebook.pen import CREAM, GREY, INK, ORANGE, PINK, ROUND, WHITE, mix

HANDS = {  # the left and the right one, from the middle outwards and from the ground up
    "stand": ((31, 20), (31, 20)),
    "hold": ((30, 20), (38, 38)),
    "wave": ((30, 20), (41, 66)),
    "hold_left": ((38, 38), (30, 20)),
    "cheer": ((41, 66), (41, 66)),
    "hug": ((14, 24), (14, 24)),
    "walk": ((33, 28), (33, 24)),
    "hold2": ((34, 32), (34, 32)),
}
SHAPES = {  # the head's middle and radii, the belly's radius, how far out and how long a foot is
    "fox": (62, 31, 26, 24, 13, 11),
    "rabbit": (54, 26, 23, 24, 13, 11),
    "bear": (62, 31, 26, 27, 13, 11),
    "frog": (60, 34, 21, 24, 26, 14),
    "penguin": (64, 31, 26, 27, 13, 12),
}


def tail_and_body(pen, hero, fur, light, pose):
    if hero == "fox":
        pen.oval(fur, 32, 24, 13, 27, 35)
        pen.oval(CREAM, 43, 40, 8, 11, 35)
    elif hero == "rabbit":
        pen.oval(CREAM, 24, 14, 9)
    *_, belly, foot_x, foot = SHAPES[hero]
    stride = 6 if pose == "walk" else 0
    feet, arms = mix(fur, INK, 0.22), fur
    if hero == "penguin":
        feet, arms, light = ORANGE, feet, WHITE
    for half, lift in zip(pen.halves(), (0, stride)):
        half.oval(feet, foot_x + stride, 5 + lift, foot, 6.5)
    pen.oval(fur, 0, 28, belly, 28)
    pen.oval(light, 0, 25, 15, 19)
    for half, hand in zip(pen.halves(), HANDS[pose]):
        half.line(arms, 11, 19, 40, *hand)


def ears_and_face(head, hero, fur, light, asleep):
    eye_x, eye_y = 11, 3
    halves = head.halves()
    if hero == "fox":
        for half in halves:
            half.shape(fur, 29, 6, 27, 44, 3, 20)
            half.shape(INK, 26, 20, 25, 38, 13, 22)
        head.symmetric(CREAM, 0, -12, 14, -2, 30, -1, 14, -20, 0, -26)
        head.oval(INK, 0, -20, 5, 4.5)
    elif hero == "rabbit":
        for half in halves:
            half.oval(fur, 13, 36, 9.5, 28, 12)
            half.oval(PINK, 13, 36, 4.5, 20, 12)
        head.oval(CREAM, 0, -11, 12, 9)
        head.oval(PINK, 0, -6, 4, 3)
        head.box(WHITE, 3, -19, -13)
    elif hero == "bear":
        for half in halves:
            half.oval(fur, 23, 22, 12)
            half.oval(light, 23, 22, 6.5)
        head.oval(light, 0, -9, 14, 11)
        head.oval(INK, 0, -4, 6, 4.5)
        head.line(INK, 1.6, -6, -13, 0, -15, 6, -13)
    elif hero == "frog":
        eye_x, eye_y = 18, 22
        for half in halves:
            half.oval(fur, eye_x, eye_y, 13)
            half.oval(WHITE, eye_x, eye_y, 9)
        head.line(INK, 2.4, -22, -4, -12, -10, 0, -12, 12, -10, 22, -4)
    else:
        for half in halves:
            half.oval(WHITE, 10, 0, 12, 14)
        head.oval(WHITE, 0, -9, 17, 11)
        head.symmetric(ORANGE, 9, -3, 0, -13)
    if head.halo:  # the rest does not reach over the edge
        return
    for x in (-eye_x, eye_x):
        eye = head.at(x, eye_y)
        if asleep:
            eye.line(INK, 2, -5, 0, 0, -3, 5, 0)
        else:
            eye.oval(INK, 0, 0, 4.2, 5.2)
            eye.oval(WHITE, 1.4, 1.8, 1.5, 1.7)
    for half in halves:
        half.oval(PINK, 20, -9, 4.5, 3)


def draw_hero(pen, pose="stand", extra=""):
    hero, fur = pen.page.hero, pen.page.fur
    light = mix(fur, CREAM, 0.72)
    if hero == "rabbit":
        pen = pen.at(size=92)
    middle, rx, ry, *_ = SHAPES[hero]
    tail_and_body(pen, hero, fur, light, pose)
    head = pen.at(0, middle)
    head.oval(fur, 0, 0, rx, ry)
    ears_and_face(head, hero, fur, light, extra == "asleep")
    if extra == "hat":
        cap = head.at(0, 34 if hero == "frog" else 22)
        cap.ovals(WHITE, (-11, 16, 12, 10), (11, 16, 12, 10), (0, 22, 12, 10))
        cap.box(WHITE, 13, -2, 14)
        cap.line(GREY, 1.5, -13, 2, 13, 2)
    if extra == "helmet":
        ring = [(40 * u, 4 + 38 * v) for u, v in (*ROUND, ROUND[0])]
        head.line(mix(GREY, WHITE, 0.5), 5, *ring)
