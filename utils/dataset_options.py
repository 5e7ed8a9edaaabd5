"""Every option of dataset.py, and the sources that it reads."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from utils.cli import (
    Parser,
    UserError,
    non_negative_float,
    number,
    positive_float,
    positive_int,
    say,
)
from utils.readers import read_captions, read_own, read_storybooks
from utils.story_files import EDIT_KEYS, read_vist, read_vist_edit

DATASET = Path("dataset")


PREPROCESSED = DATASET / "preprocessed"


VOCAB_SIZE = 8000


CPU_BATCH = 16  # photos that a CPU encodes at once: more only take more memory


REAL = {
    "image_encoder": "resnet152", "encoder_weights": "pretrained", "encoder_stages": 4,
    "encoder_grid": 1, "image_size": 224, "store": "features", "tokenizer": "gpt2",
}  # fmt: skip


# Half a ResNet-18 trained from pixels: twice as fast as a whole one, and its 4 x 4 cells keep where
# things are.
DRAWN = {
    "image_encoder": "resnet18", "encoder_weights": "none", "encoder_stages": 2, "encoder_grid": 4,
    "image_size": 64, "store": "pixels", "tokenizer": "bpe",
}  # fmt: skip


BY_SOURCE = {
    "image_encoder": (
        {"metavar": "NAME"},
        "a ResNet (resnet18, 34, 50, 101, 152), timm:NAME, or a vision model of transformers by "
        "name or path",
    ),
    "encoder_weights": (
        {"metavar": "WEIGHTS"},
        "pretrained (the library's), none (random), a file, or a model of ours for its encoder",
    ),
    "encoder_stages": ({"type": int, "choices": (1, 2, 3, 4)}, "residual stages kept"),
    "encoder_grid": (
        {"type": positive_int, "metavar": "CELLS"},
        "cells a side that features are pooled to",
    ),
    "image_size": (
        {"type": positive_int, "metavar": "PIXELS"},
        "side of the square that a photo is reduced to",
    ),
    "store": (
        {"choices": ("features", "pixels")},
        "frozen features, or pixels to train the encoder too",
    ),
    "tokenizer": (
        {"metavar": "NAME"},
        "a name, a folder, or bpe to train one on the training stories",
    ),
}


# what --download of photos takes, with its defaults
DOWNLOAD = {"connections": 16, "rate": 20.0, "max_megabytes": 50.0, "retry_gone": False}


# what --download fetches: (the option that names its folder, the folder under dataset/ else, the
# other options that have an effect)
PHOTO_OPTIONS = {"images", "text", "follow_links", *DOWNLOAD}
DOWNLOADS = {
    "photos": ("vist", "VIST", {"vist_edit", "picturebook", *PHOTO_OPTIONS}),
    "vist": ("vist", "VIST", PHOTO_OPTIONS),
    "flickr8k": ("captions", "flickr8k", set()),
    "storybooks": ("storybooks", "storybooks", {*DOWNLOAD}),
}


class Source(NamedTuple):
    name: str  # also its folder under dataset/
    holds: str
    read: Callable  # (folder, text) -> {split: (stories, remarks)}, {name: machine stories}
    files: str  # its annotations, from its folder
    images: str  # the folder of its photos, from its folder
    defaults: dict


SIS, EDITS = "sis/*.story-in-sequence.json", "*/*/*.json"


SOURCES = {
    "vist": Source("VIST", "sis/ and images/", read_vist, SIS, "images", REAL),
    "vist_edit": Source(
        "VIST-Edit", "AREL/ and GLAC/", read_vist_edit, EDITS, "../VIST/images", REAL
    ),
    "captions": Source(
        "flickr8k", "captions.csv, *.token.txt or the like", read_captions, "*s.*", "images", REAL
    ),
    "storybooks": Source(
        "storybooks",
        "asp-source/ and asp-imagebank/",
        read_storybooks,
        "asp-source/en/*",
        ".",
        REAL,
    ),
    "stories": Source("stories", "a story a line", read_own, "stories.jsonl", ".", REAL),
    "picturebook": Source("picturebook", "sis/ and images/", read_vist, SIS, "images", DRAWN),
}


NOTHING_FOUND = f"""\
{DATASET}/ holds no stories yet. Put there
  {DATASET}/VIST/         sis/{{train,val,test}}.story-in-sequence.json
                        and images/{{train,val,test}}/<photo id>.jpg
  {DATASET}/VIST-Edit/    AREL/ and GLAC/, each with train/, dev/, test/ (its photos are VIST's)
or name them (--vist DIR, --vist_edit DIR), or draw the sample:
  python -m experiments.picturebook"""


def parser() -> Parser:
    # What is not given is absent, not None: `SOURCES` and `main` have the defaults that depend on
    # the source.
    parser = Parser(
        prog="dataset.py",
        description="Preprocess stories and their photos into <split>.json and .safetensors files "
        "of words and photos.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    sources = parser.add_mutually_exclusive_group()
    for key, source in SOURCES.items():
        kind, what = "DIR", f"{source.name}: a folder with {source.holds}"
        if key == "captions":
            what = "captioned photos: Flickr8k's files, COCO's, a hub's image folder, VIST's dii/"
        if key == "stories":
            kind, what = "FILE", "stories of your own: JSON lines, one story a line"
        sources.add_argument(f"--{key}", metavar=kind, type=Path, help=what)
    add(
        "--features",
        metavar="PATH",
        type=Path,
        help="published features in place of photos: a folder of <photo id>.npy, or a .safetensors "
        "or .h5 file",
    )
    add(
        "--images",
        metavar="DIR",
        type=Path,
        help="where the photos are (default: its images/; VIST-Edit: VIST's)",
    )
    add(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where the splits go (default: {PREPROCESSED}/<source>)",
    )
    for name, (options, meaning) in BY_SOURCE.items():
        default = f"default: {REAL[name]}; picturebook: {DRAWN[name]}"
        add(f"--{name}", **options, help=f"{meaning} ({default})")
    add(
        "--vocab_size",
        type=positive_int,
        help=f"entries of a tokenizer that is trained here (default: {VOCAB_SIZE})",
    )
    add(
        "--text",
        choices=tuple(EDIT_KEYS),
        default="normalized",
        help="lower-cased with names masked, or as typed",
    )
    outside = (
        "take photos that are links out of the folder of the photos (those of git-annex, of a "
        "hub's cache)"
    )
    add("--follow_links", action="store_true", default=False, help=outside)
    add(
        "--missing_photos",
        choices=("keep", "drop"),
        default="keep",
        help="stories with a missing or broken photo",
    )
    add(
        "--machine_stories",
        action="store_true",
        default=False,
        help="VIST-Edit: write the machines' stories as well",
    )
    at_once = f"photos encoded at once (without a GPU: {CPU_BATCH} at most)"
    add("--batch_size", type=positive_int, default=64, help=at_once)
    workers = (
        "processes that decode photos, and encode them where there is no GPU (default: one a core)"
    )
    add("--num_workers", type=positive_int, help=workers)
    add(
        "--overwrite",
        action="store_true",
        default=False,
        help="replace an output of other settings or input",
    )
    fetch = (
        "fetch, and stop: the missing photos of VIST or VIST-Edit, from the annotations' URLs; or "
        "VIST's annotations and then its photos; or Flickr8k or the African Storybook, into "
        f"{DATASET}/"
    )
    add("--download", choices=tuple(DOWNLOADS), default=None, help=fetch)
    add(
        "--connections",
        metavar="N",
        type=number(int, 1, high=256),
        help=f"photos fetched at once (with --download; default: {DOWNLOAD['connections']})",
    )
    add(
        "--rate",
        metavar="N",
        type=non_negative_float,
        help="requests a second, at most; 0: as many as the connections make (with --download; "
        f"default: {DOWNLOAD['rate']:g})",
    )
    add(
        "--max_megabytes",
        metavar="N",
        type=positive_float,
        help="a bigger photo is not fetched (with --download; default: "
        f"{DOWNLOAD['max_megabytes']:g})",
    )
    add(
        "--retry_gone",
        action="store_true",
        help="ask again for what earlier runs found to be gone (with --download)",
    )
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    options = parser()
    args = options.parse_args(argv)
    given = [name for name, value in vars(args).items() if value != options.get_default(name)]
    if args.download:
        source, _, others = DOWNLOADS[args.download]
        if useless := [name for name in given if name not in {"download", source, *others}]:
            options.error(
                f"--{useless[0]}: no effect on --download {args.download}; expected without it"
            )
    elif useless := [name for name in given if name in DOWNLOAD]:
        options.error(f"--{useless[0]}: only --download fetches photos; expected them together")
    of_photos = {"images", "store", "encoder_weights", "follow_links", "image_encoder"}
    of_photos |= {"image_size", "encoder_stages", "encoder_grid"}
    if "features" in given and (useless := [name for name in given if name in of_photos]):
        options.error(f"--{useless[0]}: of photos; --features stands in their place")
    return args


def latest_split(split: str) -> Path | None:
    """The newest dataset/preprocessed/*/<split>.json, or None."""
    return max(PREPROCESSED.glob(f"*/{split}.json"), key=os.path.getmtime, default=None)


def choose_source(args: argparse.Namespace) -> tuple[str, Path] | None:
    """(key in SOURCES, folder) that the user named, or the first under dataset/; None if none."""
    for key in SOURCES.keys() & vars(args):
        folder = vars(args)[key]
        if not (folder.is_file() if key == "stories" else folder.is_dir()):
            kind = "file" if key == "stories" else "folder"
            raise UserError(
                f"--{key} {folder}: no such {kind}; expected {SOURCES[key].holds} in it"
            )
        return key, folder
    folders = {key: DATASET / source.name for key, source in SOURCES.items() if key != "stories"}
    present = [key for key in folders if any(folders[key].glob(SOURCES[key].files))]
    if not present:
        return None
    task = "Fetching the photos of" if args.download else "Preprocessing"
    message = f"{task} {folders[present[0]]}"
    if others := ", ".join(f"--{key} {folders[key]}" for key in present[1:]):
        message += f" (or name another: {others})"
    say(message)
    return present[0], folders[present[0]]
