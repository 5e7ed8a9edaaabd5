"""What a training starts from: the splits it is given, and the checkpoint it resumes."""

import dataclasses
import hashlib
from pathlib import Path

from utils import cli
from utils.checkpoint import PROGRESS, kept_steps, read_progress
from utils.cli import UserError
from utils.dataset_options import latest_split
from utils.files import recover
from utils.loading import BEST, LATEST
from utils.stories import SPLIT_SHAPE
from utils.train_options import FREE_TO_CHANGE, OF_THE_MODEL, changeable


def resolve(options):
    """Fill in what was not named, saying what was chosen. Returns the paths of both splits."""
    train_path = options.train_data_path or latest_split("train")
    if train_path is None:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split; run "
            "python dataset.py "
            "first, or bash train.sh, which draws its own sample"
        )
    train_path = Path(train_path)
    if options.train_data_path is None and cli.first_process():
        print(
            f"training on {train_path}, the newest preprocessed split (--train_data_path names "
            "another)"
        )
    val_path = (
        Path(options.val_data_path) if options.val_data_path else train_path.with_name("val.json")
    )
    if options.val_data_path is None and cli.first_process():
        print(f"validating on {val_path} (--val_data_path names another)")
    for path in (train_path, val_path):
        if not path.is_file():
            raise UserError(
                f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected {SPLIT_SHAPE}"
            )
    return train_path, val_path


def restore(options):
    """The progress of the latest checkpoint, None to start afresh. Raises UserError where options
    do not fit it."""
    directory = Path(options.output_dir)
    latest = directory / LATEST
    recover(latest)
    if options.overwrite:
        return None
    if not (latest / PROGRESS).is_file():
        if steps := kept_steps(directory):
            found = f"--output_dir {directory}: no {LATEST}, but {steps[-1].name}"
            raise UserError(f"{found}; rename it to {LATEST} to go on from there, or --overwrite")
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
            f"--output_dir {directory}: holds a training; --resume takes it up, --overwrite starts "
            "again"
        )
    progress = read_progress(latest / PROGRESS)
    now, allowed = dataclasses.asdict(options), {*FREE_TO_CHANGE, *changeable(options)}
    then = progress["options"]
    changed = [
        name for name in then if name in now and name not in allowed and now[name] != then[name]
    ]
    if unknown := then.keys() - now.keys():
        cli.warn(
            f"{latest}: of a version with other options, which are left aside: "
            f"{', '.join(sorted(unknown))}"
        )
    if changed:
        told = "; ".join(f"--{name} was {then[name]}, now {now[name]}" for name in changed)
        allow = (
            "" if OF_THE_MODEL & {*changed} else f"allow it (--allow_changed {','.join(changed)}), "
        )
        advice = f"keep its options, {allow}or --overwrite"
        raise UserError(f"--resume {latest}: another training ({told}); {advice}")
    return progress


def describe(path, dataset):
    """A split in a few words, which change when the data do."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    rows = " x ".join(map(str, dataset.photos.shape))
    return f"{len(dataset)} stories (sha256 {digest}…), photos: {dataset.photos.kind}, {rows}"
