"""The plans of a split's stories, and what is known about each story."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dataset import StoryDataset, collate
from experiments.picturebook.texts import join_words
from utils.batches import BucketBatches
from utils.cli import UserError
from utils.files import read_json
from utils.gaussian import Gaussian


@torch.no_grad()
def compute_plans(model, dataset: StoryDataset, batch_size: int):
    """Prior and posterior, each (N, T, Z), of all stories; zeros where there is no beat."""
    shape = len(dataset), int(dataset.beats.max()), model.config.plan_size
    prior, posterior = (Gaussian(torch.zeros(shape), torch.zeros(shape)) for _ in range(2))
    batches = BucketBatches(dataset.lengths, batch_size, shuffle=False)
    for indices in tqdm(batches, "plans", leave=False):
        batch = collate([dataset[i] for i in indices])
        beats, T = batch["beats"], batch["beat_mask"].shape[1]
        place = torch.tensor(indices)[beats // T], beats % T
        batch = {name: value.to(model.device) for name, value in batch.items()}
        for table, values in zip((prior, posterior), model.plans(model.states(**batch))):
            table.mean[place] = values.mean.cpu()
            table.log_var[place] = values.log_var.cpu()
    return prior, posterior


def first_plans(
    model, tokenizer, split: dict, photos: Tensor, sentences: list[list[str]], batch_size: int
) -> list[Gaussian]:
    """Prior and posterior (N, S, Z) of the first plans of N stories, were the first sentence of
    each one of S others. sentences: of the picture book, S for each story."""
    stories = []
    for story, texts in zip(split["stories"], sentences):
        for text in texts:
            text = text if split.get("text") == "original" else join_words(text)
            stories.append({"beats": [story["beats"][0] | {"sentence": text}]})
    positions = model.config.image_positions, model.max_length
    dataset = StoryDataset(stories, photos, tokenizer, *positions)
    shape = len(sentences), -1, model.config.plan_size
    plans = compute_plans(model, dataset, batch_size)
    return [Gaussian(plan.mean.view(shape), plan.log_var.view(shape)) for plan in plans]


def read_truth(path: str | Path, world: str) -> dict:
    """{story id: facts} of a picture book's split."""
    path = Path(world) / "truth" / Path(path).name
    return read_json(path, "the truth of a picture book (--world)")


def factor_values(path: Path, split: dict, options) -> list[str | None]:
    """The value of --factor for each story of a split."""
    name = options.factor
    if name == "label":
        facts = {story["story_id"]: story for story in split["stories"]}
    else:
        facts = read_truth(path, options.world)
    values = [facts.get(story["story_id"], {}).get(name) for story in split["stories"]]
    if len(set(values) - {None}) < 2:
        raise UserError(
            f"--factor {name}: fewer than two values of it in {path}; expected some to tell apart"
        )
    return [None if value is None else str(value) for value in values]
