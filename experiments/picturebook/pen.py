"""The pen and its colours.

Everything is drawn as polygons in a frame that can be moved, scaled, mirrored and tilted.
"""

import math

COLOURS = {
    "red": (222, 62, 58),
    "yellow": (250, 200, 48),
    "green": (76, 176, 80),
    "blue": (58, 128, 222),
    "purple": (146, 88, 196),
}

CREAM, WHITE, INK, PINK = (255, 249, 236), (255, 255, 255), (52, 44, 60), (246, 160, 160)
WOOD, DARK_WOOD, GREY, ORANGE = (176, 124, 82), (128, 86, 58), (168, 172, 184), (242, 140, 44)


def circle(corners):
    return [
        (math.cos(2 * math.pi * k / corners), math.sin(2 * math.pi * k / corners))
        for k in range(corners)
    ]


def arc(steps):
    """Half a circle, from right to left."""
    return circle(2 * steps)[: steps + 1]


def star(points, inner):
    return [(u * r, v * r) for (u, v), r in zip(circle(2 * points), (1, inner) * points)]


ROUND, DOT = circle(28), circle(12)


def mix(one, other, share):
    """A colour between two: `share` 0 is the first, 1 the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other))


class Pen:
    """Draws in a frame of its own: `matrix` takes (x, y) to pixels (a x + b y + c, d x + e y + f).

    halo: draw every shape this many pixels larger and in cream, for a paper edge; tint: the light
    it all stands in.
    """

    def __init__(self, draw, matrix, halo=0, tint=WHITE):
        self.draw, self.matrix, self.halo, self.tint = draw, matrix, halo, tint
        self.scale = math.sqrt(abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]))

    def at(self, x, y, size=100, flip=False, tilt=0):
        """A pen whose origin is (x, y) of this frame, whose 100 units are `size` of this frame's;
        `tilt` in degrees."""
        a, b, c, d, e, f = self.matrix
        cos, sin = (size / 100 * trig(math.radians(tilt)) for trig in (math.cos, math.sin))
        u, v = (-cos, sin) if flip else (cos, -sin)
        return Pen(
            self.draw,
            (
                a * u + b * sin,
                a * v + b * cos,
                a * x + b * y + c,
                d * u + e * sin,
                d * v + e * cos,
                d * x + e * y + f,
            ),
            self.halo,
            self.tint,
        )

    def colour(self, fill):
        return (
            CREAM
            if self.halo
            else tuple(part * light // 255 for part, light in zip(fill, self.tint))
        )

    def pixels(self, points):
        a, b, c, d, e, f = self.matrix
        return [(a * x + b * y + c, d * x + e * y + f) for x, y in points]

    def shape(self, fill, *points):
        pixels = self.pixels(points)
        if self.halo:
            self.draw.line(pixels + pixels[:2], CREAM, round(2 * self.halo), joint="curve")
        self.draw.polygon(pixels, self.colour(fill))

    def oval(self, fill, x, y, rx, ry, tilt=0):
        a, b, c, d, e, f = self.matrix
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        c, f = a * x + b * y + c, d * x + e * y + f
        rx, ry = rx + self.halo / self.scale, ry + self.halo / self.scale
        a, b = rx * (a * cos + b * sin), ry * (b * cos - a * sin)
        d, e = rx * (d * cos + e * sin), ry * (e * cos - d * sin)
        small = max(rx, ry) * self.scale < 5
        if small and self.halo:  # a detail inside something larger, which has the paper edge
            return
        corners = DOT if small else ROUND
        self.draw.polygon(
            [(a * u + b * v + c, d * u + e * v + f) for u, v in corners], self.colour(fill)
        )

    def line(self, fill, width, *points):
        pixels, width = self.pixels(points), max(1, round(width * self.scale + 2 * self.halo))
        fill = self.colour(fill)
        self.draw.line(pixels, fill, width, joint="curve")
        if width > 3:
            for x, y in (pixels[0], pixels[-1]):
                self.draw.ellipse(
                    (x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill
                )

    def box(self, fill, left, top, right, bottom):
        self.shape(fill, (left, top), (right, top), (right, bottom), (left, bottom))
