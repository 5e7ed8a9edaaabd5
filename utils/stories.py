"""Stories as text: the files in which they circulate, their sentences, their words.

Every shape of file is read here and becomes the same: {"story_id", "album_id", "beats":
[{"photo_id", "sentence"}]}. Imports nothing heavy.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from utils.cli import UserError
from utils.files import read_json

SPLITS = ("train", "val", "test")
SPLIT_SHAPE = "a preprocessed split (python dataset.py writes <split>.json)"
SHAPES = (
    "stories.json of generate.py, a preprocessed split, a VIST Challenge submission, VIST's or "
    "VIST-Edit's own JSON, "
    '{"album id": ["story"]} or {"story id": "story"}'
)
EDIT_KEYS = {"normalized": "normalized_edited_story_text_sent", "original": "edited_story_text"}
UNEVEN = "kept: a machine story without one sentence per photo"
FUNCTION_WORDS = frozenset(
    "a an and are as at be but by for from had has have he her his i in is it its my n of on or "
    "our s she so that the "
    "their them then there they this to us was we were with you".split()
)
ABBREVIATIONS = frozenset("mr mrs ms dr st jr sr prof vs a.m p.m u.s".split())


# --------------------------------------------------------------------------------------------- text


def is_id(value):
    """Whether a value from JSON names something: text, or a whole number."""
    return isinstance(value, str) or type(value) is int


def one_line(text):
    # JSON may hold half a character, which no file takes
    text = str(text).encode(errors="replace").decode()
    return " ".join(text.split())


def split_sentences(text):
    """The sentences of a story that is one string: at VIST's tokenised full stops, else by Punkt
    (no download)."""
    if re.search(r"\s[.!?](\s|$)", text):
        return [part.strip() for part in re.split(r"(?<=\s[.!?])\s+", text) if part.strip()]
    return sentence_tokenizer().tokenize(text.strip())


@cache
def sentence_tokenizer():
    """Punkt, untrained: nothing to download."""
    from nltk.tokenize.punkt import (  # takes a third of a second
        PunktParameters,
        PunktSentenceTokenizer,
    )

    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


# "night." and "didn't"
ATTACHED = re.compile(r"\w[.!?,;:](?=\s|$)|\w(?:n't|'(?:s|m|re|ve|d|ll))\b")
# "night ." and "did n't"
STANDING = re.compile(r"(?<!\S)(?:[.!?,;:]|n't|'(?:s|m|re|ve|d|ll))(?!\S)")
STAND_IN = 0xE000  # a character that no text holds: of the private use area
PLACEHOLDER = re.compile(r"\[(?:male|female|location|organization)\]", re.IGNORECASE)


def is_tokenised(text):
    """Whether a story is written VIST's way: no capitals, and punctuation and contractions mostly
    stand by themselves.

    (Mostly: of VIST's own stories one in a hundred has a "mr." or a slip such as "church." in it.)
    """
    words = PLACEHOLDER.sub("x", text)
    return not re.search("[A-Z]", words) and len(ATTACHED.findall(words)) <= len(
        STANDING.findall(words)
    )


def tokenise(text):
    """A text VIST's way, as its publishers did it: Treebank tokens of each sentence, in lower case.

    [male], [female], [location] and [organization] stay whole. A tokenised text stays what it is.
    """
    if is_tokenised(text):
        return text
    from nltk.tokenize import NLTKWordTokenizer

    text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', STAND_IN: " "})
    names = iter(PLACEHOLDER.findall(text))
    text = PLACEHOLDER.sub(f" {chr(STAND_IN)} ", text)  # brackets would be tokens of their own
    sentences = sentence_tokenizer().tokenize(text)
    words = [word for sentence in sentences for word in NLTKWordTokenizer().tokenize(sentence)]
    return re.sub(chr(STAND_IN), lambda _: next(names), " ".join(words)).lower()


# ------------------------------------------------------------------------------- VIST and VIST-Edit


def read_vist(folder, text):
    """{split: (stories, remarks)} of a folder in VIST's format, without the photos; and no machine
    stories.

    text: "normalized" or "original". Raises UserError that names the file and what it lacks.
    """
    files = {split: folder / "sis" / f"{split}.story-in-sequence.json" for split in SPLITS}
    files = {split: path for split, path in files.items() if path.exists()}
    if not files:
        raise UserError(
            f"{folder}: no sis/<split>.story-in-sequence.json in it; expected one for train, val "
            "or test"
        )
    return {split: read_vist_split(path, text) for split, path in files.items()}, {}


def read_vist_split(path, text):
    return vist_stories(path, read_json(path, "VIST annotations", unique=True), text)


def vist_stories(path, data, text):
    """Stories and remarks of a VIST object that was read from `path`."""
    entries = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        raise UserError(
            f'{path}: no list "annotations"; expected VIST annotations (stories in sequence)'
        )
    albums = data["albums"] if isinstance(data.get("albums"), list) else []
    albums = [
        album
        for album in albums
        if isinstance(album, dict) and isinstance(album.get("vist_label"), str)
    ]
    labels = {str(album.get("id")): album["vist_label"] for album in albums}
    by_story, key = {}, {"normalized": "text", "original": "original_text"}[text]
    for number, entry in enumerate(entries):
        entry = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        for name in ("story_id", "photo_flickr_id", "worker_arranged_photo_order", key):
            if not isinstance(entry, dict) or entry.get(name) is None:
                advice = "; --text normalized does without it" if name == "original_text" else ""
                raise UserError(
                    f'{path}: annotation {number} has no "{name}"; expected one in each{advice}'
                )
        for name in ("story_id", "photo_flickr_id", "album_id"):
            if entry.get(name) is not None and not is_id(entry[name]):
                raise UserError(
                    f'{path}: annotation {number}: "{name}" is {shown(entry[name])}; expected text'
                )
        if not isinstance(entry[key], str):
            raise UserError(
                f'{path}: annotation {number}: "{key}" is {shown(entry[key])}; expected text'
            )
        by_story.setdefault(str(entry["story_id"]), []).append(entry)
    stories, remarks = [], Counter()
    for story_id, entries in by_story.items():
        try:
            places = [whole_number(entry["worker_arranged_photo_order"]) for entry in entries]
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f'{path}: story {story_id[:60]}: a "worker_arranged_photo_order" is not a number'
            ) from None
        told = [(str(entry["photo_flickr_id"]), one_line(entry[key])) for entry in entries]
        # an annotation that is there twice counts once
        beats = sorted(set(zip(places, told, strict=True)))
        places = [place for place, _ in beats]
        if len(set(places)) < len(places):
            remarks["left out: two photos at one place"] += 1
        elif not all(sentence for _, (_, sentence) in beats):
            remarks["left out: an empty sentence"] += 1
        else:
            remarks["kept: a place without a photo"] += places != list(range(len(places)))
            album_id = entries[0].get("album_id")
            album_id = story_id if album_id is None else str(album_id)
            label = labels.get(album_id)  # VIST's word for what the album is about
            stories.append(
                new_story(story_id, album_id, [beat for _, beat in beats])
                | ({"label": label} if label else {})
            )
    return stories, remarks


def whole_number(value):
    """The int that a number, or its text, says. Raises TypeError, ValueError or OverflowError."""
    number = int(value)
    if isinstance(value, float) and value != number:
        raise ValueError
    return number


def shown(value):
    """A value from JSON, as an error shows it."""
    return f"a {type(value).__name__}" if isinstance(value, (list, dict)) else repr(value)[:40]


def read_vist_edit(folder, text):
    """{split: (stories, remarks)} of the human edits in VIST-Edit, and {"<system>.<split>": machine
    stories}.

    Raises UserError that names the file and what it lacks.
    """
    splits, machine = {}, {}
    for system in sorted(path for path in folder.iterdir() if path.is_dir()):
        for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True):
            for path in sorted((system / name).glob("[!.]*.json")):
                stories, remarks = splits.setdefault(split, ([], Counter()))
                edits, automatic = read_edits(path, text, remarks)
                stories += edits
                machine.setdefault(f"{system.name}.{split}", []).append(automatic)
    if not splits:
        raise UserError(
            f"{folder}: no <system>/<split>/*.json in it; expected VIST-Edit's AREL and GLAC "
            "folders"
        )
    return splits, machine


def read_edits(path, text, remarks):
    """The human edits in one file of VIST-Edit as stories, and the machine's own story."""
    data, key = read_json(path, "a story of VIST-Edit", unique=True), EDIT_KEYS[text]
    expected = {
        "photo_sequence_ids": list,
        "auto_story_text_normalized": str,
        "edited_stories": list,
    }
    for name, kind in expected.items():
        if not isinstance(data, dict) or not isinstance(data.get(name), kind) or not data[name]:
            raise UserError(f'{path}: no "{name}"; expected a story of VIST-Edit')
    if (
        not all(map(is_id, data["photo_sequence_ids"]))
        or not data["auto_story_text_normalized"].strip()
    ):
        raise UserError(
            f"{path}: a photo without an id, or a story without words; expected a story of "
            "VIST-Edit"
        )
    for name in ("model", "album_id"):
        if data.get(name) is not None and not is_id(data[name]):
            raise UserError(f'{path}: "{name}" is {shown(data[name])}; expected text')
    photos = [str(photo_id) for photo_id in data["photo_sequence_ids"]]
    name = f"{'-'.join(photos)}-{data.get('model') or Path(path).resolve().parent.parent.name}"
    album_id = name if data.get("album_id") is None else str(data["album_id"])
    machine = re.split(r"(?<=\s\.)\s+", one_line(data["auto_story_text_normalized"]))
    remarks[UNEVEN] += len(machine) != len(photos)
    stories = []
    for number, edit in enumerate(data["edited_stories"]):
        if not isinstance(edit, dict) or not isinstance(edit.get(key), (str, list)):
            raise UserError(f'{path}: edit {number} has no "{key}"; expected one in each')
        sentences = (
            re.split(r"(?<=[.!?])\s+", edit[key]) if isinstance(edit[key], str) else edit[key]
        )
        if not all(isinstance(sentence, str) for sentence in sentences):
            raise UserError(
                f'{path}: edit {number}: "{key}" holds something else; expected sentences'
            )
        sentences = [sentence for sentence in map(one_line, sentences) if sentence]
        if sentences:
            remarks["kept: sentences aligned to the machine's"] += len(sentences) != len(photos)
            stories.append(
                new_story(f"{name}-{number}", album_id, tell(photos, sentences, machine))
            )
        else:
            remarks["left out: no sentences"] += 1
    beats = tell(photos, machine, machine)
    automatic = {"story_id": name, "album_id": album_id, "photo_ids": [photo for photo, _ in beats]}
    return stories, automatic | {"sentences": [sentence for _, sentence in beats]}


def tell(photos, sentences, machine):
    """[(photo id, its sentences joined)]: an edit's sentences by photo. A photo without one is left
    out."""
    if len(sentences) == len(photos):
        return list(zip(photos, sentences, strict=True))
    photo_of = spread(len(machine), len(photos))
    told = {}
    for sentence, j in zip(sentences, align(sentences, machine), strict=True):
        told.setdefault(photo_of[j], []).append(sentence)
    return [(photos[at], " ".join(parts)) for at, parts in told.items()]


def spread(count, places):
    """`count` things over `places` in order, evenly: the place of each, 0 to places - 1."""
    return [(2 * i + 1) * places // (2 * count) for i in range(count)]


def align(edit_sentences, machine_sentences):
    """For each edited sentence the number of the machine sentence that it rewrites, never
    decreasing.

    Where the counts agree, one to one. Else the alignment of highest total similarity (dynamic
    programming); where the words do not decide, the nearest to an even spread.
    """
    count, places = len(edit_sentences), len(machine_sentences)
    if count == places:
        return list(range(count))
    best = [
        (0.0, [])
    ] * places  # best[j]: score and alignment of the sentences so far, none of them beyond j
    for sentence, even in zip(edit_sentences, spread(count, places), strict=True):
        ending = [
            (score + similarity(sentence, machine_sentences[j]) - 1e-6 * abs(j - even), [*path, j])
            for j, (score, path) in enumerate(best)
        ]
        best = list(accumulate(ending, lambda a, b: max(a, b, key=itemgetter(0))))
    return best[-1][1]


def similarity(a, b):
    """F1 of the words that two sentences share, 0 to 1; a function word weighs a tenth of
    another."""

    def weigh(words):
        return sum(n * (0.1 if word in FUNCTION_WORDS else 1) for word, n in words.items())

    a, b = (Counter(re.findall(r"\w+", sentence.lower())) for sentence in (a, b))
    return 2 * weigh(a & b) / (weigh(a) + weigh(b)) if a and b else 0.0


def new_story(story_id, album_id, beats):
    """beats: [(photo id, sentence)]."""
    beats = [{"photo_id": photo_id, "sentence": sentence} for photo_id, sentence in beats]
    return {"story_id": story_id, "album_id": album_id, "beats": beats}


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
class Told:
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
        key = story["story_id"], str(entry.get("telling"))
        remarks["with an id that another has too"] += key in seen
        seen.add(key)
        remarks["without words"] += not story["beats"]
        remarks["with not as many sentences as photos"] += (
            bool(story["beats"]) and len(story["beats"]) != photos
        )
        stories.append(story)
    return Told(stories, None, remarks)


def preprocessed(path, number, entry):
    """A story of a split or of VIST itself, and how many photos it has."""
    photos = photo_names(path, entry["story_id"], [beat.get("photo_id") for beat in entry["beats"]])
    sentences = [beat["sentence"] for beat in entry["beats"]]
    story = paired(*names_of(path, number, entry), photos, sentences)
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
    story = paired(name, album, photos, sentences)
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
    return paired(name, album, photos, split_sentences(text)), len(photos)


def photo_names(path, name, photos):
    if photos is None:
        return []
    if not isinstance(photos, list) or not all(photo is None or is_id(photo) for photo in photos):
        raise UserError(
            f"{path}: story {name}: its photos are {shown(photos)}; expected a list of photo ids"
        )
    return [None if photo is None else str(photo) for photo in photos]  # as it is: it names a file


def paired(story_id, album_id, photos, sentences):
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
            stories.append(paired(story_id, name, [], split_sentences(text)))
            remarks["without words"] += not stories[-1]["beats"]
    return Told(stories, None, remarks)
