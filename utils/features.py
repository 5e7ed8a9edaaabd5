"""Published features in place of photos: a folder of <photo id>.npy, or one safetensors or h5 file
of vectors by photo id."""

from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from utils.cli import UserError, loading
from utils.photos import BrokenPhoto, photo_index

H5 = (".h5", ".hdf5")
EXPECTED = "a folder of <photo id>.npy, or a .safetensors or .h5 file of vectors by photo id"


class Features:
    """Vectors by photo id. width: of all of them, once `measure` has found it."""

    def __init__(self, path: Path):
        self.path, self.width = path, None
        if not path.is_dir() and path.suffix not in (".safetensors", *H5):
            found = "another kind of file" if path.is_file() else "no such file or folder"
            raise UserError(f"--features {path}: {found}; expected {EXPECTED}")
        if path.suffix in H5 and find_spec("h5py") is None:
            raise UserError(f"--features {path}: h5py is not installed; pip install h5py")

    @cached_property
    def file(self) -> Any:
        """The one file, open: it maps names to arrays."""
        with loading(f"--features {self.path}", f"expected {EXPECTED}", tried=""):
            if self.path.suffix in H5:
                import h5py

                return h5py.File(self.path)
            from safetensors import safe_open

            return safe_open(self.path, "pt")

    def index(self, split: str, follow_links: bool) -> tuple[dict[str, Path], dict[str, str]]:
        """As `photo_index`: {photo id: path}, and {photo id: reason} of those that are skipped."""
        if self.path.is_dir():
            return photo_index(self.path, split, follow_links, suffixes=(".npy",))
        return dict.fromkeys(self.file.keys(), self.path), {}

    def measure(self, photos: Iterable[tuple[str, Path]]) -> None:
        """Find the width, that of the first of the photos that can be read. Raises UserError where
        there is none."""
        found = "holds none of the stories' photos"
        for photo_id, path in photos:
            try:
                self.width = len(self.read(photo_id, path))
                return
            except BrokenPhoto as reason:
                found = f"{photo_id}: {reason}"
        raise UserError(f"--features {self.path}: {found}; expected {EXPECTED}")

    def read(self, photo_id: str, path: Path) -> Tensor:
        """A photo's vector (F), float16. Raises BrokenPhoto where it cannot be read, UserError
        where it is no vector or of another width."""
        try:
            if path.suffix == ".npy":
                array = np.load(path, allow_pickle=False)
            elif path.suffix in H5:
                array = self.file[photo_id][()]
            else:
                array = self.file.get_tensor(photo_id)
            vector = torch.as_tensor(array).half()
        except Exception as error:  # OSError, ValueError, EOFError, TypeError, SafetensorError …
            raise BrokenPhoto(f"{type(error).__name__}: {error}"[:80]) from None
        shape = tuple(vector.shape)
        vector = vector.flatten()
        if len(vector) != max(shape, default=0) or self.width not in (None, len(vector)):
            expected = "one vector" if self.width is None else f"{self.width}, as the first has"
            raise UserError(
                f"--features {path}: features of {photo_id} are {' x '.join(map(str, shape))}; "
                f"expected {expected}"
            )
        if not vector.isfinite().all():
            raise BrokenPhoto("not finite in float16")
        return vector


class FeatureRows(Dataset):
    """Lists of photo numbers -> (rows (N, F) float16, {number: reason} of what cannot be read)."""

    def __init__(self, features: Features, photos: dict[str, Path]):
        self.features, self.photos = features, list(photos.items())

    def __getitem__(self, numbers: list[int]) -> tuple[Tensor, dict[int, str]]:
        rows = torch.zeros(len(numbers), self.features.width, dtype=torch.float16)
        broken = {}
        for place, number in enumerate(numbers):
            try:
                rows[place] = self.features.read(*self.photos[number])
            except BrokenPhoto as reason:
                broken[number] = str(reason)
        return rows, broken
