"""One picture: a page on which a beat's place and things are put."""

import inspect

from PIL import Image, ImageDraw

from experiments.picturebook import creatures, effects, objects, things
from experiments.picturebook.facts import COLOURS
from experiments.picturebook.heroes import draw_hero
from experiments.picturebook.pen import INK, WHITE, Pen, mix
from experiments.picturebook.places import draw_background
from experiments.picturebook.plots import PLOTS


def drawings(module):
    """The functions that a module defines, by name."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name: draw for name, draw in functions if inspect.getmodule(draw) is module}


def draw_object(pen, tilt=0):
    pen.page.draw_object(pen.at(tilt=tilt))


LOOSE, OBJECTS = drawings(effects), drawings(objects)
HERO_AND_OBJECT = {"hero": draw_hero, "object": draw_object}
THINGS = LOOSE | drawings(creatures) | drawings(things) | HERO_AND_OBJECT


class Page:
    """One picture being drawn at twice its size, and whom and what it shows."""

    def __init__(self, facts, size, rng):
        self.rng, self.pixels = rng, 2 * size
        self.hero, self.draw_object = facts["hero"], OBJECTS[facts["object"]]
        self.fur = mix(COLOURS[facts["colour"]], rng.choice((WHITE, INK)), rng.uniform(0, 0.08))
        self.image = Image.new("RGB", (2 * size, 2 * size))
        self.draw = ImageDraw.Draw(self.image)
        mirrored = rng.random() < 0.5
        self.pen = Pen(self, self.pixels / 100).at(100 if mirrored else 0, 0, flip=mirrored)

    def put(self, name, x, y, size, *options):
        """Draw a thing about there, never twice alike; what fills the whole picture stays as it
        is."""
        tilt = 0
        if size < 100:
            uniform = self.rng.uniform
            x, y = x + uniform(-2.5, 2.5), y - uniform(-1.5, 1.5)
            size *= uniform(0.95, 1.06)
            tilt = uniform(-4, 4)
        pen = self.pen.at(x, y, size, tilt=tilt)
        if name not in LOOSE:
            pen.halo = 0.011 * self.pixels
            THINGS[name](pen, *options)
            pen.halo = 0
        THINGS[name](pen, *options)


def draw_picture(facts, beat, size, rng):
    """The picture of one beat (0-4) of a story: RGB, `size` x `size` pixels. It reads no mood, so
    it can show none."""
    page, scene = Page(facts, size, rng), PLOTS[facts["plot"]][beat]
    draw_background(page, facts["place"], scene.sky)
    for thing in scene.things:
        page.put(*thing)
    return page.image.reduce(2)
