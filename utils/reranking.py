"""Of several stories per album, the one that scores best."""

from argparse import Namespace
from collections import Counter
from itertools import groupby
from typing import Any

import numpy as np

from utils import cli
from utils.plans import Sample


def best_samples(samples: list[Sample], scores: list[float]) -> list[int]:
    """The place of each album's sample with the least score; the first, where none has a score."""
    values = np.nan_to_num(scores, nan=np.inf)
    albums = groupby(range(len(samples)), lambda k: samples[k].album)
    return [min(places, key=lambda k: values[k]) for _, places in albums]


def rerank(
    writer: Any, albums: list[dict], samples: list[Sample], stories: list[dict], options: Namespace
) -> tuple[list[Sample], list[dict]]:
    """Each album's sample that scores best, and its story. writer: a StoryWriter."""
    name, counts = options.rerank_by, Counter(sample.album for sample in samples)
    scores = writer.score(albums, samples, stories, [name], options.batch_size)[name]
    best = best_samples(samples, scores)
    if unscored := sum(bool(np.isnan(scores[k])) for k in best):
        cli.warn(f"--rerank: {unscored} stories have no {name}; their first sample is kept")
    chosen = []
    for k in best:
        score = None if np.isnan(scores[k]) else scores[k]
        chosen.append(stories[k] | {"best_of": counts[samples[k].album], name: score})
    return [samples[k] for k in best], chosen
