"""What stories are written for: a folder of photos, or the stories of a preprocessed split."""

from pathlib import Path

import torch

from utils import cli
from utils.cli import UserError
from utils.image_encoder import ImageEncoder
from utils.photos import (
    PHOTO_SUFFIXES,
    UNREAD_SUFFIXES,
    BrokenPhoto,
    load_photo,
    natural,
    photo_files,
    photo_name,
    time_taken,
)
from utils.stories import read_split
from utils.tensors import Photos

NAMED = 10  # photos skipped that are named; the others are counted


def read_folder(
    folder: str | Path, encoder: ImageEncoder, order: str, follow_links: bool = False
) -> dict:
    """A folder's readable photos as an album to write for; its photos are pixels (T, 3, S, S).

    follow_links: take photos that are links out of the folder. Raises UserError where the folder
    holds none. What is skipped is said.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; expected a "
            "folder of photos"
        )
    paths, aside = photo_files(folder, follow_links=follow_links)
    found, linked = [], sum("a link out" in reason for reason in aside.values())
    for path in sorted(paths, key=lambda path: natural(path.name)):
        try:
            found.append((path, encoder.preprocess(load_photo(path, encoder.config.image_size))))
        except BrokenPhoto as error:
            aside[path] = str(error)
    suffixes = PHOTO_SUFFIXES + UNREAD_SUFFIXES
    others = sum(
        path.is_file() and path.suffix.lower() not in suffixes for path in folder.iterdir()
    )
    if others:
        cli.warn(
            f"{folder}: {others} files are not named as photos ({', '.join(PHOTO_SUFFIXES)}) and "
            "are skipped"
        )
    if aside:
        named = [f"{path.name} ({reason})" for path, reason in aside.items()]
        named = named[:NAMED] + ([f"and {len(named) - NAMED} more"] if len(named) > NAMED else [])
        takes = "; --follow_links takes links out of it" if linked else ""
        cli.warn(
            f"{folder}: {len(aside)} photos cannot be read and are skipped: "
            f"{', '.join(named)}{takes}"
        )
    if not found:
        raise UserError(
            f"{folder}: no photo that can be read; expected {', '.join(PHOTO_SUFFIXES)} files"
        )
    if order == "time":
        times = {path: time_taken(path) for path, _ in found}
        undated = sum(time is None for time in times.values())
        if undated:
            cli.warn(f"{folder}: {undated} photos carry no EXIF time and come last, by name")
        found.sort(key=lambda entry: (times[entry[0]] is None, times[entry[0]] or ""))
    name = photo_name(folder.resolve()) or str(folder)
    return {
        "story_id": name,
        "album_id": name,
        "photo_ids": [photo_name(path) for path, _ in found],
        "folder": str(folder),
        "rows": list(range(len(found))),
        "photos": torch.stack([pixels for _, pixels in found]),
        "paths": [path for path, _ in found],
    }


def read_albums(path: str | Path, encoder: ImageEncoder) -> list[dict]:
    """The albums of a preprocessed split, whose photos must be of the encoder's kind."""
    split = read_split(path)
    photos = Photos(path, split, encoder)
    for story in split["stories"]:
        rows = [beat["photo"] for beat in story["beats"] if beat["photo"] is not None]
        if beyond := [row for row in rows if row >= len(photos)]:
            found = f"{path}: story {story['story_id']}: photo {beyond[0]}"
            raise UserError(
                f"{found}; expected one of the {len(photos)} rows in {photos.path.name}"
            )
    return [
        {
            "story_id": story["story_id"],
            "album_id": story.get("album_id") or story["story_id"],
            "photos": photos,
            "photo_ids": [beat.get("photo_id") for beat in story["beats"]],
            "rows": [beat["photo"] for beat in story["beats"]],
        }
        for story in split["stories"]
    ]
