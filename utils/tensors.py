"""The photos of a split in a safetensors file, features or pixels, read by rows."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.cli import UserError


class Photos:
    """The photos of a preprocessed split, mapped and not read: (rows, F) or (rows, 3, S, S).

    kind: "features" or "pixels". Raises UserError where the file is not whole.
    """

    def __init__(self, json_path: str | Path, split: dict, encoder=None):
        """encoder: an ImageEncoder; the photos must be its features, or pixels of its size."""
        self.path = Path(json_path).parent / split["photos"]["file"]
        self.kind = split["photos"]["kind"]
        if not self.path.is_file():  # to open a pipe would wait
            raise UserError(f"{self.path}: no such file; expected it beside the split's .json")
        try:
            self.open()
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{self.path}: not a safetensors file with 'photos' ({error}); expected that of a "
                "split"
            ) from None
        self.shape = tuple(self.rows.get_shape())
        dtype = self.rows.get_dtype()
        if (dtype == "U8") != (self.kind == "pixels") or dtype not in ("U8", "F16", "F32"):
            raise UserError(
                f"{self.path}: photos of {dtype}; expected {self.kind}, as {json_path} says"
            )
        if encoder is not None:
            size = encoder.config.image_size
            expected = (3, size, size)
            if self.kind == "features":
                expected = (encoder.config.feature_size,)
            if self.shape[1:] != expected:
                raise UserError(
                    f"{json_path}: photos of {self.shape[1:]}; the model's encoder expects "
                    f"{expected}: a split that was preprocessed with another --image_encoder or "
                    "--image_size"
                )

    def open(self) -> None:
        self.rows = safe_open(self.path, "pt").get_slice("photos")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"rows": None}  # a mapped file does not travel to a spawned worker

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        self.open()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Tensor:
        if not 0 <= row < len(self):
            raise UserError(f"{self.path}: row {row}; expected one of its {len(self)}")
        photo = self.rows[row]
        if self.kind == "features" and not photo.isfinite().all():
            raise UserError(
                f"{self.path}: features of row {row} are not finite; run dataset.py again"
            )
        return photo

    def moments(self, rows: list[int], most: int = 20_000) -> tuple[Tensor, Tensor]:
        """Mean and variance (F) of the features in `rows`, of at most `most` evenly spread."""
        rows = np.unique(rows)
        if not len(rows):
            return torch.zeros(self.shape[1:]), torch.ones(self.shape[1:])
        step = -(-len(rows) // most)
        features = torch.stack([self[row] for row in rows[::step].tolist()]).float()
        return features.mean(0), features.var(0, correction=0)


def take_photos(rows: list[int | None], photos: Photos | Tensor | None) -> tuple[Tensor, Tensor]:
    """Photos (T, ...) of one story, zeros where a row is None, and photo_mask (T); (T, 0) where
    photos is None."""
    mask = torch.tensor([row is not None for row in rows])
    if photos is None:
        return torch.zeros(len(rows), 0), torch.zeros_like(mask)
    dtype = torch.uint8 if len(photos.shape) == 4 else torch.float32
    taken = torch.zeros(len(rows), *photos.shape[1:], dtype=dtype)
    for t, row in enumerate(rows):
        if row is not None:
            taken[t] = photos[row]
    return taken, mask


def create_photos_file(path: Path, dtype: str, shape: tuple, size: int) -> None:
    """Make an empty safetensors file with one tensor "photos" of `size` bytes, whose rows are
    written in their places."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"photos": entry}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(file.tell() + size)
