"""What can differ from one story of the picture book to the next, and how many stories it tells."""

COLOURS = {
    "red": "#de3e3a",
    "yellow": "#fac830",
    "green": "#4cb050",
    "blue": "#3a80de",
    "purple": "#9258c4",
}

SPLIT_SIZES = {"train": 4000, "val": 400, "test": 400}  # stories
SLOTS = {
    "hero": ("fox", "rabbit", "bear", "frog", "penguin"),
    "colour": tuple(COLOURS),
    "place": ("forest", "desert", "village", "meadow", "harbour", "mountains"),
    "object": ("kite", "balloon", "boat", "drum", "robot", "pumpkin"),
}
MOODS = ("cheerful", "gloomy")
BEATS = 5
REFERENCES = 5  # human stories an album, as VIST has them
WORLD_FILE = "a picture book's world.json (python -m experiments.picturebook draws one)"
