"""The plans of a split's stories, and what is known of each story."""

from pathlib import Path

import torch
from tqdm import tqdm

from dataset import collate
from experiments.picturebook.texts import normalise
from utils.batches import BucketBatches
from utils.cli import UserError
from utils.files import read_json
from utils.gaussian import Gaussian


@torch.no_grad()
def plans_of(model, data, pad_id, batch_size):
    """Prior and posterior (N, T, Z) of every story in a StoryDataset, zeros on beats that are not
    there."""
    T, Z = int(data.beats.max()), model.config.plan_size
    tables = torch.zeros(4, len(data), T, Z)
    batches = BucketBatches(data.lengths, batch_size, shuffle=False)
    for numbers in tqdm(batches, "plans", leave=False):
        batch = {
            name: value.to(model.device)
            for name, value in collate([data[i] for i in numbers], pad_id).items()
        }
        prior, posterior = model.plans(model.states(**batch))
        t = batch["beat_mask"].shape[1]
        story, place = torch.tensor(numbers)[batch["beats"].cpu() // t], batch["beats"].cpu() % t
        for table, values in zip(
            tables, (prior.mean, prior.log_var, posterior.mean, posterior.log_var)
        ):
            table[story, place] = values.cpu()
    return Gaussian(*tables[:2]), Gaussian(*tables[2:])


def truth_of(path, options):
    """What is known about each story of a picture book's split."""
    return read_json(
        Path(options.world) / "truth" / Path(path).name, "the truth of a picture book (--world)"
    )


def as_written(split, text):
    """A sentence of the book as the split has it."""
    return text if split.get("text") == "original" else normalise(text)


def factors_of(path, split, options):
    """The factor's name, and its value for each story of a split: None of one that has none."""
    name = options.factor or ("mood" if split.get("source") == "picturebook" else "label")
    if name == "label":
        values = [story.get("label") for story in split["stories"]]
    else:
        facts = truth_of(path, options)
        values = [facts.get(story["story_id"], {}).get(name) for story in split["stories"]]
    if len({value for value in values if value is not None}) < 2:
        raise UserError(
            f"--factor {name}: fewer than two values of it in {path}; expected some to tell apart"
        )
    return name, [None if value is None else str(value) for value in values]
