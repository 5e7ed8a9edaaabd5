"""VIST's and VIST-Edit's own files as stories."""

import re
from collections import Counter
from itertools import accumulate
from operator import itemgetter
from pathlib import Path

from utils.cli import UserError
from utils.files import read_json
from utils.text import is_id, new_story, one_line, shown, similarity, whole_number

SPLITS = ("train", "val", "test")


EDIT_KEYS = {"normalized": "normalized_edited_story_text_sent", "original": "edited_story_text"}


UNEVEN = "kept: a machine story without one sentence per photo"


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
