"""What a training starts from: the splits, and the checkpoint that it resumes."""

import dataclasses
import hashlib
from pathlib import Path

from torch.utils.data import Dataset

from utils import cli
from utils.checkpoint import PROGRESS, kept_steps, read_progress
from utils.cli import UserError
from utils.dataset_options import latest_split
from utils.files import recover
from utils.loading import BEST, LATEST
from utils.stories import SPLIT_SHAPE
from utils.train_options import TrainOptions, allowed_changes, option_names


def find_splits(options: TrainOptions) -> None:
    """Name the splits that the options do not name, and print them."""
    train_path = options.train_data_path or latest_split("train")
    if train_path is None:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split; run "
            "python dataset.py first, or bash train.sh, which draws its own sample"
        )
    train_path = Path(train_path)
    val_path = Path(options.val_data_path or train_path.with_name("val.json"))
    if cli.first_process():
        if options.train_data_path is None:
            print(f"training on {train_path}, the newest split (--train_data_path names another)")
        if options.val_data_path is None:
            print(f"validating on {val_path} (--val_data_path names another)")
    for path in (train_path, val_path):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise UserError(f"{path}: {found}; expected {SPLIT_SHAPE}")
    options.train_data_path, options.val_data_path = str(train_path), str(val_path)


def read_resumed(options: TrainOptions) -> dict | None:
    """The progress of the latest checkpoint, None to start anew. Raises UserError where options do
    not fit it."""
    directory = Path(options.output_dir)
    latest = directory / LATEST
    recover(latest)
    if options.overwrite:
        return None
    if not (latest / PROGRESS).is_file():
        if steps := kept_steps(directory):
            raise UserError(
                f"--output_dir {directory}: no {LATEST}, but {steps[-1].name}; rename it to "
                f"{LATEST} to resume from there, or --overwrite"
            )
        if any((directory / name).exists() for name in (BEST, LATEST)):
            raise UserError(
                f"--output_dir {directory}: holds a model that cannot be resumed; --overwrite "
                "replaces it"
            )
        if options.resume and cli.first_process():
            print(f"nothing to resume in {directory}: starting from the beginning")
        return None
    if not options.resume:
        raise UserError(
            f"--output_dir {directory}: holds a training; --resume resumes it, --overwrite starts "
            "again"
        )
    progress = read_progress(latest / PROGRESS)
    now, before = dataclasses.asdict(options), progress["options"]
    if unknown := sorted(before.keys() - now.keys()):
        raise UserError(
            f"--resume {latest}: of another version of this code, with other options "
            f"({', '.join(unknown)}); --overwrite starts again"
        )
    allowed = option_names("free") | allowed_changes(options)
    changed = [name for name in before if name not in allowed and now[name] != before[name]]
    if changed:
        changes = "; ".join(f"--{name} was {before[name]}, now {now[name]}" for name in changed)
        advice = "keep its options"
        if option_names(None).issuperset(changed):
            advice += f", allow it (--allow_changed {','.join(changed)})"
        raise UserError(
            f"--resume {latest}: another training ({changes}); {advice}, or --overwrite"
        )
    return progress


def check_data(options: TrainOptions, data: dict[str, str], progress: dict) -> None:
    """Raise UserError where a split is not the one that the training began with."""
    for split, name in (("training", "train_data_path"), ("validation", "val_data_path")):
        before = progress["data"].get(split)
        if data[split] != before and name not in allowed_changes(options):
            raise UserError(
                f"--resume {options.output_dir}: other {split} data ({before} then, {data[split]} "
                f"now); the same data, or --allow_changed {name}, or --overwrite"
            )


def describe_data(path: str, dataset: Dataset) -> str:
    """A split in a few words, which change when the data do."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    rows = " x ".join(map(str, dataset.photos.shape))
    return f"{len(dataset)} stories (sha256 {digest}…), photos: {dataset.photos.kind}, {rows}"
