"""The pen and its colours.

Everything is drawn as polygons in a frame that can be moved, scaled, mirrored and tilted.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import ImageColor, ImageDraw

CREAM, WHITE, INK, PINK = "#fff9ec", "#ffffff", "#342c3c", "#f6a0a0"
WOOD, DARK_WOOD, GREY, ORANGE = "#b07c52", "#80563a", "#a8acb8", "#f28c2c"


def circle(corners: int) -> list[tuple[float, float]]:
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def arc(steps: int) -> list[tuple[float, float]]:
    """Half a circle, from right to left."""
    return circle(2 * steps)[: steps + 1]


def star(points: int, inner: float) -> list[tuple[float, float]]:
    return [(u * r, v * r) for (u, v), r in zip(circle(2 * points), (1, inner) * points)]


ROUND, DOT = circle(28), circle(12)


def rgb(colour: str | tuple) -> tuple[int, int, int]:
    return ImageColor.getrgb(colour) if isinstance(colour, str) else colour


def mix(one: str | tuple, other: str | tuple, share: float) -> tuple[int, int, int]:
    """A colour between two: `share` 0 is the first, 1 the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(rgb(one), rgb(other)))


class Pen:
    """Draws in a frame of its own: `matrix` (2, 3) takes (x, y, 1) to pixels.

    halo: draw every shape this many pixels larger and in cream, for a paper edge; tint: the light
    it all stands in.
    """

    def __init__(self, draw: ImageDraw.ImageDraw, matrix, halo: float = 0, tint: str = WHITE):
        self.draw, self.matrix, self.halo, self.tint = draw, np.array(matrix, float), halo, tint
        self.scale = math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))

    def at(self, x: float, y: float, size: float = 100, flip: bool = False, tilt: float = 0):
        """A pen whose origin is (x, y) of this frame, whose 100 units are `size` of this frame's;
        `tilt` in degrees."""
        turned = size / 100 * rotation(tilt)
        if flip:
            turned[0] *= -1
        frame = np.vstack([np.column_stack([turned, (x, y)]), (0, 0, 1)])
        return Pen(self.draw, self.matrix @ frame, self.halo, self.tint)

    def colour(self, fill: str | tuple) -> str | tuple:
        if self.halo:
            return CREAM
        return tuple(part * light // 255 for part, light in zip(rgb(fill), rgb(self.tint)))

    def pixels(self, points: Sequence) -> list[tuple[float, float]]:
        """Points, flat or in pairs, in pixels."""
        points = np.reshape(points, (-1, 2)) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return list(map(tuple, points.tolist()))

    def shape(self, fill: str | tuple, *points) -> None:
        pixels = self.pixels(points)
        if self.halo:
            self.draw.line(pixels + pixels[:2], CREAM, round(2 * self.halo), joint="curve")
        self.draw.polygon(pixels, self.colour(fill))

    def oval(self, fill, x: float, y: float, rx: float, ry: float, tilt: float = 0) -> None:
        edge = self.halo / self.scale
        is_small = max(rx, ry) + edge < 5 / self.scale
        if is_small and self.halo:  # a detail inside something larger, which has the paper edge
            return
        corners = np.array(DOT if is_small else ROUND) * (rx + edge, ry + edge)
        points = corners @ rotation(tilt).T + (x, y)
        self.draw.polygon(self.pixels(points), self.colour(fill))

    def line(self, fill: str | tuple, width: float, *points) -> None:
        pixels, width = self.pixels(points), max(1, round(width * self.scale + 2 * self.halo))
        fill = self.colour(fill)
        self.draw.line(pixels, fill, width, joint="curve")
        if width > 3:
            for x, y in (pixels[0], pixels[-1]):
                self.draw.circle((x, y), width / 2, fill)

    def box(self, fill, left: float, top: float, right: float, bottom: float) -> None:
        self.shape(fill, left, top, right, top, right, bottom, left, bottom)


def rotation(degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])
