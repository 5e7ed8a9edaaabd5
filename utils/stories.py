"""Stories as text: the files in which they circulate, their sentences, their words.

Every shape of file is read here and becomes the same: {"story_id", "album_id", "beats":
[{"photo_id", "sentence"}]}. Imports nothing heavy.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils.cli import UserError
from utils.files import read_json
from utils.story_files import EDIT_KEYS, UNEVEN, read_edits, vist_stories
from utils.text import is_id, new_story, one_line, shown, split_sentences

SPLIT_SHAPE = "a preprocessed split (python dataset.py writes <split>.json)"
SHAPES = (
    "stories.json of generate.py, a preprocessed split, a VIST Challenge submission, VIST's or "
    "VIST-Edit's own JSON, "
    '{"album id": ["story"]} or {"story id": "story"}'
)


# ------------------------------------------------------------------------------ preprocessed splits


def read_split(path):
    """The object in a split's JSON, checked. Raises UserError that names the story and what was
    expected."""
    return check_split(path, read_json(path, SPLIT_SHAPE))


def split_head(path):
    """A split's JSON but for its stories, which are not read; None where the words have no file of
    their own.

    Such a split has one story a line, and all else in its first line.
    """
    if not Path(path).is_file():  # to open a pipe would wait for who writes to it
        return None
    try:
        with open(path, encoding="utf-8") as file:
            head = json.loads(file.readline(1_000_000).rstrip() + "]}")
    except (OSError, ValueError, RecursionError):  # who reads the split whole says what is wrong
        return None
    return (
        check_head(path, head)
        if isinstance(head, dict) and isinstance(head.get("words"), str)
        else None
    )


def story_ids(path, numbers):
    """Ids of the stories with these numbers in a split; ~number is number's."""
    numbers = [~number if number < 0 else number for number in numbers]
    if split_head(path) is None:
        return [read_split(path)["stories"][number]["story_id"] for number in numbers]
    try:
        with open(path, encoding="utf-8") as file:
            lines = {number: line for number, line in enumerate(file, -1) if number in numbers}
        return [json.loads(lines[number].rstrip().rstrip(","))["story_id"] for number in numbers]
    except (LookupError, ValueError, TypeError):
        raise UserError(
            f"{path}: not as many stories as words beside it; run dataset.py again"
        ) from None


def check_head(path, split):
    """The object `split` that was read from `path`, if all but its stories is as in a split."""
    if not isinstance(split, dict) or split.get("format") != 1:
        raise UserError(f'{path}: no "format": 1 at its top; expected {SPLIT_SHAPE}')
    photos = split.get("photos")
    file, kind = (
        (photos.get("file"), photos.get("kind")) if isinstance(photos, dict) else (None, None)
    )
    if not is_file_name(file) or kind not in ("features", "pixels"):
        raise UserError(
            f'{path}: expected "photos": '
            f'{{"file": "<split>.safetensors", "kind": "features" or "pixels"}}'
        )
    for name, fits in (("words", is_file_name), ("text", EDIT_KEYS.__contains__)):
        if name in split and not (isinstance(split[name], str) and fits(split[name])):
            raise UserError(
                f'{path}: "{name}" is {shown(split[name])}; expected what dataset.py writes'
            )
    return split


def is_file_name(value):
    """Whether a value from JSON names a file, without a folder: what stands beside a split is
    beside it."""
    fits = isinstance(value, str) and len(value.encode(errors="replace")) < 256
    return fits and value not in ("", ".", "..") and not set(value) & {"/", "\\", "\0"}


