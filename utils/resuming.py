"""What a training starts from: the splits, and the checkpoint that it resumes."""

import dataclasses
import hashlib
import math
from pathlib import Path

from torch.utils.data import Dataset

from utils import cli
from utils.checkpoint import PROGRESS, kept_steps, read_progress
from utils.cli import UserError
from utils.dataset_options import latest_split
from utils.files import read_json, recover
from utils.loading import BEST, LATEST
from utils.stories import SPLIT_SHAPE
from utils.train_options import TrainOptions, allowed_changes, option_names


def find_splits(options: TrainOptions) -> None:
    """Name the splits that the options do not name, and print them."""
    train_paths = options.train_data_path or [latest_split("train")]
    if train_paths == [None]:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split; run "
            "python dataset.py first, or bash train.sh, which draws its own sample"
        )
    train_paths = list(map(Path, train_paths))
    val_paths = list(map(Path, options.val_data_path or [train_paths[0].with_name("val.json")]))
    if cli.first_process():
        if options.train_data_path is None:
            print(
                f"training on {train_paths[0]}, the newest split (--train_data_path names another)"
            )
        if options.val_data_path is None:
            print(f"validating on {val_paths[0]} (--val_data_path names another)")
    for path in (*train_paths, *val_paths):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise UserError(f"{path}: {found}; expected {SPLIT_SHAPE}")
    check_weights(options.train_data_weights, len(train_paths))
    check_shared(train_paths, ("tokenizer", "image_encoder"))
    check_shared([train_paths[0], *val_paths], ("image_encoder",))
    options.train_data_path = list(map(str, train_paths))
    options.val_data_path = list(map(str, val_paths))


def check_weights(weights: list[float] | None, count: int) -> None:
    """Raise UserError where they are not one above 0 for each of `count` training splits."""
    if weights is None:
        return
    given = f"--train_data_weights {' '.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != count:
        raise UserError(f"{given}: of {count} training splits; expected {count} numbers")
    if not all(0 < weight < math.inf for weight in weights):
        raise UserError(f"{given}: expected numbers above 0")


def check_shared(paths: list[Path], names: tuple[str, ...]) -> None:
    """Raise UserError where splits are not of one tokenizer or image encoder, which lie beside
    them. (A split without them is taken as it is.)"""
    for path in paths[1:]:
        for name in names:
            first, other = paths[0].with_name(name), path.with_name(name)
            if first.is_dir() and other.is_dir() and contents(first) != contents(other):
                reuse = f" (dataset.py --tokenizer {first})" if name == "tokenizer" else ""
                raise UserError(
                    f"{path}: of another {name} than {paths[0]}; expected one for all{reuse}"
                )


def contents(folder: Path) -> object:
    """What tells tokenizers, or networks, apart: the words, or a digest of the weights."""
    if (folder / "tokenizer.json").is_file():
        return read_json(folder / "tokenizer.json", "a tokenizer").get("model")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def describe_data(paths: list[str], datasets: list[Dataset]) -> str:
    """Splits in a few words, which change when the data do."""
    texts = []
    for path, dataset in zip(paths, datasets, strict=True):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        rows, kind = " x ".join(map(str, dataset.photos.shape)), dataset.photos.kind
        texts.append(f"{len(dataset)} stories (sha256 {digest}…), photos: {kind}, {rows}")
    return " + ".join(texts)
