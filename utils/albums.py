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
    is_hidden,
    load_photo,
    natural,
    photo_files,
    photo_name,
    time_taken,
)
from utils.stories import read_split
from utils.tensors import Photos

NAMED = 10  # photos skipped that are named; the others are counted
UNDATED = "undated"  # sorts after every date


def read_named(arguments: list[str], *settings) -> list[dict]:
    """The albums that folders name, or the one of photos in a folder that files name. settings:
    what read_folder takes next."""
    files = [path for path in map(Path, arguments) if path.is_file()]
    if not files:
        return [read_folder(folder, *settings) for folder in arguments]
    folders = {path.parent for path in files}
    if len(files) < len(arguments) or len(folders) > 1:
        raise UserError(
            f"{files[0]}: a file; expected folders of photos, or files of one folder alone"
        )
    return [read_folder(folders.pop(), *settings, names={path.name for path in files})]


def read_folder(
    folder: str | Path,
    encoder: ImageEncoder,
    order: str,
    follow_links: bool = False,
    max_photos: int | None = None,
    names: set[str] | None = None,
) -> dict:
    """A folder's readable photos as an album to write for; its photos are pixels (T, 3, S, S).

    follow_links: take photos that are links out of the folder. max_photos: read no more than one
    photo beyond; num_photos is how many there are. names: of the files to take. Raises UserError
    where the folder holds none. What is skipped is said.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected a folder of photos")
    paths, aside = photo_files(folder, follow_links=follow_links)
    if names is not None:
        paths = [path for path in paths if path.name in names]
        aside = {path: reason for path, reason in aside.items() if path.name in names}
        if others := names - {path.name for path in (*paths, *aside)}:
            path, suffixes = folder / min(others), ", ".join(PHOTO_SUFFIXES)
            why = "a hidden file" if is_hidden(path) else "not named as a photo"
            raise UserError(f"{path}: {why}; expected {suffixes}")
    found, num_unread = [], len(paths)
    for path in sorted(paths, key=lambda path: natural(path.name)):
        if max_photos is not None and len(found) > max_photos:
            break
        num_unread -= 1
        try:
            found.append((path, encoder.preprocess(load_photo(path, encoder.config.image_size))))
        except BrokenPhoto as error:
            aside[path] = str(error)
    suffixes = PHOTO_SUFFIXES + UNREAD_SUFFIXES
    others = []
    if names is None:
        others = [path for path in folder.iterdir() if path.suffix.lower() not in suffixes]
        others = [path for path in others if not is_hidden(path)]
    if count := sum(path.is_file() for path in others):
        cli.warn(
            f"{folder}: {count} files are not named as photos ({', '.join(PHOTO_SUFFIXES)}) and "
            "are skipped"
        )
    if aside:
        named = [f"{path.name} ({reason})" for path, reason in aside.items()]
        if len(named) > NAMED:
            named[NAMED:] = [f"and {len(named) - NAMED} more"]
        advice = ""
        if any("a link out" in reason for reason in aside.values()):
            advice = "; --follow_links takes links out of it"
        cli.warn(
            f"{folder}: {len(aside)} photos cannot be read and are skipped: "
            f"{', '.join(named)}{advice}"
        )
    if not found:
        folders = sorted(path.name for path in others if path.is_dir())
        inside = f", only folders ({folders[0]}): name one of them" if folders else ""
        raise UserError(
            f"{folder}: no photo that can be read{inside}; expected {', '.join(PHOTO_SUFFIXES)} "
            "files"
        )
    if order == "time":
        times = {path: time_taken(path) or UNDATED for path, _ in found}
        if undated := list(times.values()).count(UNDATED):
            cli.warn(f"{folder}: {undated} photos carry no EXIF time and come last, by name")
        found.sort(key=lambda entry: times[entry[0]])
    paths, pixels = zip(*found)
    name = photo_name(folder.resolve()) or str(folder)
    return {
        "story_id": name,
        "album_id": name,
        "photo_ids": list(map(photo_name, paths)),
        "folder": str(folder),
        "num_photos": len(found) + num_unread,
        "rows": list(range(len(paths))),
        "photos": torch.stack(pixels),
        "paths": list(paths),
    }


def load_split(path: str | Path, encoder: ImageEncoder | None) -> tuple[dict, Photos]:
    """A preprocessed split and its photos. Raises UserError where its files are missing, no split,
    or not of the encoder."""
    split = read_split(path)
    photos = Photos(path, split, encoder)
    for story in split["stories"]:
        for beat in story["beats"]:
            if beat["photo"] is not None and beat["photo"] >= len(photos):
                raise UserError(
                    f"{path}: story {story['story_id']}: photo {beat['photo']}; expected one of "
                    f"the {len(photos)} rows in {photos.path.name}"
                )
    return split, photos


def read_albums(path: str | Path, encoder: ImageEncoder) -> list[dict]:
    """The albums of a preprocessed split, whose photos must be of the encoder's kind."""
    split, photos = load_split(path, encoder)
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
