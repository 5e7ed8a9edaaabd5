"""Photos encoded once, in chunks that a stopped run goes on from; what a run leaves behind."""

import hashlib
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from utils.batches import cut
from utils.cli import UserError, say, warn
from utils.dataset_options import DATASET, REAL, SOURCES
from utils.files import read_json, write_json
from utils.photos import BrokenPhoto, find_photos, load_photo, photo_index
from utils.tensors import open_to_write, safetensors_header

SHARED = ("tokenizer", "image_encoder")  # what the splits of one output folder share


# in <split>.partial/, until it is complete
PHOTOS, NOTES, HOW = ("photos.safetensors", "[0-9]*.json", "how.json")


CHUNK = 512  # photos that one process encodes between two notes of its progress


class PhotoFiles(Dataset):
    """Batches of photo numbers -> (rows, {number: reason} of the broken photos, whose rows are of a
    black square).

    Rows are uint8 pixels (N, 3, S, S), or float16 features (N, F) where there is a `network` to
    encode them.
    """

    def __init__(self, paths, encoder, network=None):
        self.paths, self.encoder, self.network = paths, encoder, network

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, numbers):
        size, broken = self.encoder.config.image_size, {}
        pixels = torch.zeros(len(numbers), 3, size, size, dtype=torch.uint8)
        for place, number in enumerate(numbers):
            try:
                pixels[place] = self.encoder.preprocess(load_photo(self.paths[number], size))
            except BrokenPhoto as reason:
                broken[number] = str(reason)
        return pixels if self.network is None else encode_photos(self.network, pixels), broken


@torch.inference_mode()
def encode_photos(network, pixels):
    """uint8 pixels (N, 3, S, S) -> float16 features (N, F), on a CUDA GPU computed in float16 as
    well."""
    with torch.autocast("cuda", torch.float16, enabled=pixels.is_cuda):
        return network(pixels).half()


def write_photos(folder, photos, encoder, kind, batch_size, workers, team):
    """Write the photos' tensor to photos.safetensors in `folder`, a row each, together with the
    team's other processes.

    photos: {photo id: path}. kind "features": (rows, F) float16; "pixels": (rows, 3, S, S) uint8. A
    broken photo is a row of zeros. Chunk c (CHUNK rows) is process c % count's. Once its rows are
    on the disk, <c>.json says so and which photos are broken: a run that was stopped goes on from
    the chunks that any process has noted. Batches begin anew with each chunk and a batch on the CPU
    is one thread's work, so the bytes do not depend on the number of processes.
    """
    encoding, on_gpu = kind == "features", team.device.type != "cpu"
    size, paths = encoder.config.image_size, list(photos.values())
    dtype, shape = ("F16", (encoder.config.feature_size,)) if encoding else ("U8", (3, size, size))
    row_bytes = math.prod(shape) * (2 if encoding else 1)
    header = safetensors_header(dtype, (len(paths), *shape), row_bytes * len(paths))
    if team.index == 0:
        begin_photos(folder, header, len(header) + row_bytes * len(paths))
    team.wait()

    chunks = cut(range(len(paths)), CHUNK)
    todo = [
        c for c in range(team.index, len(chunks), team.count) if not note_of(folder, c).exists()
    ]
    batches = [(c, batch) for c in todo for batch in cut(chunks[c], batch_size)]
    network = encoder.fuse_batch_norms() if encoding else None
    # without a GPU the workers encode, a thread each
    files = PhotoFiles(paths, encoder, None if on_gpu else network)
    loader = DataLoader(
        files,
        batch_size=None,
        sampler=[batch for _, batch in batches],
        num_workers=min(workers, len(batches)),
        pin_memory=team.device.type == "cuda",
    )
    if encoding and on_gpu:
        network.to(team.device)
    mine = "" if team.count == 1 else f", share 1 of {team.count}"
    bar = {
        "total": sum(len(chunks[c]) for c in todo),
        "desc": f"{folder.stem}{mine}",
        "unit": " photos",
    }
    ids, broken = list(photos), {}
    with open_to_write(folder / PHOTOS) as file, tqdm(**bar, disable=team.index > 0) as bar:
        for (c, batch), (rows, reasons) in zip(batches, loader, strict=True):
            if encoding and on_gpu:
                rows = encode_photos(network, rows.to(team.device, non_blocking=True)).cpu()
            rows = rows.numpy()
            for number, reason in reasons.items():
                rows[number - batch[0]], broken[ids[number]] = 0, reason
            # random weights: the deepest networks multiply by millions
            if encoding and not np.isfinite(rows).all():
                advice = (
                    "expected --image_encoder resnet50 or a smaller one, --encoder_weights imagenet"
                )
                found = (
                    f"--image_encoder {encoder.config.arch}: its features exceed float16's range"
                )
                raise UserError(f"{found}; {advice}, or --store pixels")
            file.seek(len(header) + batch[0] * row_bytes)
            file.write(rows)
            bar.update(len(batch))
            if batch[-1] == chunks[c][-1]:
                file.flush()
                os.fsync(file.fileno())  # the rows are on the disk before the note says so
                write_json(note_of(folder, c), broken)
                broken = {}
    team.wait()


