"""VIST's and VIST-Edit's own files as stories."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

from utils.cli import UserError
from utils.files import read_json
from utils.schema import SENTENCES, TEXT, Kind, check, is_text
from utils.text import has_words, join_marks, one_line, similarity

SPLITS = ("train", "val", "test")
EDIT_KEYS = {"normalized": "normalized_edited_story_text_sent", "original": "edited_story_text"}
UNEVEN = "kept: a machine story without one sentence per photo"
Splits = dict[str, tuple[list[dict], Counter]]  # {split: (stories, remarks)}


def new_story(story_id: str, album_id: str, beats: Iterable[tuple[str, str]]) -> dict:
    """beats: (photo id, sentence) of each."""
    beats = [{"photo_id": photo_id, "sentence": sentence} for photo_id, sentence in beats]
    return {"story_id": story_id, "album_id": album_id, "beats": beats}


def read_vist(folder: Path, text: str) -> tuple[Splits, dict]:
    """The stories of a folder in VIST's format; and no machine stories.

    text: "normalized" or "original". Raises UserError that names the file and what it lacks.
    """
    splits = {}
    for split in SPLITS:
        path = folder / "sis" / f"{split}.story-in-sequence.json"
        if path.exists():
            splits[split] = vist_stories(path, read_json(path, "VIST annotations", True), text)
    if not splits:
        raise UserError(
            f"{folder}: no sis/<split>.story-in-sequence.json in it; expected one for train, val "
            "or test"
        )
    return splits, {}


def vist_stories(path: str | Path, data: Any, text: str) -> tuple[list[dict], Counter]:
    """Stories and remarks of a VIST object that was read from `path`."""
    check(f"{path}", data, "VIST annotations (stories in sequence)")
    labels = {}  # {album id: what the album is about}
    for album in data.get("albums") or ():
        check(f"{path}: an album", album, "a VIST album")
        labels[str(album["id"])] = album.get("vist_label")
    key, sentence = "text", TEXT
    if text == "original":
        key, sentence = "original_text", Kind(is_text, "text (--text normalized needs none)")
    by_story, albums = {}, {}
    for number, entry in enumerate(data["annotations"]):
        entry = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
        check(f"{path}: annotation {number}", entry, "a VIST annotation", **{key: sentence})
        place, story_id = int(entry["worker_arranged_photo_order"]), str(entry["story_id"])
        beat = place, str(entry["photo_flickr_id"]), one_line(entry[key])
        by_story.setdefault(story_id, set()).add(beat)  # one that is there twice counts once
        albums.setdefault(story_id, entry.get("album_id"))
    stories, remarks = [], Counter()
    for story_id, beats in by_story.items():
        places, photos, sentences = zip(*sorted(beats))
        if len(set(places)) < len(places):
            remarks["left out: two photos at one place"] += 1
        elif not all(sentences):
            remarks["left out: an empty sentence"] += 1
        else:
            remarks["kept: a place without a photo"] += places != tuple(range(len(places)))
            album_id = story_id if albums[story_id] is None else str(albums[story_id])
            story = new_story(story_id, album_id, zip(photos, sentences))
            if labels.get(album_id):
                story["label"] = labels[album_id]
            stories.append(story)
    return stories, remarks


def read_vist_edit(folder: Path, text: str) -> tuple[Splits, dict[str, list[dict]]]:
    """The human edits in VIST-Edit, and {"<system>.<split>": machine stories}. Raises UserError
    that names the file and what it lacks."""
    splits, machine = {}, {}
    for system in sorted(path for path in folder.iterdir() if path.is_dir()):
        for split, name in zip(SPLITS, ("train", "dev", "test"), strict=True):
            for path in sorted((system / name).glob("[!.]*.json")):
                stories, remarks = splits.setdefault(split, ([], Counter()))
                edits, machine_story = read_edits(path, text, remarks)
                stories += edits
                machine.setdefault(f"{system.name}.{split}", []).append(machine_story)
    if not splits:
        raise UserError(
            f"{folder}: no <system>/<split>/*.json in it; expected VIST-Edit's AREL and GLAC "
            "folders"
        )
    return splits, machine


def read_edits(path: str | Path, text: str, remarks: Counter) -> tuple[list[dict], dict]:
    """The human edits in one file of VIST-Edit as stories, and the machine's own story."""
    data, key = read_json(path, "a story of VIST-Edit", unique=True), EDIT_KEYS[text]
    check(f"{path}", data, "a story of VIST-Edit")
    photos = list(map(str, data["photo_sequence_ids"]))
    name = f"{'-'.join(photos)}-{data.get('model') or Path(path).resolve().parent.parent.name}"
    album_id = name if data.get("album_id") is None else str(data["album_id"])
    text_of_machine = one_line(data["auto_story_text_normalized"])
    machine = join_marks(re.split(r"(?<=\s\.)\s+", text_of_machine))
    remarks[UNEVEN] += len(machine) != len(photos)
    stories = []
    for number, edit in enumerate(data["edited_stories"]):
        check(f"{path}: edit {number}", edit, "an edit", **{key: SENTENCES})
        sentences = edit[key]
        if isinstance(sentences, str):
            sentences = re.split(r"(?<=[.!?])\s+", sentences)
        sentences = join_marks(map(one_line, sentences))
        if not has_words(" ".join(sentences)):
            remarks["left out: no sentences"] += 1
            continue
        remarks["kept: sentences aligned to the machine's"] += len(sentences) != len(photos)
        beats = join_by_photo(photos, sentences, machine)
        stories.append(new_story(f"{name}-{number}", album_id, beats))
    photo_ids, sentences = map(list, zip(*join_by_photo(photos, machine, machine)))
    about = {"story_id": name, "album_id": album_id}
    return stories, about | {"photo_ids": photo_ids, "sentences": sentences}


def join_by_photo(
    photos: list[str], sentences: list[str], machine: list[str]
) -> list[tuple[str, str]]:
    """[(photo id, its sentences joined)] of an edit; a photo without one is left out."""
    if len(sentences) == len(photos):
        return list(zip(photos, sentences, strict=True))
    photo_of, joined = spread_evenly(len(machine), len(photos)), {}
    for sentence, j in zip(sentences, align(sentences, machine), strict=True):
        joined.setdefault(photo_of[j], []).append(sentence)
    return [(photos[i], " ".join(parts)) for i, parts in joined.items()]


def spread_evenly(count: int, places: int) -> list[int]:
    """`count` things over `places` in order, evenly: the place of each."""
    return [(2 * i + 1) * places // (2 * count) for i in range(count)]


def align(edited: list[str], machine: list[str]) -> list[int]:
    """For each edited sentence the number of the machine sentence that it rewrites, never
    decreasing.

    Where the counts agree, one to one. Else the alignment of highest total similarity (dynamic
    programming); where the words do not decide, the nearest to an even spread.
    """
    count, places = len(edited), len(machine)
    if count == places:
        return list(range(count))
    best = [(0.0, [])] * places  # [j]: the sentences so far, none of them beyond j
    for sentence, even in zip(edited, spread_evenly(count, places), strict=True):
        reached = (-math.inf, [])
        for j, (score, path) in enumerate(best):
            score += similarity(sentence, machine[j]) - 1e-6 * abs(j - even)
            reached = max(reached, (score, [*path, j]), key=itemgetter(0))
            best[j] = reached
    return best[-1][1]
