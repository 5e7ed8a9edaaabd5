"""The pen and its colours.

Everything is drawn as polygons in a frame that can be moved, scaled, mirrored and tilted. In every
frame y counts upwards.
"""

import math
from copy import copy
from functools import lru_cache

import numpy as np
from PIL.ImageColor import getrgb

CREAM, WHITE, INK, PINK = "#fff9ec", "#ffffff", "#342c3c", "#f6a0a0"
WOOD, DARK_WOOD, GREY, ORANGE = "#b07c52", "#80563a", "#a8acb8", "#f28c2c"


def circle(corners):
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def arc(steps):
    """The upper half of a circle, from right to left."""
    return circle(2 * steps)[: steps + 1]


def star(points, inner):
    return [(u * r, v * r) for (u, v), r in zip(circle(2 * points), (1, inner) * points)]


ROUND = np.array(circle(28))


def mix(one, other, share):
    """A colour between two: `share` 0 is the first, 1 the second."""
    pairs = zip(getrgb(one), getrgb(other))
    return f"rgb{tuple(round(a + (b - a) * share) for a, b in pairs)}"


@lru_cache
def shine(fill, tint):
    """What a colour looks like in a light."""
    return tuple(part * light // 255 for part, light in zip(getrgb(fill), getrgb(tint)))


class Pen:
    """Draws in a frame of its own: `matrix` takes (x, y, 1) to pixels.

    halo: draw every shape this many pixels larger and in cream, for a paper edge; tint: the light
    it all stands in.
    """

    halo, tint = 0, WHITE

    def __init__(self, page, scale):
        """Over a whole page of 100 units, `scale` pixels each."""
        self.page, self.scale = page, scale
        self.matrix = scale * np.array([[1, 0, 0], [0, -1, 100]])

    def at(self, x=0, y=0, size=100, flip=False, tilt=0):
        """A pen whose origin is (x, y) of this frame, whose 100 units are `size` of this frame's;
        `tilt` in degrees."""
        frame = np.eye(3)
        frame[:2, :2] = size / 100 * rotation(tilt)
        if flip:
            frame[0] *= -1
        frame[:2, 2] = x, y
        pen = copy(self)
        pen.matrix, pen.scale = self.matrix @ frame, self.scale * size / 100
        return pen

    def scatter(self, count, left, right, high, low):
        """Random places in that part of this frame."""
        uniform = self.page.rng.uniform
        for _ in range(count):
            yield uniform(left, right), uniform(high, low)

    def halves(self):
        """Two pens, for what stands on the left and on the right alike."""
        return self.at(flip=True), self

    def colour(self, fill):
        return CREAM if self.halo else shine(fill, self.tint)

    def pixels(self, points):
        """Points, flat or in pairs, in pixels."""
        points = np.array(points, float).reshape(-1, 2) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return list(map(tuple, points.tolist()))

    def shape(self, fill, *points):
        pixels = self.pixels(points)
        if self.halo:
            self.page.draw.line(pixels + pixels[:2], CREAM, round(2 * self.halo), joint="curve")
        self.page.draw.polygon(pixels, self.colour(fill))

    def symmetric(self, fill, *right):
        """A shape by the corners of its right half."""
        right = list(zip(right[::2], right[1::2]))
        self.shape(fill, *right, *((-x, y) for x, y in reversed(right)))

    def oval(self, fill, x, y, rx, ry=0, tilt=0):
        """An ellipse; without `ry` a circle."""
        ry, edge = ry or rx, self.halo / self.scale
        if self.halo and (max(rx, ry) + edge) * self.scale < 5:
            return  # a detail inside something larger, which has the paper edge
        corners = ROUND * (rx + edge, ry + edge)
        points = corners @ rotation(tilt).T + (x, y)
        self.page.draw.polygon(self.pixels(points), self.colour(fill))

    def ovals(self, fill, *ovals):
        for oval in ovals:
            self.oval(fill, *oval)

    def line(self, fill, width, *points):
        pixels, width = self.pixels(points), max(1, round(width * self.scale + 2 * self.halo))
        fill = self.colour(fill)
        self.page.draw.line(pixels, fill, width, joint="curve")
        if width > 3:
            for end in (pixels[0], pixels[-1]):
                self.page.draw.circle(end, width / 2, fill)

    def box(self, fill, width, low, high):
        """As far to the left as to the right."""
        self.symmetric(fill, width, high, width, low)


@lru_cache
def rotation(degrees):
    """Clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])
