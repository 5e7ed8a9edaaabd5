"""The systems whose stories are scored."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils import cli
from utils.cli import UserError
from utils.corruptions import told, with_sentences
from utils.dataset_options import latest_split
from utils.stories import SHAPES, read_stories
from utils.text import is_tokenised, one_line, tokenise


@dataclass
class System:
    """One system's stories and all that is found out about them."""

    name: str
    path: str
    stories: (
        list  # as stories.read_stories gives them, and "photo", a row of `photos`, in each beat
    )
    where: str | None  # the photos are: a split's path, "folders", or None
    remarks: Counter
    photos: object = None  # features (rows, F), or None: the text alone is scored
    scores: dict = field(default_factory=dict)  # {score: (stories,)}, NaN where a story has none
    wrong: dict = field(default_factory=dict)  # {control: {score: [(album, score)]}}
    # {unit of the references: the text held against it}
    matched: dict = field(default_factory=dict)
    figures: dict = field(default_factory=dict)  # {name: metrics.Figure, or (value, low, high)}
    # {caption metric: Figure} against all but one reference, by turns
    equal_terms: dict = field(default_factory=dict)

    def albums_and(self, score):
        """[(album, score)] of the stories that have the score."""
        return albums_and(self.stories, self.scores[score])


def albums_and(stories, values):
    return [
        (story["album_id"], float(x))
        for story, x in zip(stories, values, strict=True)
        if not np.isnan(x)
    ]


def load_system(argument):
    """A System of NAME=PATH or PATH, whose file's name is then its name."""
    name, path = Path(argument).stem, argument
    if "=" in argument and not Path(argument).exists():
        name, path = argument.split("=", 1)
    name = one_line(name)
    if not name or not path:
        raise UserError(f"{argument!r}: expected the path of a file of stories, or NAME=PATH")
    told = read_stories(path)
    return System(name, path, told.stories, told.photos, told.remarks)


def normalize_like_training(stories, remarks):
    """The stories in VIST's tokens; how many were not is added to the remarks."""
    result = []
    for story in stories:
        changed = not is_tokenised(" ".join(told(story)))
        remarks["tokenised here"] += changed
        result.append(with_sentences(story, map(tokenise, told(story))) if changed else story)
    return result


def with_rows(story, row):
    return story | {"beats": [beat | {"photo": row(beat)} for beat in story["beats"]]}


def name_systems(options):
    """The systems that were named, or the human stories of the newest test split."""
    arguments = options.stories
    if not arguments:
        path = latest_split("test")
        if path is None:
            raise UserError(
                "no stories named and dataset/preprocessed/ holds no test split; expected " + SHAPES
            )
        print(f"scoring the human stories of {path}, the newest test split")
        arguments = [f"human={path}"]
    systems = [load_system(argument) for argument in arguments]
    names = Counter([*(system.name for system in systems), CONSTANT, OTHER, HUMAN])
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(
            f"{twice[0]}: the name of two systems or an anchor; expected NAME=PATH to tell them "
            "apart"
        )
    for system in systems:
        system.where = None if options.no_photos else options.data_path or system.where
        if system.remarks["with an id that another has too"]:
            cli.warn(
                f"{system.path}: {system.remarks['with an id that another has too']} stories share "
                "an id"
            )
    return systems


CONSTANT, OTHER, HUMAN = "constant story", "another album's story", "human story"  # the anchors
