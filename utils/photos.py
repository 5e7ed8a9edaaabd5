"""Image files: which there are, in which order, and each as an upright RGB image."""

import contextlib
import math
import os
import re
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from utils.cli import UserError
from utils.story_files import SPLITS

LARGEST_PHOTO = 4096  # pixels a side that a photo may be reduced to


# Pillow's other readers are for no photo
PHOTO_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


PHOTO_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".jif",
    ".jfi",
    ".png",
    ".gif",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
)


if "avif" in features.get_supported_modules():
    PHOTO_FORMATS, PHOTO_SUFFIXES = (*PHOTO_FORMATS, "AVIF"), (*PHOTO_SUFFIXES, ".avif")


# photos too, which Pillow cannot read
UNREAD_SUFFIXES = tuple({".heic", ".heif", ".hif", ".avif"} - {*PHOTO_SUFFIXES})


UNREAD_BRANDS = {
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"hevc": "HEIC",
    b"mif1": "HEIF",
    b"msf1": "HEIF",
    b"avif": "AVIF",
}


DEAD_LINK = "a link that leads nowhere"


class BrokenPhoto(ValueError):
    """A file that is not a readable photo; the message is a short reason."""


def load_photo(path: Path, size: int) -> Image.Image:
    """The photo as a PIL RGB image, upright, its transparency over white; an animation's first
    picture.

    size: the side in pixels that the photo will be reduced to (big JPEGs are decoded at a fraction
    of their size). Raises BrokenPhoto.
    """
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):  # to open a pipe would wait for who writes to it
            raise BrokenPhoto("not a file")
        if about.st_size == 0:
            raise BrokenPhoto("empty file")
        # of odd metadata there are many warnings; what cannot be read raises an error
        quiet = warnings.catch_warnings(action="ignore")
        with quiet, Image.open(path, formats=PHOTO_FORMATS) as image:
            image.draft("RGB", (2 * size, 2 * size))
            # Pillow itself refuses twice as many
            if math.prod(image.size) > Image.MAX_IMAGE_PIXELS:
                raise BrokenPhoto("{} x {}: too many pixels".format(*image.size))
            image.load()
            # its shorter side would grow to `size`, and the longer with it
            if max(image.size) > 20 * min(image.size):
                raise BrokenPhoto("{} x {} pixels: a strip".format(*image.size))
            return to_rgb(upright(image))
    except BrokenPhoto:
        raise
    except UnidentifiedImageError:
        raise BrokenPhoto(unread_format(path) or "not a photo") from None
    except Image.DecompressionBombError:
        raise BrokenPhoto("too many pixels") from None
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, zlib.error …
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise BrokenPhoto(reason[:80]) from None


def unread_format(path: Path) -> str | None:
    """What to do about a photo of a format that Pillow does not read, whatever it is named; None of
    anything else."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(12)
        if start[4:8] == b"ftyp" and start[8:] in UNREAD_BRANDS:
            return f"{UNREAD_BRANDS[start[8:]]}, which is not read; export it as JPEG"
    return None


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says, or as it is where the EXIF cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def photo_files(
    folder: Path,
    root: Path | None = None,
    follow_links: bool = False,
    suffixes: tuple[str, ...] = PHOTO_SUFFIXES + UNREAD_SUFFIXES,
) -> tuple[list[Path], dict[Path, str]]:
    """The files in a folder that are named as photos (by `suffixes`), by name, and {path: reason}
    of what is so named but skipped.

    A link that leads out of `root` (a folder; `folder` itself where it is not given) is skipped,
    if links are not to be followed.
    """
    found, aside, root = [], {}, Path(root or folder).resolve()
    with os.scandir(folder) as entries:
        entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        path = Path(folder, entry.name)
        if is_hidden(path):  # deleted photos, other systems' notes
            continue
        if path.suffix.lower() not in suffixes:
            continue
        # Mostly a plain file, which scandir knows: 50,000 in 0.2 s, with a stat of each 0.5 s.
        is_plain = entry.is_file(follow_symlinks=False)
        reason = None if is_plain else why_aside(path, root, follow_links)
        if reason:
            aside[path] = reason
        else:
            found.append(path)
    return found, aside


def why_aside(path: Path, root: Path, follow_links: bool) -> str | None:
    """Why a path that may be a link is not taken for a photo's file; None where it is."""
    try:
        mode = path.stat().st_mode
        if path.is_symlink() and not follow_links and not path.resolve().is_relative_to(root):
            return "a link out of the folder"
    except OSError as error:
        return DEAD_LINK if path.is_symlink() else error.strerror
    return None if stat.S_ISREG(mode) else "a folder" if stat.S_ISDIR(mode) else "not a file"