def begin_photos(folder, header, size):
    """The file that the photos' rows go to, of `size` bytes: a new one, or an earlier run's if it
    has noted chunks."""
    if not any(folder.glob(NOTES)):
        folder.mkdir(exist_ok=True)
        (folder / PHOTOS).write_bytes(header)
    os.truncate(folder / PHOTOS, size)  # each process writes at its rows' places


def note_of(folder, chunk):
    return folder / f"{chunk}.json"


def broken_photos(partial, count):
    """{photo id: reason} of a split's `count` photos, from the notes of all chunks."""
    expected = "the note of a chunk (delete it, and run the same command again)"
    broken = {}
    for chunk in range(-(-count // CHUNK)):
        broken |= read_dict(note_of(partial, chunk), expected)
    return broken


def choose_source(args):
    """(key in SOURCES, folder) that the user named, or the first that lies under dataset/; None
    where there is none."""
    named = [(key, folder) for key, folder in vars(args).items() if key in SOURCES]
    if len(named) > 1:
        raise UserError(f"--{named[0][0]} and --{named[1][0]}: expected one of them")
    for key, folder in named:
        if not folder.is_dir():
            raise UserError(
                f"--{key} {folder}: no such folder; expected {SOURCES[key].holds} in it"
            )
        return key, folder
    folders = [(key, DATASET / source.name, source.files) for key, source in SOURCES.items()]
    lying = [(key, folder) for key, folder, files in folders if any(folder.glob(files))]
    if not lying:
        return None
    others = ", ".join(f"--{key} {folder}" for key, folder in lying[1:])
    doing = "Fetching the photos of" if args.download else "Preprocessing"
    say(f"{doing} {lying[0][1]}" + (f" (or name another: {others})" if others else ""))
    return lying[0]


def album_of_photos(stories):
    """{photo id: album id} as the photos appear."""
    return {beat["photo_id"]: story["album_id"] for story in stories for beat in story["beats"]}


def why_broken(path):
    """Why a file is no readable photo, or None."""
    try:
        load_photo(path, REAL["image_size"])
    except BrokenPhoto as reason:
        return str(reason)
    return None


class Job(NamedTuple):
    """One split, ready to be written."""

    stories: list
    remarks: Counter  # how many stories were left out or kept, and why
    found: dict  # photo id: path, one row each
    missing: dict  # photo id: reason
    fingerprint: str  # of the stories and the photos' files


def prepare(folder, split, stories, remarks, images, missing_photos, follow_links):
    index = photo_index(images, split, follow_links)
    found, missing = find_photos(stories, *index)
    if aside := Counter(reason for reason in missing.values() if reason != "not found"):
        takes = (
            "; --follow_links takes links"
            if any("a link out" in reason for reason in aside)
            else ""
        )
        warn(f"{images}: photos of {split} are left aside ({remark_line(aside)}{takes})")
    if missing_photos == "drop":
        stories = with_photos(stories, found, split, remarks)
        found, _ = find_photos(stories, *index)
    if not stories:
        found = remark_line(remarks) or "no annotations"
        raise UserError(f"{folder}: no story in {split} ({found}); expected at least one")
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found.values()]
    fingerprint = hashlib.sha256(json.dumps([stories, files, missing]).encode()).hexdigest()
    return Job(stories, remarks, found, missing, fingerprint)


def with_photos(stories, photos, split, remarks):
    """The stories whose photos are all in `photos`; the others are counted."""
    kept = [
        story for story in stories if all(beat["photo_id"] in photos for beat in story["beats"])
    ]
    remarks["left out: a photo missing or broken"] += len(stories) - len(kept)
    if stories and not kept:
        raise UserError(
            f"--missing_photos drop: each story of {split} lacks a photo; expected keep, or more "
            "photos"
        )
    return kept


def how_encoded(settings, args, team):
    """What the last bits of features depend on: those of one file have to be computed in one
    way."""
    return (
        {"device": team.device.type, "batch_size": args.batch_size}
        if settings["store"] == "features"
        else {}
    )


def earlier_report(output, new, how, overwrite):
    """report.json in the output folder, if it is of the settings and inputs in `new`; None to start
    afresh.

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
            described(split, entry)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{path}: not a report of dataset.py; expected a new or empty folder for --output"
        ) from None
    begun = {note.parent for note in output.glob(f"*.partial/{NOTES}")}
    # else it was to be removed
    begun = {partial for partial in begun if not is_complete(output, partial.stem, report)}
    if not report["splits"] and not begun:
        return None  # stopped before there was anything to keep
    before, now = report["settings"], new["settings"]
    for partial in begun:
        before, now = before | read_dict(partial / HOW, "how its photos were encoded"), now | how
    names = [name for name in before | now if before.get(name) != now.get(name)]
    differ = [f"{name} was {before.get(name)}, now {now.get(name)}" for name in names]
    if report["inputs"] != new["inputs"]:
        differ.append("other stories or photos")
    if differ and not overwrite:
        raise UserError(
            f"{output}: of another run ({'; '.join(differ)}); expected --overwrite, or another "
            "--output"
        )
    return None if differ else report


def read_dict(path, expected):
    """The object in a JSON file that this script has written."""
    value = read_json(path, expected)
    if not isinstance(value, dict):
        raise UserError(f"{path}: something else; expected {expected}")
    return value


def is_complete(output, split, report):
    return split in report["splits"] and all(
        (output / f"{split}.{kind}").is_file() for kind in ("json", "safetensors")
    )


def is_utf8(path):
    try:
        str(Path(path).absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def partial_of(output, split):
    """Where a split's photos are until the split is complete."""
    return output / f"{split}.partial"


def described(split, entry):
    """What is printed of a split, from its entry in the report."""
    words, positions, photos = entry["words"], entry["positions"], entry["photos"]
    return (
        f"{split}: {entry['stories']} stories, {entry['beats']} beats; photos: {photos['found']} "
        "found, "
        f"{len(photos['missing'])} missing, {len(photos['broken'])} broken\n"
        f"  {words['total']} words, {words['mean']} a sentence (most: {words['max']}); a story "
        f"with {positions['image_positions']} image positions a photo takes "
        f"{positions['mean']} positions "
        f"(95 %: {positions['95 %']}, most: {positions['max']})"
        + (f"\n  {remark_line(entry['remarks'])}" if entry["remarks"] else "")
    )


def remark_line(remarks):
    return "; ".join(f"{remark}: {count}" for remark, count in remarks.items() if count)
