"""Stories as tensors: VIST, VIST-Edit and the picturebook -> three files a split -> batches.

    python dataset.py                          preprocess what lies under dataset/
    python dataset.py --vist dataset/VIST      name it
    python dataset.py --download               fetch the photos that are missing, and stop
    torchrun --nproc_per_node 4 dataset.py     four processes share the photos (and the GPUs)

Part 1 (special tokens, packing, batches) is what training, generation and scoring share: nothing
else knows positions. Part 2 is the preprocessing. A split is `<split>.json` (stories),
`<split>.words.safetensors` (their words as token ids) and `<split>.safetensors` (their photos).
"""

import argparse
import contextlib
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from utils.cli import (
    Parser,
    UserError,
    answer_early,
    first_process,
    natural_float,
    positive_float,
    positive_int,
    run,
    say,
    warn,
)
from utils.files import alone, read_json, whole, write_json
from utils.stories import (
    EDIT_KEYS,
    SPLITS,
    read_split,
    read_vist,
    read_vist_edit,
    split_head,
    story_ids,
)

DATASET = Path("dataset")
PREPROCESSED = DATASET / "preprocessed"
CPU_BATCH = 16  # photos that a CPU encodes at once: more only take more memory

# ------------------------------------------------------------------------------------------ options

REAL = {
    "image_encoder": "resnet152", "encoder_weights": "imagenet", "encoder_stages": 4,
    "encoder_grid": 1, "image_size": 224, "store": "features", "tokenizer": "gpt2",
}  # fmt: skip
# Half a ResNet-18 trained from pixels: twice as fast as a whole one, and its 4 x 4 cells keep where
# things are.
DRAWN = {
    "image_encoder": "resnet18", "encoder_weights": "none", "encoder_stages": 2, "encoder_grid": 4,
    "image_size": 64, "store": "pixels", "tokenizer": "bpe",
}  # fmt: skip
BY_SOURCE = {
    "image_encoder": ({"metavar": "NAME"}, "resnet18, resnet34, resnet50, resnet101 or resnet152"),
    "encoder_weights": (
        {"metavar": "WEIGHTS"},
        "imagenet, none (random), a state dict, or a model of ours for its eye",
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


DOWNLOAD = {  # what --download takes: the type, the default and what it is
    "connections": (positive_int, 16, "photos fetched at once"),
    "rate": (natural_float, 20.0, "requests a second, at most; 0: as many as the connections make"),
    "max_megabytes": (positive_float, 50.0, "a bigger photo is not fetched"),
    "retry_gone": (None, False, "ask again for what earlier runs found to be gone"),
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
    "picturebook": Source("picturebook", "sis/ and images/", read_vist, SIS, "images", DRAWN),
}
NOTHING_FOUND = f"""\
{DATASET}/ holds no stories yet. Put there
  {DATASET}/VIST/         sis/{{train,val,test}}.story-in-sequence.json
                        and images/{{train,val,test}}/<photo id>.jpg
  {DATASET}/VIST-Edit/    AREL/ and GLAC/, each with train/, dev/, test/ (its photos are VIST's)
or name them (--vist DIR, --vist_edit DIR), or draw the sample:
  python -m experiments.picturebook"""


def parser():
    # What is not given is absent, not None: `SOURCES` and `main` have the defaults that depend on
    # the source.
    parser = Parser(
        prog="dataset.py",
        description="Preprocess stories and their photos into <split>.json and .safetensors files "
        "of words and photos.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    for key, source in SOURCES.items():
        add(
            f"--{key}",
            metavar="DIR",
            type=Path,
            help=f"{source.name}: a folder with {source.holds}",
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
        values = {key: source.defaults[name] for key, source in SOURCES.items()}
        default = f"default: {values['vist']}; picturebook: {values['picturebook']}"
        add(f"--{name}", **options, help=f"{meaning} ({default})")
    add(
        "--vocab_size",
        type=positive_int,
        default=8000,
        help="entries of a tokenizer that is trained here",
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
    add("--workers", type=positive_int, help=workers)
    add(
        "--overwrite",
        action="store_true",
        default=False,
        help="replace an output of other settings or input",
    )
    fetch = (
        "VIST, VIST-Edit: fetch the missing photos from the annotations' URLs, into the folder of "
        "photos, and stop"
    )
    add("--download", action="store_true", default=False, help=fetch)
    for name, (kind, default, meaning) in DOWNLOAD.items():
        options = {"type": kind, "metavar": "N"} if kind else {"action": "store_true"}
        note = f"; default: {default:g}" if kind else ""
        add(f"--{name}", **options, help=f"{meaning} (with --download{note})")
    return parser


def parse_args(argv=None):
    args = parser().parse_args(argv)
    if not args.download and (given := [name for name in DOWNLOAD if name in args]):
        parser().error(f"--{given[0]}: only --download fetches photos; expected them together")
    if vars(args).get("connections", 0) > 256:
        parser().error(f"--connections {args.connections}: expected 256 at most")
    return args


if __name__ == "__main__":
    answer_early(parse_args)

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from model import ImageEncoder, PlanCVAEConfig, load_checkpoint, load_encoder
from utils.checkpoint import quiet_transformers
from utils.photos import DEAD_LINK, BrokenPhoto, find_photos, load_photo, photo_index
from utils.processes import join_team
from utils.tensors import Photos, Rows, open_to_write, safetensors_header, take_photos
from utils.tokenizer import SpecialIds, encode, load_tokenizer, special_ids, train_tokenizer

SHARED = ("tokenizer", "image_encoder")  # what the splits of one output folder share
# in <split>.partial/, until it is complete
PHOTOS, NOTES, HOW = ("photos.safetensors", "[0-9]*.json", "how.json")
CHUNK = 512  # photos that one process encodes between two notes of its progress


# ------------------------------------------------------------------------------------------- tokens


# -------------------------------------------------------------------------- one story, one sequence


def story_length(sentences, image_slots):
    """Positions that `pack` gives a story: image slots, [bos], words, [eos] and [dyn] of each
    beat."""
    return sum(image_slots + len(words) + 3 for words in sentences)


def pack(sentences, special, image_slots):
    """One story as one sequence: `[img]*K [bos] words [eos] [dyn]` for each beat.

    sentences: T lists of token ids.

    Returns 1-D long tensors. Of length L: input_ids and segment_ids. Of length T: image_at (the
    last image slot of each beat) and dyn_at (each beat's [dyn]). Of length N, what is predicted:
    words (each sentence's and its [eos]), word_at (the positions that predict them: [bos] the first
    word) and word_beat (their beats).
    """
    input_ids, segment_ids, image_at, dyn_at = [], [], [], []
    predicted, word_at, word_beat = [], [], []
    for t, words in enumerate(sentences):
        image_at.append(len(input_ids) + image_slots - 1)
        spoken = [special.bos, *words, special.eos, special.dyn]
        input_ids += [special.img] * image_slots + spoken
        segment_ids += [special.img] * image_slots + [special.txt] * len(spoken)
        predicted += spoken[1:-1]
        word_at += range(image_at[-1] + 1, image_at[-1] + len(spoken) - 1)
        word_beat += [t] * (len(spoken) - 2)
        dyn_at.append(len(input_ids) - 1)
    fields = {
        "input_ids": input_ids,
        "segment_ids": segment_ids,
        "image_at": image_at,
        "dyn_at": dyn_at,
        "words": predicted,
        "word_at": word_at,
        "word_beat": word_beat,
    }
    return {name: torch.tensor(values, dtype=torch.long) for name, values in fields.items()}


def collate(examples, pad_id):
    """Examples of StoryDataset -> one batch, padded on the right to its longest story (L) and most
    beats (T).

    input_ids, segment_ids: (B, L) long, padded with pad_id. image_at, dyn_at: (B, T) long, 0 on
    padded beats; beat_mask: (B, T) bool; beats: (M) long, where in B·T the beats there are stand.
    words, word_at, word_beat: (N) long, what is predicted, where in B·L, and of which of the M
    beats. photos: (B, T, ...) float32 features or uint8 pixels, zeros where photo_mask (B, T) is
    False: photo missing or beat padded. index: (B), the stories' places in the split.
    """

    def pad(name, value=0):
        return pad_sequence([example[name] for example in examples], True, value)

    batch = {name: pad(name, pad_id) for name in ("input_ids", "segment_ids")}
    batch |= {name: pad(name) for name in ("image_at", "dyn_at", "photos", "photo_mask")}
    batch["beat_mask"] = pad_sequence(
        [torch.ones_like(example["photo_mask"]) for example in examples], True, False
    )
    batch["beats"] = batch["beat_mask"].flatten().nonzero()[:, 0]
    batch["words"] = torch.cat([example["words"] for example in examples])
    L, beats = batch["input_ids"].shape[1], [len(example["dyn_at"]) for example in examples]
    starts = {
        "word_at": [b * L for b in range(len(examples))],
        "word_beat": accumulate(beats[:-1], initial=0),
    }
    for name, at in starts.items():
        batch[name] = torch.cat(
            [example[name] + start for example, start in zip(examples, at, strict=True)]
        )
    batch["index"] = torch.tensor([example["index"] for example in examples])
    return batch


class Text(NamedTuple):
    """The words of N stories (S sentences, W words in all) as flat tables: what training holds of
    them is small."""

    words: np.ndarray | Rows  # W: token ids, sentence after sentence; from a file, they stay there
    sentence_at: np.ndarray  # S + 1: where in `words` each sentence begins, and the last ends
    story_at: np.ndarray  # N + 1: the same of stories in sentences
    photos: np.ndarray  # S: the row of each sentence's photo, -1 where there is none

    @classmethod
    def of(cls, stories, tokenizer):
        """Those of stories as in a split's .json."""
        sentences = encode(tokenizer, sentences_of(stories))
        words = np.fromiter((word for sentence in sentences for word in sentence), np.int32)
        photos = [
            -1 if beat["photo"] is None else beat["photo"]
            for story in stories
            for beat in story["beats"]
        ]
        starts = (
            np.cumsum([0, *map(len, of)])
            for of in (sentences, [story["beats"] for story in stories])
        )
        return cls(words, *starts, np.array(photos, np.int64))

    @classmethod
    def load(cls, path, json_path, tokenizer):
        """Those of a file that `save` wrote; None where it is of another tokenizer or of other
        stories.

        Raises UserError where it is damaged.
        """
        words, *tables = (Rows(path, name) for name in cls._fields)
        if words.metadata != words_of(json_path, tokenizer):
            return None
        for table in (words, *tables):
            if len(table.shape) != 1 or table.dtype not in (torch.int32, torch.int64):
                raise UserError(
                    f"{path}: a table of {table.dtype}, {table.shape}; expected those that "
                    "dataset.py wrote"
                )
        sentence_at, story_at, photos = (table[:].numpy() for table in tables)
        for at, count in (
            (sentence_at, len(words)),
            (story_at, len(photos)),
            (sentence_at[:1], 0),
            (story_at[:1], 0),
        ):
            if not at.size or at.min() < 0 or at[-1] != count or (np.diff(at) < 0).any():
                raise UserError(
                    f"{path}: its tables do not fit together; expected those that dataset.py wrote"
                )
        # an id beyond the table of embeddings would stop a training midway
        for start in range(0, len(words), 2**20):
            part = words[start : start + 2**20]
            if part.min() < 0 or part.max() >= len(tokenizer):
                raise UserError(
                    f"{path}: words beyond the tokenizer's {len(tokenizer)}; expected dataset.py's "
                    "own file"
                )
        if len(sentence_at) != len(photos) + 1:
            raise UserError(
                f"{path}: {len(photos)} photos; expected one for each of {len(sentence_at) - 1} "
                "sentences"
            )
        return cls(words, sentence_at, story_at, photos)

    def save(self, path, json_path, tokenizer):
        """Write them beside the split's JSON, which is there already."""
        save_file(self._asdict(), path, metadata=words_of(json_path, tokenizer))

    def sentences(self, i):
        """Token ids of each sentence of story i."""
        at = self.sentence_at[self.story_at[i] : self.story_at[i + 1] + 1].tolist()
        words = self.words[at[0] : at[-1]].tolist()
        return [words[start - at[0] : end - at[0]] for start, end in zip(at, at[1:])]

    def lengths(self, image_slots):
        """Positions that `pack` gives each story."""
        return np.diff(self.sentence_at[self.story_at]) + np.diff(self.story_at) * story_length(
            [[]], image_slots
        )

    def rows(self, i):
        """The row of each sentence's photo in story i, None where it has none."""
        return [
            None if row < 0 else row
            for row in self.photos[self.story_at[i] : self.story_at[i + 1]].tolist()
        ]


def words_of(json_path, tokenizer):
    """What the words of a split depend on, to know whether they are still its: the tokenizer, the
    bytes of its file."""
    rules = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
    # one entry: no order
    return {"of": f"tokenizer {rules}, stories of {Path(json_path).stat().st_size} bytes"}


class StoryDataset(Dataset):
    """Stories with their photos: `pack`'s tensors and `take_photos`'s, story by story.

    stories: as in a preprocessed split; photos: a Photos, a tensor, or None (text alone). lengths
    and beats: positions and sentences of each story; shortened: how many stories lost trailing
    beats (or the end of a lone sentence) to fit `max_length`.
    """

    def __init__(self, stories, photos, tokenizer, image_slots, max_length, text=None):
        """text: the stories' Text where it is at hand; `stories` is not read then, and may be None.

        tokenizer: with our special tokens, or their SpecialIds where the text is at hand.
        """
        if max_length < image_slots + 4:
            raise UserError(
                f"a model of {max_length} positions holds no beat of {image_slots} image slots; "
                "expected at least "
                f"{image_slots + 4} positions, for [bos], a word, [eos] and [dyn] too"
            )
        self.photos, self.image_slots, self.max_length = photos, image_slots, max_length
        self.special = tokenizer if isinstance(tokenizer, SpecialIds) else special_ids(tokenizer)
        self.text = Text.of(stories, tokenizer) if text is None else text
        self.beats = np.diff(self.text.story_at)
        self.lengths = self.text.lengths(image_slots)
        too_long = np.flatnonzero(self.lengths > max_length)
        self.shortened = len(too_long)
        for i in too_long.tolist():
            self.beats[i], self.lengths[i] = (
                len(self.sentences(i)),
                story_length(self.sentences(i), image_slots),
            )

    @classmethod
    def load(cls, json_path, tokenizer, image_slots, max_length, encoder=None):
        """A preprocessed split. Raises UserError where its files are missing, no split, or not of
        the encoder."""
        split, text = split_head(json_path), None
        if split is not None:
            text = Text.load(Path(json_path).with_name(split["words"]), json_path, tokenizer)
        # of before words had a file of their own, of another tokenizer, or written by hand
        if text is None:
            split = read_split(json_path)
            text = Text.of(split["stories"], tokenizer)
        photos = Photos(json_path, split, encoder)
        beyond = np.flatnonzero(text.photos >= len(photos))
        if len(beyond):
            number = int(np.searchsorted(text.story_at, beyond[0], side="right")) - 1
            found = (
                f"{json_path}: story {story_ids(json_path, [number])[0]}: photo "
                f"{text.photos[beyond[0]]}"
            )
            raise UserError(
                f"{found}; expected one of the {len(photos)} rows in {photos.path.name}"
            )
        stories = cls(None, photos, tokenizer, image_slots, max_length, text)
        stories.written = split.get("text", "normalized")
        return stories

    def sentences(self, i):
        """Token ids of each sentence of story i, as far as they fit."""
        return fit(self.text.sentences(i), self.image_slots, self.max_length)

    def rows(self, i):
        """The row of each beat's photo in story i, None where it has none."""
        return self.text.rows(i)[: self.beats[i]]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        number = range(len(self))[i]  # a negative one counts from the end, as anywhere
        photos, photo_mask = take_photos(self.rows(number), self.photos)
        packed = pack(self.sentences(number), self.special, self.image_slots)
        return packed | {"photos": photos, "photo_mask": photo_mask, "index": i}


def sentences_of(stories):
    return [beat["sentence"] for story in stories for beat in story["beats"]]


def fit(sentences, image_slots, max_length):
    """The sentences without the trailing beats that do not fit; a lone one is cut. The same object
    where all fit."""
    while len(sentences) > 1 and story_length(sentences, image_slots) > max_length:
        sentences = sentences[:-1]
    if story_length(sentences, image_slots) > max_length:
        sentences = [sentences[0][: max_length - image_slots - 3]]
    return sentences


class BucketBatches(Sampler):
    """Batches (lists of story numbers) of like length: each story once an epoch, the order a
    function of (seed, epoch).

    Shuffled stories are sorted by length inside windows of 50 batches, and the batches shuffled.
    Without `shuffle`: all sorted by length, the same every epoch.
    """

    def __init__(self, lengths, batch_size, seed=0, shuffle=True):
        self.lengths, self.batch_size, self.seed, self.shuffle = (
            np.asarray(lengths),
            batch_size,
            seed,
            shuffle,
        )
        self.set_epoch(0)

    def set_epoch(self, epoch, start=0):
        """The epoch to run next, from its batch number `start` on (where a stopped run goes on)."""
        self.epoch, self.start = epoch, start

    def __len__(self):
        return -(-len(self.lengths) // self.batch_size) - self.start

    def __iter__(self):
        chance, count = np.random.default_rng([self.seed, self.epoch]), len(self.lengths)
        order = chance.permutation(count) if self.shuffle else np.arange(count)
        window = 50 * self.batch_size if self.shuffle else max(1, count)
        for at in range(0, count, window):
            part = order[at : at + window]
            order[at : at + window] = part[np.argsort(self.lengths[part], kind="stable")]
        starts = np.arange(0, count, self.batch_size)
        for at in (chance.permutation(starts) if self.shuffle else starts)[self.start :].tolist():
            yield order[at : at + self.batch_size].tolist()


def cut(items, size):
    """Consecutive parts of `size` items, the last as long as what is left."""
    return [items[at : at + size] for at in range(0, len(items), size)] if items else []


def latest_split(split):
    """The newest dataset/preprocessed/*/<split>.json, or None."""
    return max(
        PREPROCESSED.glob(f"*/{split}.json"), key=lambda path: path.stat().st_mtime, default=None
    )


# ------------------------------------------------------------------------------------------- photos


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
    network = encoder.folded() if encoding else None
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


# ------------------------------------------------------------------------------------ preprocessing


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


def choose_settings(args, source):
    """What the output depends on, beside the stories and photos."""
    settings = {"source": source.name, "text": args.text, "missing_photos": args.missing_photos}
    settings |= {name: vars(args).get(name, default) for name, default in source.defaults.items()}
    if settings["tokenizer"] == "bpe":
        settings["vocab_size"] = args.vocab_size
    weights = Path(settings["encoder_weights"])
    if is_trained(settings["encoder_weights"]):
        encoder = trained_eye(weights)
        eye, weights = encoder.config, Path(encoder.name_or_path) / "model.safetensors"
        of_eye = {"image_encoder": eye.arch, "image_size": eye.image_size}
        of_eye |= {"encoder_stages": eye.stages, "encoder_grid": eye.grid}
        if other := [name for name in of_eye if vars(args).get(name, of_eye[name]) != of_eye[name]]:
            found = (
                f"--{other[0]} {vars(args)[other[0]]}: that of --encoder_weights "
                f"{settings['encoder_weights']}"
            )
            raise UserError(f"{found} is {of_eye[other[0]]}; expected no other")
        settings |= of_eye
    if weights.is_file():  # the same path may hold other weights tomorrow
        settings["encoder_weights_date"] = weights.stat().st_mtime_ns
    return settings


def main(argv=None):
    args = parse_args(argv)
    if args.download:
        return fetch_photos(args) if first_process() else 0
    with join_team() as team, contextlib.ExitStack() as stack:
        return preprocess(args, team, stack)


def preprocess(args, team, stack):
    """Write what is asked for, this process's share of it; `stack` closes what it opens. Returns
    the exit status."""
    if team.index:
        # the first process goes ahead: what is wrong is said once, and the output made once
        team.wait()
    chosen = choose_source(args)
    if chosen is None:
        print(NOTHING_FOUND, file=sys.stderr)
        return 2
    key, folder = chosen
    source = SOURCES[key]
    if args.machine_stories and key != "vist_edit":
        raise UserError(
            "--machine_stories: only VIST-Edit holds machine stories; expected --vist_edit DIR"
        )
    images, output = (
        vars(args).get("images", folder / source.images),
        vars(args).get("output", PREPROCESSED / key),
    )
    if not is_utf8(output):
        raise UserError(
            f"--output {output}: a name that is no UTF-8; expected one that all libraries can write"
        )
    if not images.is_dir():
        fetch = "" if key == "picturebook" else ", or --download to fetch them"
        raise UserError(
            f"{images}: no such folder; expected the photos, or --images DIR that names their "
            f"folder{fetch}"
        )

    splits, machine = source.read(folder, args.text)
    jobs = {
        split: prepare(folder, split, *told, images, args.missing_photos, args.follow_links)
        for split, told in splits.items()
    }
    settings = choose_settings(args, source)
    if settings["store"] == "features" and team.device.type == "cpu":
        args.batch_size = min(args.batch_size, CPU_BATCH)
    new = {"settings": settings, "inputs": {split: job.fingerprint for split, job in jobs.items()}}
    if team.index == 0:
        stack.enter_context(alone(output, "--output"))
        report = begin(output, new, how_encoded(settings, args, team), jobs, args.overwrite)
        team.wait()
    else:
        report = read_json(output / "report.json", "the report that the first process has begun")
        if report["inputs"] != new["inputs"]:
            raise UserError(
                f"{folder}: other files here than the first process has found; expected one shared "
                "folder"
            )
    todo = [split for split in jobs if not is_complete(output, split, report)]
    wordless = [
        s for s in jobs if s not in todo and not (output / f"{s}.words.safetensors").is_file()
    ]
    if todo or wordless:
        tokenizer, encoder = load_shared(output)
    # of before words had a file of their own, or it is gone
    for split in wordless if team.index == 0 else ():
        about = read_split(output / f"{split}.json")
        write_stories(output / f"{split}.json", about, about.pop("stories"), tokenizer)
    store, workers = settings["store"], vars(args).get("workers", team.workers)
    for split, job in jobs.items():
        if split in todo:
            write_photos(
                partial_of(output, split), job.found, encoder, store, args.batch_size, workers, team
            )
        if team.index:
            continue
        if split in todo:
            write_split(output, split, job, report, tokenizer)
        else:
            say(f"{output / split}.json: complete already, from the same settings and input")
        shutil.rmtree(partial_of(output, split), ignore_errors=True)
        say(described(split, report["splits"][split]))
    if team.index:
        return 0
    if args.machine_stories:
        for name, stories in machine.items():
            write_json(output / f"{name}.json", {"stories": stories})
            say(f"{output / name}.json: {len(stories)} machine stories")
    if any(
        entry["photos"]["missing"] or entry["photos"]["broken"]
        for entry in report["splits"].values()
    ):
        say(f"Which photos are missing or broken, and why: {output / 'report.json'}")
    if "train" in jobs:
        paths = [
            f"--{split}_data_path {output / split}.json"
            for split in ("train", "val")
            if split in jobs
        ]
        say(f"Next: python train.py {' '.join(paths)}")
    return 0


def fetch_photos(args):
    """Fetch the photos that the stories need and that are not there. Returns the exit status."""
    from utils import download

    chosen = choose_source(args)
    if chosen is None:
        print(NOTHING_FOUND, file=sys.stderr)
        return 2
    key, folder = chosen
    if key == "picturebook":
        raise UserError(
            "--download: the picture book is drawn by picturebook.py; expected --vist or "
            "--vist_edit DIR"
        )
    source = SOURCES[key]
    images = vars(args).get("images", folder / source.images)
    splits, _ = source.read(folder, args.text)
    needed = {split: album_of_photos(stories) for split, (stories, _) in splits.items()}
    urls = download.vist_urls(folder) if key == "vist" else download.vist_edit_urls(folder)
    options = {name: value for name, value in vars(args).items() if name in DOWNLOAD}

    def there(split):
        """Ids of the photos for which a file stands, taken or left aside: none is replaced."""
        index, aside = photo_index(images, split, args.follow_links)
        return index.keys() | {
            photo_id for photo_id, reason in aside.items() if reason != DEAD_LINK
        }

    status = download.download(images, needed, urls, there, why_broken, **options)
    if status in (0, 1):
        named = ["--images", str(images)] if "images" in args else []
        text = ["--text", args.text] if args.text != parser().get_default("text") else []
        say(f"Next: python dataset.py {shlex.join([f'--{key}', str(folder), *named, *text])}")
    return status


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


def begin(output, new, how, jobs, overwrite):
    """The report to go on with: an earlier run's, or a new one beside a new tokenizer and
    encoder."""
    report = earlier_report(output, new, how, overwrite)
    if report is None:
        report = new | {"splits": {}}
        make_shared(output, report, jobs)
    for split in (split for split in new["inputs"] if not is_complete(output, split, report)):
        write_json(partial_of(output, split) / HOW, how)
    return report


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


def load_shared(output):
    tokenizer, encoder = (output / name for name in SHARED)
    return load_tokenizer(tokenizer), load_encoder(encoder).eval()


def is_trained(weights):
    """Whether --encoder_weights names a model that train.py has trained."""
    return weights not in ("imagenet", "none") and Path(weights).is_dir()


def trained_eye(path):
    """The photo encoder of a model that train.py has trained; its name_or_path is the model's."""
    model = load_checkpoint(path, "--encoder_weights")[0]
    model.image_encoder.name_or_path = model.name_or_path
    return model.image_encoder


def make_shared(output, report, jobs):
    """The tokenizer and the photo encoder, saved in the output folder (what stood there goes), and
    the report."""
    settings = report["settings"]
    if settings["tokenizer"] == "bpe":
        taught = "train" if "train" in jobs else next(iter(jobs))
        say(f"Training the tokenizer on the {len(jobs[taught].stories)} stories of {taught}")
        tokenizer = train_tokenizer(sentences_of(jobs[taught].stories), settings["vocab_size"])
    else:
        tokenizer = load_tokenizer(settings["tokenizer"])
    torch.manual_seed(0)  # random weights are the same in every run
    weights = settings["encoder_weights"]
    encoder = (
        trained_eye(weights)
        if is_trained(weights)
        else ImageEncoder.build(
            settings["image_encoder"],
            weights,
            settings["image_size"],
            settings["encoder_stages"],
            settings["encoder_grid"],
        ).eval()
    )
    for split in SPLITS:  # an earlier run's files go only now that nothing more can be wrong
        shutil.rmtree(partial_of(output, split), ignore_errors=True)
        for suffix in ("json", "words.safetensors", "safetensors"):
            (output / f"{split}.{suffix}").unlink(missing_ok=True)
    # of no split yet: a run that is stopped here begins anew
    write_json(output / "report.json", report)
    for name, item in zip(SHARED, (tokenizer, encoder), strict=True):
        with whole(output / name) as folder:
            with quiet_transformers():
                item.save_pretrained(folder)


def write_split(output, split, job, report, tokenizer):
    """Write one split, whose photos are written, and its entry in the report; the photos' file
    takes its name last."""
    settings, target, partial = (
        report["settings"],
        output / f"{split}.safetensors",
        partial_of(output, split),
    )
    broken = {}
    for chunk in range(-(-len(job.found) // CHUNK)):
        broken |= read_dict(
            note_of(partial, chunk),
            "the note of a chunk (delete it, and run the same command again)",
        )
    rows = {photo_id: row for row, photo_id in enumerate(job.found) if photo_id not in broken}
    stories, remarks = job.stories, job.remarks
    if settings["missing_photos"] == "drop":
        stories = with_photos(stories, rows, split, remarks)
    for beat in (beat for story in stories for beat in story["beats"]):
        beat["photo"] = rows.get(beat["photo_id"])
    about = {"format": 1, "source": settings["source"], "split": split, "text": settings["text"]}
    about["photos"] = {"file": target.name, "kind": settings["store"]}
    text = write_stories(output / f"{split}.json", about, stories, tokenizer)
    report["splits"][split] = measure(stories, text) | {
        "remarks": +remarks,
        "photos": {"found": len(rows), "missing": job.missing, "broken": broken},
    }
    write_json(output / "report.json", report)
    os.replace(partial / PHOTOS, target)


def write_stories(path, about, stories, tokenizer):
    """Write a split's JSON at `path` and its words beside it; return its Text."""
    words, text = path.with_suffix(".words.safetensors"), Text.of(stories, tokenizer)
    write_story_lines(path, about | {"words": words.name}, stories)
    with whole(words) as temporary:
        text.save(temporary, path, tokenizer)
    return text


def write_story_lines(path, about, stories):
    """Write stories as JSON, whole or not at all: a line with everything about them, then a line a
    story."""
    # A half character of a file's name is no UTF-8; as a backslash writes it, it is JSON's own
    # spelling of it.
    with (
        whole(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(json.dumps(about, ensure_ascii=False)[:-1] + ', "stories": [')
        for number, story in enumerate(stories):
            file.write(("," if number else "") + "\n" + json.dumps(story, ensure_ascii=False))
        file.write("\n]}\n")


def measure(stories, text):
    """How many stories and beats, how long their sentences in words and they themselves in
    positions."""
    words = [len(sentence.split()) for sentence in sentences_of(stories)]
    image_slots = PlanCVAEConfig().image_slots
    lengths = text.lengths(image_slots)
    return {
        "stories": len(stories),
        "beats": len(words),
        "words": {"total": sum(words), "mean": round(float(np.mean(words)), 2), "max": max(words)},
        "positions": {
            "image_slots": image_slots,
            "mean": round(float(lengths.mean()), 1),
            "95 %": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
    }


def described(split, entry):
    """What is printed of a split, from its entry in the report."""
    words, positions, photos = entry["words"], entry["positions"], entry["photos"]
    return (
        f"{split}: {entry['stories']} stories, {entry['beats']} beats; photos: {photos['found']} "
        "found, "
        f"{len(photos['missing'])} missing, {len(photos['broken'])} broken\n"
        f"  {words['total']} words, {words['mean']} a sentence (most: {words['max']}); a story "
        "with "
        f"{positions['image_slots']} image slots a photo takes {positions['mean']} positions "
        f"(95 %: {positions['95 %']}, most: {positions['max']})"
        + (f"\n  {remark_line(entry['remarks'])}" if entry["remarks"] else "")
    )


def remark_line(remarks):
    return "; ".join(f"{remark}: {count}" for remark, count in remarks.items() if count)


if __name__ == "__main__":
    run(main)
