"""One picture: a page on which a beat's place and things are put."""

from PIL import Image, ImageDraw

from experiments.picturebook.effects import LOOSE
from experiments.picturebook.facts import COLOURS
from experiments.picturebook.pen import INK, WHITE, Pen, mix
from experiments.picturebook.places import draw_background
from experiments.picturebook.plots import PLOTS
from experiments.picturebook.things import THINGS


class Page:
    """One picture being drawn at twice its size, and whom and what it shows."""

    def __init__(self, facts, size, rng):
        self.rng, self.pixels = rng, 2 * size
        self.hero, self.object = facts["hero"], facts["object"]
        self.fur = mix(COLOURS[facts["colour"]], rng.choice((WHITE, INK)), rng.uniform(0, 0.08))
        self.image = Image.new("RGB", (2 * size, 2 * size))
        whole_picture = Pen(ImageDraw.Draw(self.image), ((1, 0, 0), (0, 1, 0)))
        mirrored = rng.random() < 0.5
        self.pen = whole_picture.at(self.pixels if mirrored else 0, 0, self.pixels, flip=mirrored)

    def put(self, name, x, y, size, flip=False, tilt=0, **options):
        """Draw a thing about there, never twice alike; what fills the whole picture stays as it
        is."""
        rng = self.rng
        if size < 100:
            x, y, size = (
                x + rng.uniform(-2.5, 2.5),
                y + rng.uniform(-1.5, 1.5),
                size * rng.uniform(0.95, 1.06),
            )
            tilt += rng.uniform(-4, 4)
        pen = self.pen.at(x, y, size, flip, tilt)
        if name not in LOOSE:
            pen.halo = 0.011 * self.pixels
            THINGS[name](pen, self, **options)
            pen.halo = 0
        THINGS[name](pen, self, **options)


def draw_picture(facts, beat, size, rng):
    """The picture of one beat (0-4) of a story: RGB, `size` x `size` pixels. It reads no mood, so
    it can show none."""
    page, scene = Page(facts, size, rng), PLOTS[facts["plot"]][beat]
    draw_background(page, facts["place"], scene.sky)
    for name, x, y, height, options in scene.things:
        page.put(name, x, y, height, **options)
    return page.image.reduce(2)
