"""The fields of every file of stories, and one check of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from utils.cli import UserError


class Kind(NamedTuple):
    """What the value of a field must be."""

    fits: Callable[[Any], bool]
    expected: str
    needed: bool = True


def is_id(value: Any) -> bool:
    """Whether a value from JSON names something: text, or a whole number."""
    return isinstance(value, str) or type(value) is int


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_full_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_any_list(value: Any) -> bool:
    return isinstance(value, list)


def is_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def is_ids(value: Any) -> bool:
    return is_list(value) and all(map(is_id, value))


def is_photo_ids(value: Any) -> bool:
    return isinstance(value, list) and all(x is None or is_id(x) for x in value)


def is_row(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value < 2**63)


def is_place(value: Any) -> bool:
    """Whether a number, or its text, is whole."""
    try:
        return int(value) == float(value)
    except (TypeError, ValueError, OverflowError):
        return False


def is_photos(value: Any) -> bool:
    """Of a split: the file beside it, and what it holds."""
    if not isinstance(value, dict) or value.get("kind") not in ("features", "pixels"):
        return False
    file = value.get("file")
    if not isinstance(file, str) or len(file.encode(errors="replace")) > 255:
        return False
    return file not in ("", ".", "..") and not set(file) & {"/", "\\", "\0"}


def is_sentences(value: Any) -> bool:
    return is_text(value) or is_texts(value)


ID, TEXT = Kind(is_id, "text"), Kind(is_text, "text")
OPTIONAL_ID = Kind(is_id, "text", needed=False)
PHOTO_IDS = Kind(is_photo_ids, "a list of photo ids", needed=False)

SCHEMAS = {
    "a preprocessed split (python dataset.py writes <split>.json)": {
        "format": Kind((1).__eq__, "1"),
        "photos": Kind(
            is_photos, '{"file": "<split>.safetensors", "kind": "features" or "pixels"}'
        ),
        "text": Kind({"normalized", "original"}.__contains__, "normalized or original", False),
        "stories": Kind(is_list, "a list of stories"),
    },
    "a story of a split": {
        "story_id": ID,
        "album_id": OPTIONAL_ID,
        "beats": Kind(is_list, "a list of at least one"),
    },
    "a beat": {
        "sentence": TEXT,
        "photo_id": OPTIONAL_ID,
        "photo": Kind(is_row, "a row number or null"),
    },
    "a story of generate.py": {
        "story_id": OPTIONAL_ID,
        "album_id": OPTIONAL_ID,
        "photo_ids": PHOTO_IDS,
        "sentences": Kind(is_texts, "a list of texts"),
    },
    "a story of a VIST Challenge submission": {
        "album_id": OPTIONAL_ID,
        "photo_sequence": PHOTO_IDS,
        "story_text_normalized": TEXT,
    },
    "VIST annotations (stories in sequence)": {"annotations": Kind(is_any_list, "a list")},
    "a VIST annotation": {
        "story_id": ID,
        "photo_flickr_id": ID,
        "album_id": OPTIONAL_ID,
        "worker_arranged_photo_order": Kind(is_place, "a whole number"),
    },
    "an edit": {},  # its sentences are under one of two names
    "a story of VIST-Edit": {
        "photo_sequence_ids": Kind(is_ids, "a list of photo ids"),
        "auto_story_text_normalized": Kind(is_full_text, "text"),
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
        except TypeError:  # of what cannot be in a set
            fits = False
        if fits is not True:
            found = describe(value[name])
            raise UserError(f'{where}: "{name}" is {found}; expected {kind.expected}')


def describe(value: Any) -> str:
    """A value from JSON, as an error shows it."""
    is_long = isinstance(value, (list, dict)) and len(value) > 3
    return f"a {type(value).__name__}" if is_long else repr(value)[:40]
