"""Captions, story books and one's own stories, as `utils.story_files` reads VIST's.

A caption is a story of one beat. A beat names its photo's file by "path"; where it does not, the
photo is found by its id, as VIST's are.
"""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from utils.cli import UserError
from utils.files import read_json
from utils.schema import check
from utils.story_files import SPLITS, Splits, new_story
from utils.text import has_words, one_line, tokenise

DEV = {"dev": "val", "validation": "val", "valid": "val"}  # names of splits
SHARES = {"val": 5, "test": 5}  # per cent, where the files name no split


def write(text: str, kind: str) -> str:
    """The text as VIST writes it (normalized), or as typed (original)."""
    return tokenise(one_line(text)) if kind == "normalized" else one_line(text)


def split_of(name: str) -> str:
    """The split of an album whose files name none: a function of its name."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    if number < SHARES["val"]:
        return "val"
    return "test" if number < SHARES["val"] + SHARES["test"] else "train"


def in_folder(folder: Path, name: str, where: str) -> Path:
    """The path of a file that a data set names. Raises UserError where it lies elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise UserError(f"{where}: {name[:60]!r}; expected a path within {folder}")
    return folder / path


def read_lines(path: Path, what: str) -> Iterator[tuple[str, dict]]:
    """(where, object) of each line of a file of JSON lines. Raises UserError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except ValueError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); expected JSON lines") from None
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not JSON ({error}); expected {what}") from None
        check(where, value, what)
        yield where, value


# ------------------------------------------------------------------------------------ own stories


def read_own(path: Path, text: str) -> tuple[Splits, dict]:
    """Stories of one's own, a line each; photos are relative to the file."""
    splits = {}
    for where, entry in read_lines(path, "a story of one's own"):
        story_id = str(entry["story_id"])
        album = story_id if entry.get("album_id") is None else str(entry["album_id"])
        split = entry.get("split") or split_of(album)
        stories, remarks = splits.setdefault(DEV.get(split, split), ([], Counter()))
        photos, sentences = entry["photos"], entry["sentences"]
        if len(photos) != len(sentences):
            raise UserError(
                f"{where}: {len(photos)} photos and {len(sentences)} sentences; expected as many"
            )
        sentences = [write(sentence, text) for sentence in sentences]
        if not all(map(has_words, sentences)):
            remarks["left out: an empty sentence"] += 1
            continue
        story = new_story(story_id, album, zip(photos, sentences))
        for beat, photo in zip(story["beats"], photos):
            if photo is None:
                beat["photo_id"] = None
            else:
                beat["path"] = in_folder(path.parent, photo, where)
        stories.append(story | {name: entry[name] for name in ("label",) if entry.get(name)})
    if wrong := splits.keys() - set(SPLITS):
        raise UserError(f"{path}: split {min(wrong)!r}; expected one of {', '.join(SPLITS)}")
    return splits, {}


# --------------------------------------------------------------------------------------- captions


def read_captions(folder: Path, text: str) -> tuple[Splits, dict]:
    """Captioned photos: Flickr8k's files, COCO's, a hub's folder of images, or VIST's tier of
    descriptions in isolation. Raises UserError where there are none."""
    readers = (read_flickr, read_coco, read_image_folder, read_descriptions)
    for reader in readers:
        splits, counts = {}, Counter()  # captions of each split's photos
        for split, photo, path, caption in reader(folder):
            stories, remarks = splits.setdefault(split, ([], Counter()))
            caption = write(caption, text)
            if not has_words(caption):
                remarks["left out: an empty caption"] += 1
                continue
            story = new_story(f"{photo}#{counts[split, photo]}", photo, [(photo, caption)])
            counts[split, photo] += 1
            if path is not None:
                story["beats"][0]["path"] = path
            stories.append(story)
        if splits:
            return splits, {}
    raise UserError(
        f"{folder}: no captions.csv, *.token.txt, captions_*.json, metadata.jsonl or "
        "dii/<split>.description-in-isolation.json in it; expected captions"
    )


Captions = Iterable[tuple[str, str, Path | None, str]]  # split, photo id, its path, caption