def check_split(path, split):
    """The object `split` that was read from `path`, if it is a split."""
    check_head(path, split)
    if not isinstance(split.get("stories"), list) or not split["stories"]:
        raise UserError(f"{path}: holds no stories; expected {SPLIT_SHAPE}")
    for number, story in enumerate(split["stories"]):
        if not isinstance(story, dict) or not is_id(story.get("story_id")):
            raise UserError(f'{path}: story number {number}: no "story_id"; expected one in each')
        place = f"{path}: story {one_line(story['story_id'])[:60]}"
        if not isinstance(story.get("beats"), list) or not story["beats"]:
            raise UserError(f'{place}: no "beats"; expected a list of at least one')
        if story.get("album_id") is not None and not is_id(story["album_id"]):
            raise UserError(f'{place}: "album_id" is {shown(story["album_id"])}; expected text')
        for beat in story["beats"]:
            if not isinstance(beat, dict) or not isinstance(beat.get("sentence"), str):
                raise UserError(f'{place}: a beat has no "sentence"; expected a string in each')
            if beat.get("photo_id") is not None and not is_id(beat["photo_id"]):
                raise UserError(
                    f'{place}: "photo_id" of a beat is {shown(beat["photo_id"])}; expected text'
                )
            row = beat.get("photo", "absent")
            if row is not None and (type(row) is not int or not 0 <= row < 2**63):
                raise UserError(
                    f'{place}: "photo" of a beat is {shown(row)}; expected a row number or null'
                )
    return split


# ----------------------------------------------------------------------------- stories of any shape


@dataclass
class StoryFile:
    """The stories of one file.

    stories: as `paired` makes them; one without words has no beats, and where the file does not
    tell, "photo_id" is None. photos: where the photos are: the path of a preprocessed split,
    "folders", or None. remarks: how many stories are odd, and how: whoever scores them says so.
    """

    stories: list
    photos: str | None
    remarks: Counter


def read_stories(path):
    """The stories in a file of any of SHAPES (or a folder of VIST-Edit's files), recognised by what
    it holds, as Told.

    Raises UserError that names the file, the story and what was expected.
    """
    if Path(path).is_dir():
        files = sorted(Path(path).rglob("[!.]*.json"))
        if not files:
            raise UserError(
                f"{path}: no .json file in it; expected a file of stories, or VIST-Edit's AREL or "
                "GLAC"
            )
        return machine_stories(path, files)
    value = read_json(path, SHAPES, unique=True)
    if not isinstance(value, dict) or not value:
        found = "nothing" if value == {} else f"a {type(value).__name__} at its top"
        raise UserError(f"{path}: {found}; expected {SHAPES}")
    if "format" in value:
        told = listed(path, check_split(path, value)["stories"], preprocessed)
        told.photos = str(path)
        return told
    if "annotations" in value:
        stories, remarks = vist_stories(path, value, "normalized")
        if not stories:
            raise UserError(f"{path}: no stories in it; expected {SHAPES}")
        told = listed(path, stories, preprocessed)
        told.remarks += remarks
        return told
    if "auto_story_text_normalized" in value:
        return machine_stories(path, [path])
    if "output_stories" in value:
        return listed(path, value["output_stories"], submitted)
    if isinstance(value.get("stories"), list):
        told = listed(path, value["stories"], generated)
        settings = value.get("settings")
        split = settings.get("data_path") if isinstance(settings, dict) else None
        in_folders = any("folder" in beat for story in told.stories for beat in story["beats"])
        told.photos = (
            split if isinstance(split, str) and split else "folders" if in_folders else None
        )
        return told
    return mapped(path, value)


def machine_stories(path, files):
    """The machines' own stories in files of VIST-Edit."""
    remarks = Counter()
    told = listed(path, [read_edits(file, "normalized", remarks)[1] for file in files], generated)
    told.remarks["with not as many sentences as photos"] = remarks[UNEVEN]
    return told


def listed(path, entries, read):
    """A list of stories, each an object that `read` knows."""
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no stories in it; expected {SHAPES}")
    stories, remarks, seen = [], Counter(), set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(
                f"{path}: story number {number} is a {type(entry).__name__}; expected an object"
            )
        story, photos = read(path, number, entry)
        key = story["story_id"], str(entry.get("sample"))
        remarks["with an id that another has too"] += key in seen
        seen.add(key)
        remarks["without words"] += not story["beats"]
        remarks["with not as many sentences as photos"] += (
            bool(story["beats"]) and len(story["beats"]) != photos
        )
        stories.append(story)
    return StoryFile(stories, None, remarks)


