"""The systems whose stories are scored."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils import cli
from utils.cli import UserError
from utils.corruptions import sentences_of, with_sentences
from utils.dataset_options import latest_split
from utils.stories import SHAPES, read_stories
from utils.text import is_tokenised, one_line, tokenise

CONSTANT, OTHER, HUMAN = "constant story", "another album's story", "human story"  # the baselines


@dataclass
class System:
    """One system's stories and all their figures."""

    name: str
    path: str
    stories: list[dict]  # as read_stories gives them, and "photo", a row of `photos`, in each beat
    photos_path: str | None = None  # a split's path, "folders", or None: text alone is scored
    remarks: Counter = field(default_factory=Counter)
    photos: object = None  # features (rows, F)
    scores: dict = field(default_factory=dict)  # {score: (stories,)}, NaN where a story has none
    corrupted: dict = field(default_factory=dict)  # {corruption: System of the corrupted stories}
    captions: dict = field(default_factory=dict)  # {unit of the references: its text}
    figures: dict = field(default_factory=dict)  # {name: Figure, or (value, low, high)}
    leave_one_out: dict = field(default_factory=dict)  # {caption metric: Figure}

    def find(self, path: str) -> Path:
        """What the system's file names: as it is, else beside that file. Raises UserError."""
        for found in (Path(path), Path(self.path).parent / path):
            if found.exists():
                return found
        raise UserError(
            f"{self.path}: its photos are to be in {path}, which is neither here nor beside it; "
            "expected --data_path with their split, or --no_photos"
        )

    def album_scores(self, score: str) -> list[tuple[str, float]]:
        """[(album, score)] of the stories that have the score."""
        pairs = zip(self.stories, self.scores[score], strict=True)
        return [(story["album_id"], float(x)) for story, x in pairs if not np.isnan(x)]


def load_system(argument: str) -> System:
    """From NAME=PATH or PATH, whose file's name is then its name."""
    name, path = Path(argument).stem, argument
    if "=" in argument and not Path(argument).exists():
        name, path = argument.split("=", 1)
    name = one_line(name)
    if not name or not path:
        raise UserError(f"{argument!r}: expected the path of a file of stories, or NAME=PATH")
    file = read_stories(path)
    return System(name, path, file.stories, file.photos, file.remarks)


def normalize_like_training(stories: list[dict], remarks: Counter) -> list[dict]:
    """The stories in VIST's tokens; how many were not is added to the remarks."""
    result = []
    for story in stories:
        sentences = sentences_of(story)
        if not is_tokenised(" ".join(sentences)):
            remarks["tokenised here"] += 1
            story = with_sentences(story, map(tokenise, sentences))
        result.append(story)
    return result


def with_rows(story: dict, row: Callable[[dict], int | None]) -> dict:
    """The story with row(beat) as the photo of each beat."""
    return story | {"beats": [beat | {"photo": row(beat)} for beat in story["beats"]]}


def load_systems(options: Namespace) -> list[System]:
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
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{name}: the name of two systems or a baseline; expected NAME=PATH to tell them apart"
        )
    for system in systems:
        if options.no_photos or options.checkpoint == "none":
            system.photos_path = None
        elif options.data_path:
            system.photos_path = options.data_path
        elif system.photos_path not in (None, "folders"):
            system.photos_path = str(system.find(system.photos_path))
        if shared := system.remarks["with an id that another has too"]:
            cli.warn(f"{system.path}: {shared} stories share an id")
    return systems
