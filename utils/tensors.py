"""Tensors in safetensors files, read by rows: photos that are features or pixels."""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch

from utils.cli import UserError


class Rows:
    """A tensor of a safetensors file whose rows are read when they are asked for.

    Read, not mapped: neither memory nor address space grows with the file. Raises UserError where
    it is not whole.
    """

    TYPES = {
        "U8": torch.uint8,
        "I32": torch.int32,
        "I64": torch.int64,
        "F16": torch.float16,
        "F32": torch.float32,
    }

    def __init__(self, path, name):
        self.path, self.opened = Path(path), None
        try:
            if not self.path.is_file():  # to open a pipe would wait for who writes to it
                raise FileNotFoundError
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length) if length < 1e8 else b"")
            self.metadata, entry = header.get("__metadata__", {}), header[name]
            self.shape, self.dtype = tuple(entry["shape"]), self.TYPES[entry["dtype"]]
            first, last = entry["data_offsets"]
            self.start, self.row_bytes = (
                8 + length + first,
                math.prod(self.shape[1:]) * self.dtype.itemsize,
            )
            numbers = (*self.shape, first, last)
            if (
                not all(type(number) is int and number >= 0 for number in numbers)
                or self.row_bytes == 0
            ):
                raise ValueError
            cut_short = self.path.stat().st_size < self.start + self.shape[0] * self.row_bytes
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; expected it beside the split's .json") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
            raise UserError(
                f"{path}: not a safetensors file with {name!r}; expected that of a split"
            ) from None
        if cut_short:
            raise UserError(f"{path}: cut short; expected {self.shape[0]} rows of {name!r}")

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """A row, or a slice of rows."""
        first, last, _ = rows.indices(len(self)) if isinstance(rows, slice) else (rows, rows + 1, 1)
        if not 0 <= first <= last <= len(self):
            raise UserError(
                f"{self.path}: row {first} is asked for; expected one of its {len(self)}"
            )
        # a forked process would move its parent's place
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = os.getpid(), open(self.path, "rb", buffering=0)
        self.opened[1].seek(self.start + first * self.row_bytes)
        data = bytearray((last - first) * self.row_bytes)
        view = memoryview(data)
        while view and (count := self.opened[1].readinto(view)):
            view = view[count:]
        if view:
            raise UserError(f"{self.path}: cut short while it was read")
        table = (
            torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        )
        table = table.view(last - first, *self.shape[1:])
        return table if isinstance(rows, slice) else table[0]

    def __del__(self):
        if getattr(self, "opened", None):
            self.opened[1].close()

    def __getstate__(self):
        return self.__dict__ | {"opened": None}  # an open file does not travel to a spawned worker


class Photos(Rows):
    """The photos of a preprocessed split. kind: "features" or "pixels"; shape: (rows, F) or (rows,
    3, S, S)."""

    def __init__(self, json_path, split, encoder=None):
        """encoder: an ImageEncoder; the photos must be its features, or pixels of its size."""
        super().__init__(Path(json_path).parent / split["photos"]["file"], "photos")
        self.kind = split["photos"]["kind"]
        if (self.dtype == torch.uint8) != (self.kind == "pixels"):
            raise UserError(
                f"{self.path}: photos of {self.dtype}; expected {self.kind}, as {json_path} says"
            )
        if encoder is not None:
            size = encoder.config.image_size
            fitting = (encoder.config.feature_size,) if self.kind == "features" else (3, size, size)
            if self.shape[1:] != fitting:
                raise UserError(
                    f"{json_path}: photos of {self.shape[1:]}; the model's encoder expects "
                    f"{fitting}: a split that was "
                    f"preprocessed with another --image_encoder or --image_size"
                )

    def __getitem__(self, rows):
        table = super().__getitem__(rows)
        if table.is_floating_point() and not table.isfinite().all():
            raise UserError(
                f"{self.path}: features of row {rows} are not finite; run dataset.py again"
            )
        return table

    def moments(self, rows, most=20_000):
        """Mean and variance (F) of the features in `rows`, of at most `most` of them, evenly
        spread."""
        rows = np.unique(rows)
        rows = rows[:: -(-len(rows) // most) or 1].tolist()
        if not rows:
            return torch.zeros(self.shape[1:]), torch.ones(self.shape[1:])
        features = torch.stack([self[row] for row in rows]).float()
        return features.mean(0), features.var(0, correction=0)


def take_photos(rows, photos):
    """Photos (T, ...) of one story, zeros where a row is None, and photo_mask (T).

    photos is a Photos or a tensor of them; None gives a story without photos, (T, 0).
    """
    if photos is None:
        return torch.zeros(len(rows), 0), torch.zeros(len(rows), dtype=torch.bool)
    mask = torch.tensor([row is not None for row in rows])
    kind = torch.uint8 if len(photos.shape) == 4 else torch.float32
    taken = torch.zeros(len(rows), *photos.shape[1:], dtype=kind)
    for t, row in enumerate(rows):
        if row is not None:
            taken[t] = photos[row]
    return taken, mask


def open_to_write(path):
    """A file opened for writing as it is, neither emptied nor read (on a shared disk others write
    beside us)."""
    return os.fdopen(os.open(path, os.O_WRONLY), "wb")


def safetensors_header(dtype, shape, size):
    """The first bytes of a safetensors file that holds one tensor, "photos"
    (huggingface/safetensors, README)."""
    header = json.dumps(
        {"photos": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
