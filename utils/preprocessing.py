"""Photos encoded once, in chunks from which a stopped run resumes; the report of what was done."""

import hashlib
import json
import math
import os
from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.batches import split_into
from utils.cli import UserError, warn
from utils.features import FeatureRows, Features
from utils.files import read_json, write_json
from utils.image_encoder import ImageEncoder
from utils.photos import BrokenPhoto, find_photos, load_photo, photo_index
from utils.tensors import create_photos_file

SHARED = ("tokenizer", "image_encoder")  # what the splits of one output folder share
PHOTOS, NOTES = "photos.safetensors", "[0-9]*.json"  # in <split>.partial/, until it is complete
CHUNK_SIZE = 512  # photos between two notes of a process's progress


# -------------------------------------------------------------------------------------- one split


@dataclass
class SplitJob:
    """One split, ready to be written."""

    stories: list[dict]
    remarks: Counter  # how many stories were skipped or kept, and why
    photos: dict[str, Path]  # by photo id, one row each
    missing: dict[str, str]  # photo id: reason
    fingerprint: str  # of the stories and the photos' files


def prepare_split(
    folder: Path,
    split: str,
    stories: list[dict],
    remarks: Counter,
    images: Path | Features,
    args: Namespace,
) -> SplitJob:
    """Find the photos of a split's stories, or their features. Raises UserError where no story is
    left."""
    named = {  # a reader has found them
        beat["photo_id"]: path
        for story in stories
        for beat in story["beats"]
        if (path := beat.pop("path", None))
    }
    if isinstance(images, Features):
        index, skipped = images.index(split, args.follow_links)
    elif named:
        index = {photo_id: path for photo_id, path in named.items() if path.is_file()}
        skipped = {}
    else:
        index, skipped = photo_index(images, split, args.follow_links)
    photos, missing = find_photos(stories, index, skipped)
    reasons = Counter(reason for reason in missing.values() if reason != "not found")
    if reasons:
        are_links = any("a link out" in reason for reason in reasons)
        advice = "; --follow_links takes links" if are_links else ""
        where = images.path if isinstance(images, Features) else images
        warn(f"{where}: photos of {split} are skipped ({format_counts(reasons)}{advice})")
    if args.missing_photos == "drop":
        stories = drop_incomplete(stories, photos, split, remarks)
        photos, _ = find_photos(stories, index, skipped)
    if not stories:
        found = format_counts(remarks) or "no annotations"
        raise UserError(f"{folder}: no story in {split} ({found}); expected at least one")
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in photos.values()]
    fingerprint = hashlib.sha256(json.dumps([stories, files, missing]).encode()).hexdigest()
    return SplitJob(stories, remarks, photos, missing, fingerprint)


def drop_incomplete(stories: list[dict], photos: dict, split: str, remarks: Counter) -> list[dict]:
    """The stories whose photos are all in `photos`; the others are counted."""
    complete = [
        story for story in stories if all(beat["photo_id"] in photos for beat in story["beats"])
    ]
    remarks["left out: a photo missing or broken"] += len(stories) - len(complete)
    if stories and not complete:
        raise UserError(
            f"--missing_photos drop: each story of {split} lacks a photo; expected keep, or more "
            "photos"
        )
    return complete


# ------------------------------------------------------------------------------------------ photos


class PhotoBatches(Dataset):
    """Lists of photo numbers -> (rows, {number: reason} of the broken photos, black).

    Rows are uint8 pixels (N, 3, S, S), or float16 features (N, F) by `network`.
    """

    def __init__(self, paths: list[Path], encoder: ImageEncoder, network: nn.Module | None = None):
        self.paths, self.encoder, self.network = paths, encoder, network

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, dict[int, str]]:
        size, broken = self.encoder.config.image_size, {}
        pixels = torch.zeros(len(numbers), 3, size, size, dtype=torch.uint8)
        for place, number in enumerate(numbers):
            try:
                pixels[place] = self.encoder.preprocess(load_photo(self.paths[number], size))
            except BrokenPhoto as reason:
                broken[number] = str(reason)
        rows = pixels if self.network is None else encode_photos(self.network, pixels)
        return rows, broken


@torch.inference_mode()
def encode_photos(network: nn.Module, pixels: Tensor) -> Tensor:
    """uint8 pixels (N, 3, S, S) -> float16 features (N, F), on a CUDA GPU computed in float16."""
    with torch.autocast("cuda", torch.float16, enabled=pixels.is_cuda):
        return network(pixels).half()


