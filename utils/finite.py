"""Losses and gradients that are not finite."""

import math

import torch

from utils.stories import story_ids
from utils.train_log import TERMS


def first_not_finite(entries, train_data_path):
    """What to say of the first loss or gradient that is not finite, and of which stories; None
    where all are.

    entries: (step, numbers of the stories, value, sums of the TERMS or None where the value is a
    gradient's norm).
    """
    bad = next((entry for entry in entries if not torch.isfinite(entry[2])), None)
    if bad is None:
        return None
    step, stories, value, terms = bad
    if terms is None:
        found = f"step {step}: gradient not finite (its norm is {value.item()}"
    else:
        values = dict(zip(TERMS, terms.tolist()))
        names = [name for name, value in values.items() if not math.isfinite(value)] or ["loss"]
        found = f"step {step}: {' and '.join(names)} not finite ({values}"
    numbers = stories.tolist()
    ids = ", ".join(story_ids(train_data_path, numbers[:32]))
    of = f"; stories {ids}{' …' if len(numbers) > 32 else ''}" if numbers else ""
    return f"{found}{of})"
