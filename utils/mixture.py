"""Several splits as one: the mixture that a model is trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from utils.cli import UserError


class Mixture(ConcatDataset):
    """The stories of several StoryDatasets, one split's after another's; one is a mixture too.

    lengths, ids, text, source, photo_kind: as of a StoryDataset (text and source: the first's).
    sizes: stories of each split. Raises UserError where the splits do not go together.
    """

    def __init__(self, splits: Sequence[Dataset], paths: Sequence[str]):
        super().__init__(splits)
        first = splits[0]
        self.text, self.source, self.photo_kind = first.text, first.source, first.photos.kind
        for path, split in zip(paths, splits, strict=True):
            for name, value, expected in (
                ("text", split.text, self.text),
                ("photos", split.photos.kind, self.photo_kind),
            ):
                if value != expected:
                    raise UserError(
                        f"{path}: {name}: {value}; expected {expected}, as in {paths[0]}"
                    )
        self.sizes = list(map(len, splits))
        self.lengths = np.concatenate([split.lengths for split in splits])
        self.ids = [story_id for split in splits for story_id in split.ids]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return super().__getitem__(i) | {"index": i}

    def shares(self, weights: Sequence[float] | None) -> list[float]:
        """Each split's share of the stories that are drawn."""
        weights = weights or self.sizes
        return [weight / sum(weights) for weight in weights]

    def moments(self, weights: Sequence[float] | None) -> tuple[Tensor, Tensor]:
        """Mean and variance (F) of the photos' features, each split by its share."""
        means, squares = [], []
        for split in self.datasets:
            rows = [row for story in split.photo_rows for row in story if row is not None]
            mean, var = split.photos.moments(rows)
            means.append(mean)
            squares.append(var + mean**2)
        if len(means) == 1:
            return mean, var
        shares = torch.tensor(self.shares(weights))[:, None]
        mean = (shares * torch.stack(means)).sum(0)
        return mean, ((shares * torch.stack(squares)).sum(0) - mean**2).clamp(min=0)


def split_names(paths: Sequence[str]) -> list[str]:
    """What splits are called: their folders' names, or their paths where two are alike."""
    names = [Path(path).resolve().parent.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