def photo_name(path: Path) -> str:
    """A file's name for screens and JSON: what cannot be printed in it is spelled out, as \\x1b or
    \\udcff."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in Path(path).name
    )


def time_taken(path: Path) -> str | None:
    """When a photo was taken, "2004:11:27 10:40:46" (it sorts), as its EXIF says; None where it
    does not."""
    quiet = warnings.catch_warnings(action="ignore")
    with contextlib.suppress(Exception), quiet, Image.open(path, formats=PHOTO_FORMATS) as image:
        exif = image.getexif()
        for of, tag in ((exif.get_ifd(ExifTags.IFD.Exif), "DateTimeOriginal"), (exif, "DateTime")):
            time = of.get(ExifTags.Base[tag])
            if isinstance(time, str) and re.match(r"(?!0000)\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", time):
                return time
    return None


def photo_index(
    images: Path, split: str, follow_links: bool = False, **suffixes: tuple[str, ...]
) -> tuple[dict[str, Path], dict[str, str]]:
    """{photo id: path} of the photos in images/<split>, then in the other splits' (VIST-Edit's are
    not VIST's), and {photo id: reason} of those that are skipped.

    Where there are no such folders: of those in `images` itself. Raises UserError where one is a
    link out of `images`.
    """
    folders = [images / name for name in (split, *SPLITS) if (images / name).is_dir()] or [images]
    index, aside = {}, {}
    for folder in reversed(folders):
        if not follow_links and not folder.resolve().is_relative_to(images.resolve()):
            raise UserError(
                f"{folder}: a link out of {images}; expected a folder of photos, or --follow_links"
            )
        found, left = photo_files(folder, images, follow_links, **suffixes)
        # they stand in for no other
        found.sort(key=lambda path: path.suffix.lower() in UNREAD_SUFFIXES)
        # of x.gif and x.jpg, the first; of two splits, the own
        index |= {path.stem: path for path in reversed(found)}
        aside |= {path.stem: reason for path, reason in left.items()}
    return index, aside


def find_photos(
    stories: list[dict], index: dict[str, Path], aside: dict[str, str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """{photo id: path} of the stories' photos as they appear, and {photo id: reason} of those
    without a file.

    index, aside: as `photo_index` gives them.
    """
    found, missing = {}, {}
    for photo_id in dict.fromkeys(beat["photo_id"] for story in stories for beat in story["beats"]):
        if photo_id is None:  # a beat without a photo
            continue
        if photo_id in index:
            found[photo_id] = index[photo_id]
        elif photo_id in (".", "..") or set(photo_id) & {"/", "\\"}:
            missing[photo_id] = "unsafe id"
        else:
            missing[photo_id] = aside.get(photo_id, "not found")
    return found, missing


def is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorting key, ignoring case: photo, photo2, photo10; IMG_7, IMG_7 (1)."""
    path = Path(name)
    parts = re.split(r"(\d+)", path.stem)  # texts and numbers by turns
    return [int(part) if part.isdecimal() else part.lower() for part in parts], path.suffix


def open_photo(photo: Any, encoder: Any) -> Image.Image:
    """A path, a PIL image or an array (height, width, 3) of uint8 as an upright RGB image. Raises
    UserError, a ValueError, that names the file."""
    if isinstance(photo, str | os.PathLike):
        try:
            return load_photo(Path(photo), encoder.config.image_size)
        except BrokenPhoto as reason:
            raise UserError(f"{photo}: {reason}; expected a photo") from None
    if not isinstance(photo, Image.Image):
        photo = Image.fromarray(np.asarray(photo))
    return to_rgb(upright(photo))


def why_broken(path: Path) -> str | None:
    """Why a file is no readable photo, or None."""
    try:
        load_photo(path, 224)
    except BrokenPhoto as reason:
        return str(reason)
    return None
