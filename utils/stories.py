"""Stories in any shape of file: all become {"story_id", "album_id", "photo_ids", "beats":
[{"photo_id", "sentence", "position"}]}. Imports nothing heavy."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.cli import UserError
from utils.files import read_json
from utils.schema import check, describe, is_texts
from utils.story_files import UNEVEN, read_edits, vist_stories
from utils.text import one_line, split_sentences

SPLIT_SHAPE = "a preprocessed split (python dataset.py writes <split>.json)"
SHAPES = (
    "stories.json of generate.py, a preprocessed split, a VIST Challenge submission, VIST's or "
    'VIST-Edit\'s own JSON, {"album id": ["story"]} or {"story id": "story"}'
)


def read_split(path: str | Path) -> dict:
    """The object in a split's JSON, checked. Raises UserError."""
    return check_split(path, read_json(path, SPLIT_SHAPE))


def check_split(path: str | Path, split: Any) -> dict:
    check(f"{path}", split, SPLIT_SHAPE)
    for number, story in enumerate(split["stories"]):
        check(f"{path}: story number {number}", story, "a story of a split")
        where = f"{path}: story {one_line(story['story_id'])[:60]}: a beat"
        for beat in story["beats"]:
            check(where, beat, "a beat")
    return split


@dataclass
class StoryFile:
    """The stories of one file. A story without words has no beats; "photo_id" is None where the
    file names none.

    photos: a preprocessed split with the photos, "folders", or None. remarks: how many stories are
    odd, and how: whoever scores them prints it.
    """

    stories: list[dict]
    photos: str | None
    remarks: Counter


def read_stories(path: str | Path) -> StoryFile:
    """The stories in a file of any of SHAPES, or in a folder of VIST-Edit's files. Raises
    UserError."""
    if Path(path).is_dir():
        files = sorted(Path(path).rglob("[!.]*.json"))
        if not files:
            raise UserError(
                f"{path}: no .json file in it; expected a file of stories, or VIST-Edit's AREL or "
                "GLAC"
            )
        return read_machine_stories(path, files)
    value = read_json(path, SHAPES, unique=True)
    if not isinstance(value, dict) or not value:
        raise UserError(f"{path}: {describe(value)}; expected {SHAPES}")
    if "format" in value:
        file = read_entries(path, check_split(path, value)["stories"], from_split)
        file.photos = str(path)
        return file
    if "annotations" in value:
        stories, remarks = vist_stories(path, value, "normalized")
        file = read_entries(path, stories, from_split)
        file.remarks += remarks
        return file
    if "auto_story_text_normalized" in value:
        return read_machine_stories(path, [path])
    if "output_stories" in value:
        return read_entries(path, value["output_stories"], from_submission)
    if isinstance(value.get("stories"), list):
        file = read_entries(path, value["stories"], from_generated)
        settings = value.get("settings") or {}
        check(f"{path}: settings", settings, "settings of generate.py")
        if any("folder" in beat for story in file.stories for beat in story["beats"]):
            file.photos = "folders"
        file.photos = settings.get("data_path") or file.photos
        return file
    return read_texts(path, value)


def read_machine_stories(path: str | Path, files: Iterable[Path]) -> StoryFile:
    """The machines' own stories in files of VIST-Edit."""
    remarks = Counter()
    entries = [read_edits(file, "normalized", remarks)[1] for file in files]
    file = read_entries(path, entries, from_generated)
    file.remarks["with not as many sentences as photos"] = remarks[UNEVEN]
    return file


def read_entries(path: str | Path, entries: Any, convert: Callable) -> StoryFile:
    """Stories from a list of entries, each by convert(where, number, entry)."""
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no stories in it; expected {SHAPES}")
    stories, remarks, keys = [], Counter(), set()
    for number, entry in enumerate(entries):
        story = convert(f"{path}: story number {number}", number, entry)
        key = story["story_id"], str(entry.get("sample"))
        remarks["with an id that another has too"] += key in keys
        keys.add(key)
        if not story["beats"]:
            remarks["without words"] += 1
        elif len(story["beats"]) != len(story["photo_ids"]):
            remarks["with not as many sentences as photos"] += 1
        stories.append(story)
    return StoryFile(stories, None, remarks)


def from_split(where: str, number: int, entry: dict) -> dict:
    photos = [beat.get("photo_id") for beat in entry["beats"]]
    sentences = [beat["sentence"] for beat in entry["beats"]]
    story = make_story(entry["story_id"], entry.get("album_id"), photos, sentences)
    return story | {"label": entry["label"]} if entry.get("label") else story


def from_generated(where: str, number: int, entry: Any) -> dict:
    check(where, entry, "a story of generate.py")
    name = entry.get("story_id")
    name = f"number {number}" if name is None else name
    photos = entry.get("photo_ids") or []
    story = make_story(name, entry.get("album_id"), photos, entry["sentences"])
    if entry.get("folder") is not None:
        story["beats"] = [beat | {"folder": entry["folder"]} for beat in story["beats"]]
    return story


def from_submission(where: str, number: int, entry: Any) -> dict:
    check(where, entry, "a story of a VIST Challenge submission")
    photos = entry.get("photo_sequence") or []
    name = "-".join(map(str, photos)) or f"number {number}"
    sentences = split_sentences(entry["story_text_normalized"])
    return make_story(name, entry.get("album_id"), photos, sentences)


def make_story(story_id: Any, album_id: Any, photos: list, sentences: Iterable[str]) -> dict:
    """A story whose sentences are beside its photos in order; a sentence beyond them has none.

    album_id: None is the story's own. An empty sentence is no beat and leaves its photo without
    one: each beat has its "position" among the sentences.
    """
    name = one_line(story_id)
    photos = [None if photo is None else str(photo) for photo in photos]  # as is: it names a file
    beats = []
    for position, sentence in enumerate(map(one_line, sentences)):
        photo = photos[position] if position < len(photos) else None
        if sentence:
            beats.append({"photo_id": photo, "sentence": sentence, "position": position})
    album = name if album_id is None else one_line(album_id)
    return {"story_id": name, "album_id": album, "beats": beats, "photo_ids": photos}


def read_texts(path: str | Path, value: dict) -> StoryFile:
    """{album id: [stories]} or {story id: story}: a story's key is its album too."""
    are_lists = isinstance(next(iter(value.values())), list)
    stories, remarks = [], Counter()
    for key, entry in value.items():
        name, texts = one_line(key), entry if are_lists else [entry]
        if not is_texts(texts) or not texts:
            wanted = "a list of stories, each one text" if are_lists else "one text"
            raise UserError(f"{path}: {name[:60]}: {describe(entry)}; expected {wanted} ({SHAPES})")
        for number, text in enumerate(texts):
            story_id = f"{name}-{number}" if are_lists else name
            stories.append(make_story(story_id, name, [], split_sentences(text)))
            remarks["without words"] += not stories[-1]["beats"]
    return StoryFile(stories, None, remarks)