def find_folder(folder: Path, name: str) -> Path:
    """The folder that holds a photo: `folder` or one below it."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return next((place for place in places if (place / name).is_file()), folder / "images")


def read_flickr(folder: Path) -> Captions:
    """captions.csv, or *.token.txt; *<split>Images.txt name the photos of each split."""
    rows, table = [], folder / "captions.csv"
    tokens = sorted(folder.glob("*.token.txt"))
    if table.is_file():
        with open(table, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
        if rows[:1] != [["image", "caption"]] or any(len(row) != 2 for row in rows):
            raise UserError(f"{table}: expected a header image,caption and two fields a line")
        rows, where = rows[1:], table
    elif tokens:
        where, lines = tokens[0], tokens[0].read_text(encoding="utf-8-sig").splitlines()
        matches = [re.fullmatch(r"(.+)#\d+\t(.*)", line) for line in lines if line.strip()]
        if None in matches:
            raise UserError(f"{where}: a line that is not <photo>#<number><TAB><caption>")
        rows = [match.groups() for match in matches]
    split_by_photo = {}
    for path in folder.glob("*Images.txt"):
        if name := re.search(r"(train|dev|val|test)Images\.txt$", path.name):
            photos = path.read_text(encoding="utf-8-sig").split()
            split_by_photo |= dict.fromkeys(photos, DEV.get(name[1], name[1]))
    images = find_folder(folder, rows[0][0]) if rows else folder
    for photo, caption in rows:
        path = in_folder(images, photo, str(where))
        split = split_by_photo.get(photo) if split_by_photo else split_of(photo)
        if split:  # the published splits leave some photos out
            yield split, path.stem, path, caption


def read_coco(folder: Path) -> Captions:
    """captions_<split>*.json, there or in annotations/."""
    for path in sorted([*folder.glob("captions_*.json"), *folder.glob("*/captions_*.json")]):
        data = read_json(path, "COCO's captions", unique=True)
        check(f"{path}", data, "COCO's captions")
        for entry in data["images"]:
            check(f"{path}: an image", entry, "an image of COCO")
        files = {entry["id"]: entry["file_name"] for entry in data["images"]}
        name = re.search("train|val|test", path.stem)
        images = find_folder(folder, next(iter(files.values())))
        for entry in data["annotations"]:
            check(f"{path}: an annotation", entry, "a caption of COCO")
            photo = files.get(entry["image_id"])
            if photo is None:
                raise UserError(f"{path}: no image {entry['image_id']}, which has a caption")
            file = in_folder(images, photo, str(path))
            yield name[0] if name else split_of(photo), file.stem, file, entry["caption"]


def read_image_folder(folder: Path) -> Captions:
    """metadata.jsonl beside the photos, there or in a folder for each split."""
    for path in sorted([*folder.glob("metadata.jsonl"), *folder.glob("*/metadata.jsonl")]):
        name = DEV.get(path.parent.name, path.parent.name)
        for where, entry in read_lines(path, "a photo of an image folder"):
            file = in_folder(path.parent, entry["file_name"], where)
            captions = next((entry[x] for x in ("text", "caption", "captions") if x in entry), None)
            captions = [captions] if isinstance(captions, str) else captions
            if not isinstance(captions, list) or not all(isinstance(x, str) for x in captions):
                raise UserError(f'{where} has no text in "text", "caption" or "captions"')
            split = name if name in SPLITS else split_of(entry["file_name"])
            for caption in captions:
                yield split, str(PurePosixPath(entry["file_name"]).with_suffix("")), file, caption


def read_descriptions(folder: Path) -> Captions:
    """VIST's tier of descriptions in isolation; its photos are those of its stories."""
    for split in SPLITS:
        path = folder / "dii" / f"{split}.description-in-isolation.json"
        if not path.is_file():
            continue
        data = read_json(path, "VIST annotations", unique=True)
        check(f"{path}", data, "VIST annotations (descriptions in isolation)")
        for number, entry in enumerate(data["annotations"]):
            entry = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
            check(f"{path}: annotation {number}", entry, "a description of VIST")
            yield split, str(entry["photo_flickr_id"]), None, entry["text"]


# ------------------------------------------------------------------------------------ story books

BOOKS, PICTURES = "asp-source/en", "asp-imagebank/medium"
CREDIT = re.compile(r"^\* (License|Text|Illustration|Language|Adaptation|Translation)\b", re.M)
HELD_OUT = 16  # of the books that fit, for val and for test each


def read_book(path: Path) -> tuple[str, list[str], list[str]]:
    """Title, pages and credits of a book of the African Storybook."""
    head, *pages = re.split(r"^##[^\n]*\n?", path.read_text(encoding="utf-8-sig"), flags=re.M)
    title = one_line(head).lstrip("# ")
    credits = []
    if pages and CREDIT.search(pages[-1]):
        credits = [one_line(line).removeprefix("* ") for line in pages.pop().strip().splitlines()]
    return title, [one_line(page) for page in pages], credits


def read_storybooks(folder: Path, text: str) -> tuple[Splits, dict]:
    """Books of the African Storybook: picture 01 is the cover, picture k + 1 is page k's.

    Books whose pictures are not one or two more than their pages are left out. By a hash of their
    numbers 16 go to val, 16 to test.
    """
    stories, remarks = [], Counter()
    for path in sorted((folder / BOOKS).glob("[0-9]*.md")):
        number = path.name.split("_")[0]
        title, pages, credits = read_book(path)
        pictures = sorted((folder / PICTURES / number).glob("[0-9]*.jpg"))
        if not pages or len(pictures) - len(pages) not in (1, 2):
            remarks["left out: pictures that do not fit the pages"] += 1
            continue
        sentences = [write(page, text) for page in pages]
        shown = [(x, y) for x, y in zip(pictures[1:], sentences) if has_words(y)]
        beats = [(f"{number}/{picture.stem}", sentence) for picture, sentence in shown]
        if not beats:
            remarks["left out: no words"] += 1
            continue
        story = new_story(number, number, beats)
        for beat, (picture, _) in zip(story["beats"], shown):
            beat["path"] = picture
        stories.append(story | {"title": title, "credits": credits})
    if not stories:
        raise UserError(f"{folder}: no books in {BOOKS} whose pictures are in {PICTURES}")
    order = sorted(stories, key=lambda x: hashlib.sha256(x["story_id"].encode()).hexdigest())
    held_out = min(HELD_OUT, len(order) // 3)
    val, test = order[:held_out], order[held_out : 2 * held_out]
    train = [story for story in stories if story not in val and story not in test]
    splits = {"train": (train, remarks), "val": (val, Counter()), "test": (test, Counter())}
    return {name: split for name, split in splits.items() if split[0]}, {}