def write_photos(
    folder: Path,
    photos: dict[str, Path],
    encoder: ImageEncoder,
    kind: str,
    batch_size: int,
    num_workers: int,
    state: PartialState,
    features: Features | None = None,
) -> None:
    """Write the photos' tensor to photos.safetensors in `folder`, a row each, by all processes.

    kind "features": (rows, F) float16, of the encoder or read from `features`; "pixels":
    (rows, 3, S, S) uint8. A broken photo is a row of
    zeros. Chunk c is process c % num_processes's; once its rows are on the disk, <c>.json says so
    and which photos are broken, and a stopped run resumes there. Batches begin anew with each
    chunk, so that the bytes do not depend on the number of processes.
    """
    encoding, size, ids = kind == "features", encoder.config.image_size, list(photos)
    row_shape = (encoder.config.feature_size,) if encoding else (3, size, size)
    row_bytes = math.prod(row_shape) * (2 if encoding else 1)
    num_bytes = len(ids) * row_bytes
    if state.is_main_process:
        folder.mkdir(exist_ok=True)
        if not any(folder.glob(NOTES)):
            dtype, shape = "F16" if encoding else "U8", (len(ids), *row_shape)
            create_photos_file(folder / PHOTOS, dtype, shape, num_bytes)
    state.wait_for_everyone()
    chunks = split_into(range(len(ids)), CHUNK_SIZE)
    mine = range(state.process_index, len(chunks), state.num_processes)
    todo = [c for c in mine if not note_path(folder, c).exists()]
    batches = [(c, batch) for c in todo for batch in split_into(chunks[c], batch_size)]
    network = encoder.fuse_batch_norms() if encoding and features is None else None
    on_gpu = network is not None and state.device.type != "cpu"
    if features is not None:
        dataset, num_workers = FeatureRows(features, photos), 0
    else:  # without a GPU the workers encode, on a thread each
        dataset = PhotoBatches(list(photos.values()), encoder, None if on_gpu else network)
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=[batch for _, batch in batches],
        num_workers=min(num_workers, len(batches)),
        pin_memory=state.device.type == "cuda",
    )
    if on_gpu:
        network.to(state.device)
    share = f", share 1 of {state.num_processes}" if state.num_processes > 1 else ""
    bar = tqdm(
        total=sum(len(chunks[c]) for c in todo),
        desc=folder.stem + share,
        unit=" photos",
        disable=not state.is_main_process,
    )
    broken = {}
    with bar, open(folder / PHOTOS, "r+b") as file:  # other processes write beside this one
        start = 8 + int.from_bytes(file.read(8), "little")  # where the rows begin
        file.truncate(start + num_bytes)
        for (c, batch), (rows, reasons) in zip(batches, loader, strict=True):
            if on_gpu:
                rows = encode_photos(network, rows.to(state.device, non_blocking=True)).cpu()
            rows = rows.numpy()
            for number, reason in reasons.items():
                rows[number - batch[0]] = 0
                broken[ids[number]] = reason
            if encoding and not np.isfinite(rows).all():  # random weights multiply by millions
                raise UserError(
                    f"--image_encoder {encoder.config.arch}: its features exceed float16's range; "
                    "expected --image_encoder resnet50 or a smaller one, --encoder_weights "
                    "pretrained, or --store pixels"
                )
            file.seek(start + batch[0] * row_bytes)
            file.write(rows)
            bar.update(len(batch))
            if batch[-1] == chunks[c][-1]:
                file.flush()
                os.fsync(file.fileno())  # the rows are on the disk before the note says so
                write_json(note_path(folder, c), broken)
                broken = {}
    state.wait_for_everyone()


def note_path(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk}.json"


def broken_photos(partial: Path, count: int) -> dict[str, str]:
    """{photo id: reason} of a split's `count` photos, from the notes of all chunks."""
    expected = "the note of a chunk (delete it, and run the same command again)"
    broken = {}
    for chunk in range(-(-count // CHUNK_SIZE)):
        note = read_json(note_path(partial, chunk), expected)
        if not isinstance(note, dict):
            raise UserError(f"{note_path(partial, chunk)}: something else; expected {expected}")
        broken |= note
    return broken


# ------------------------------------------------------------------------------------------ report


def partial_folder(output: Path, split: str) -> Path:
    """Where a split's photos are until the split is complete."""
    return output / f"{split}.partial"


def is_complete(output: Path, split: str, report: dict) -> bool:
    files = [output / f"{split}.{suffix}" for suffix in ("json", "safetensors")]
    return split in report["splits"] and all(file.is_file() for file in files)


def read_report(output: Path, new: dict, overwrite: bool) -> dict | None:
    """report.json of an earlier run if it is of the same settings and input as `new`; None to
    start anew.

    Raises UserError where the folder holds something else and `overwrite` is not set.
    """
    path = output / "report.json"
    if not path.exists():
        names = os.listdir(output) if output.exists() else []
        others = [name for name in names if name not in SHARED and not name.startswith(".")]
        if others:
            raise UserError(
                f"--output {output}: holds {others[0]}, not made here; expected a new or empty "
                "folder"
            )
        return None
    report = read_json(path, "the report of an earlier run")
    try:
        if not all(isinstance(report[name], dict) for name in (*new, "splits")):
            raise TypeError
        for split, entry in report["splits"].items():
            describe_split(split, entry)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path}: not a report of dataset.py; expected a new or empty folder for --output"
        ) from None
    notes = {note.parent for note in output.glob(f"*.partial/{NOTES}")}
    resumes = any(not is_complete(output, partial.stem, report) for partial in notes)
    if not report["splits"] and not resumes:
        return None  # stopped before there was anything to keep
    before, now = report["settings"], new["settings"]
    if resumes:  # one file's features are computed in one way
        before, now = before | report["encoding"], now | new["encoding"]
    differences = [
        f"{name} was {before.get(name)}, now {now.get(name)}"
        for name in before | now
        if before.get(name) != now.get(name)
    ]
    if report["inputs"] != new["inputs"]:
        differences.append("other stories or photos")
    if differences and not overwrite:
        raise UserError(
            f"{output}: of another run ({'; '.join(differences)}); expected --overwrite, or "
            "another --output"
        )
    return None if differences else report


def describe_split(split: str, entry: dict) -> str:
    """What is printed of a split, from its entry in the report."""
    words, positions, photos = entry["words"], entry["positions"], entry["photos"]
    lines = [
        f"{split}: {entry['stories']} stories, {entry['beats']} beats; photos: {photos['found']} "
        f"found, {len(photos['missing'])} missing, {len(photos['broken'])} broken",
        f"  {words['total']} words, {words['mean']} per sentence (most: {words['max']}); a story "
        f"with {positions['image_positions']} image positions per photo takes "
        f"{positions['mean']} positions (95 %: {positions['95 %']}, most: {positions['max']})",
    ]
    if entry["remarks"]:
        lines.append(f"  {format_counts(entry['remarks'])}")
    return "\n".join(lines)


def format_counts(counts: dict[str, int]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in counts.items() if count)