def preprocessed(path, number, entry):
    """A story of a split or of VIST itself, and how many photos it has."""
    photos = photo_names(path, entry["story_id"], [beat.get("photo_id") for beat in entry["beats"]])
    sentences = [beat["sentence"] for beat in entry["beats"]]
    story = make_story(*names_of(path, number, entry), photos, sentences)
    label = entry.get("label")
    return story | ({"label": label} if label and isinstance(label, str) else {}), len(photos)


def names_of(path, number, entry):
    """The ids of a story and of its album, which is its own where none is named."""
    story_id, album_id = (entry.get(key) for key in ("story_id", "album_id"))
    for key in ("story_id", "album_id"):
        if entry.get(key) is not None and not is_id(entry[key]):
            raise UserError(
                f'{path}: story number {number}: "{key}" is {shown(entry[key])}; expected text'
            )
    name = f"number {number}" if story_id is None else one_line(story_id)
    return name, name if album_id is None else one_line(album_id)


def generated(path, number, entry):
    """A story of generate.py: {"story_id", "album_id", "photo_ids", "sentences"}, and how many
    photos it has."""
    name, album = names_of(path, number, entry)
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or not all(
        isinstance(sentence, str) for sentence in sentences
    ):
        raise UserError(f'{path}: story {name}: expected "sentences", a list of texts')
    photos = photo_names(path, name, entry.get("photo_ids"))
    story = make_story(name, album, photos, sentences)
    if isinstance(entry.get("folder"), str):
        for beat in story["beats"]:
            beat["folder"] = entry["folder"]
    return story, len(photos)


def submitted(path, number, entry):
    """A story of a VIST Challenge submission, and how many photos it has."""
    photos = photo_names(path, f"number {number}", entry.get("photo_sequence"))
    name, text = (
        "-".join(map(str, photos)) or f"number {number}",
        entry.get("story_text_normalized"),
    )
    album = names_of(path, number, entry | {"story_id": name})[1]
    if not isinstance(text, str):
        raise UserError(f'{path}: story {name}: expected "story_text_normalized", a text')
    return make_story(name, album, photos, split_sentences(text)), len(photos)


def photo_names(path, name, photos):
    if photos is None:
        return []
    if not isinstance(photos, list) or not all(photo is None or is_id(photo) for photo in photos):
        raise UserError(
            f"{path}: story {name}: its photos are {shown(photos)}; expected a list of photo ids"
        )
    return [None if photo is None else str(photo) for photo in photos]  # as it is: it names a file


def make_story(story_id, album_id, photos, sentences):
    """A story whose sentences stand beside its photos in order; a sentence beyond them has none.

    An empty sentence is no beat and leaves its photo without one: "photo_ids" has all the photos,
    and each beat its "position" among the sentences.
    """
    places = [(i, text) for i, text in enumerate(map(one_line, sentences)) if text]
    story = new_story(
        story_id, album_id, [(photos[i] if i < len(photos) else None, text) for i, text in places]
    )
    for beat, (position, _) in zip(story["beats"], places, strict=True):
        beat["position"] = position
    return story | {"photo_ids": photos}


def mapped(path, value):
    """{album id: [stories]} or {story id: story}: the key of a story stands for its album too."""
    lists = isinstance(next(iter(value.values())), list)
    stories, remarks = [], Counter()
    for key, entry in value.items():
        name, texts = one_line(key), entry if lists else [entry]
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) for text in texts)
        ):
            wanted = "a list of stories, each one text" if lists else "one text"
            raise UserError(f"{path}: {name[:60]}: {shown(entry)}; expected {wanted} ({SHAPES})")
        for number, text in enumerate(texts):
            story_id = f"{name}-{number}" if lists else name
            stories.append(make_story(story_id, name, [], split_sentences(text)))
            remarks["without words"] += not stories[-1]["beats"]
    return StoryFile(stories, None, remarks)
