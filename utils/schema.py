"""The fields of every file of stories, and one check of them."""

from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple

from utils.cli import UserError


class Kind(NamedTuple):
    """What the value of a field must be. A value on which `fits` fails does not fit."""

    fits: Callable[[Any], bool]
    expected: str
    needed: bool = True


def of_type(*types: type) -> Callable[[Any], bool]:
    """A test of a value from JSON, whose type is exact: true is no int."""
    return lambda value: type(value) in types


def list_of(fits: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: type(value) is list and len(value) >= least and all(map(fits, value))


is_text, is_id = of_type(str), of_type(str, int)
is_texts = list_of(is_text)
is_list = list_of(lambda item: True, least=1)


def is_row(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**63)


def is_place(value: Any) -> bool:
    """Whether a number, or its text, is whole."""
    return int(value) == float(value)


def is_photos(value: Any) -> bool:
    """Of a split: the name of the file beside it, and what it holds."""
    file = value["file"]
    is_short = 0 < len(file.encode(errors="replace")) < 256
    is_name = file not in (".", "..") and not set(file) & {"/", "\\", "\0"}
    return is_short and is_name and value["kind"] in ("features", "pixels")


def is_sentences(value: Any) -> bool:
    return is_text(value) or is_texts(value)


ID, TEXT = Kind(is_id, "text"), Kind(is_text, "text")
OPTIONAL_TEXT = Kind(is_text, "text", needed=False)
OPTIONAL_ID = Kind(is_id, "text", needed=False)
PHOTO_IDS = Kind(list_of(of_type(str, int, NoneType)), "a list of photo ids", needed=False)

SCHEMAS = {
    "a preprocessed split (python dataset.py writes <split>.json)": {
        "format": Kind(lambda value: value == 1, "1"),
        "photos": Kind(
            is_photos, '{"file": "<split>.safetensors", "kind": "features" or "pixels"}'
        ),
        "text": Kind({"normalized", "original"}.__contains__, "normalized or original", False),
        "stories": Kind(is_list, "a list of stories"),
    },
    "a story of a split": {
        "story_id": ID,
        "album_id": OPTIONAL_ID,
        "label": OPTIONAL_TEXT,
        "beats": Kind(is_list, "a list of at least one"),
    },
    "a beat": {
        "sentence": TEXT,
        "photo_id": OPTIONAL_ID,
        "photo": Kind(is_row, "a row number or null"),
    },
    "settings of generate.py": {"data_path": OPTIONAL_TEXT},
    "a story of generate.py": {
        "story_id": OPTIONAL_ID,
        "album_id": OPTIONAL_ID,
        "photo_ids": PHOTO_IDS,
        "sentences": Kind(is_texts, "a list of texts"),
        "folder": OPTIONAL_TEXT,
    },
    "a story of a VIST Challenge submission": {
        "album_id": OPTIONAL_ID,
        "photo_sequence": PHOTO_IDS,
        "story_text_normalized": TEXT,
    },
    "VIST annotations (stories in sequence)": {
        "annotations": Kind(is_list, "a list"),
        "albums": Kind(of_type(list), "a list", needed=False),
    },
    "a VIST album": {"id": ID, "vist_label": OPTIONAL_TEXT},
    "a VIST annotation": {
        "story_id": ID,
        "photo_flickr_id": ID,
        "album_id": OPTIONAL_ID,
        "worker_arranged_photo_order": Kind(is_place, "a whole number"),
    },
    "a story of one's own": {
        "story_id": ID,
        "photos": Kind(list_of(of_type(str, NoneType), least=1), "a list of paths, or null"),
        "sentences": Kind(is_texts, "a list of texts"),
        "album_id": OPTIONAL_ID,
        "label": OPTIONAL_TEXT,
        "split": OPTIONAL_TEXT,
    },
    "COCO's captions": {"images": Kind(is_list, "a list"), "annotations": Kind(is_list, "a list")},
    "an image of COCO": {"id": ID, "file_name": TEXT},
    "a caption of COCO": {"image_id": ID, "caption": TEXT},
    "a photo of an image folder": {"file_name": TEXT},
    "VIST annotations (descriptions in isolation)": {"annotations": Kind(is_list, "a list")},
    "a description of VIST": {"photo_flickr_id": ID, "text": TEXT},
    "an edit": {},  # its sentences are under one of two names
    "a story of VIST-Edit": {
        "photo_sequence_ids": Kind(list_of(is_id, least=1), "a list of photo ids"),
        "auto_story_text_normalized": Kind(str.strip, "text"),
        "edited_stories": Kind(is_list, "a list of edits"),
        "model": OPTIONAL_ID,
        "album_id": OPTIONAL_ID,
    },
}
SENTENCES = Kind(is_sentences, "sentences")


def check(where: str, value: Any, what: str, **more: Kind) -> None:
    """Raise UserError where an object from JSON lacks a field of SCHEMAS[what] (or of `more`), or
    holds another kind of value in it. where: the file and the entry."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {describe(value)}; expected {what}")
    for name, kind in (SCHEMAS[what] | more).items():
        if value.get(name) is None and not kind.needed:
            continue
        if name not in value:
            raise UserError(f'{where} has no "{name}"; expected {kind.expected}')
        try:
            fits = kind.fits(value[name])
        except (ArithmeticError, LookupError, TypeError, ValueError):
            fits = False
        if not fits:
            found = describe(value[name])
            raise UserError(f'{where}: "{name[:60]}" is {found}; expected {kind.expected}')


def describe(value: Any) -> str:
    """A value from JSON, as an error shows it."""
    is_long = isinstance(value, (list, dict)) and len(value) > 3
    return f"a {type(value).__name__}" if is_long else repr(value)[:40]
