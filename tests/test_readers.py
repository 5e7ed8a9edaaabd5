"""Captions, story books and one's own stories become stories as VIST's do."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from utils.cli import UserError
from utils.readers import read_captions, read_own, read_storybooks


def photos(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(folder / name)


def told(splits):
    """{split: [(story id, album, [(photo id, sentence)])]}"""
    return {
        split: [
            (x["story_id"], x["album_id"], [(b["photo_id"], b["sentence"]) for b in x["beats"]])
            for x in stories
        ]
        for split, (stories, _) in splits.items()
    }


def flickr(folder):
    photos(folder, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    for split, name in (("train", "a"), ("dev", "b")):
        (folder / f"Flickr_8k.{split}Images.txt").write_text(f"{name}.jpg\n")


EXPECTED = {
    "train": [
        ("a#0", "a", [("a", "a dog , black , says `` no '' .")]),
        ("a#1", "a", [("a", "it runs .")]),
    ],
    "val": [("b#0", "b", [("b", "a cat .")])],
}


def test_flickrs_table_and_token_file(tmp_path):
    """A caption's commas and quotes; c.jpg is in no split and left out."""
    flickr(tmp_path)
    rows = ["image,caption", 'a.jpg,"A dog, black, says ""no""."', "a.jpg,It runs."]
    rows += ["b.jpg,A cat.", "c.jpg,A cow."]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    splits, machine = read_captions(tmp_path, "normalized")
    assert told(splits) == EXPECTED and machine == {}
    assert splits["train"][0][0]["beats"][0]["path"] == tmp_path / "images/a.jpg"
    (tmp_path / "captions.csv").unlink()
    lines = ['a.jpg#0\tA dog, black, says "no".', "a.jpg#1\tIt runs.", "b.jpg#0\tA cat."]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join([*lines, "c.jpg#0\tA cow."]))
    assert told(read_captions(tmp_path, "normalized")[0]) == EXPECTED
    typed = told(read_captions(tmp_path, "original")[0])
    assert typed["train"][0][2] == [("a", 'A dog, black, says "no".')]


def test_cocos_captions(tmp_path):
    photos(tmp_path, "val2017/000000000009.jpg")
    data = {"images": [{"id": 9, "file_name": "000000000009.jpg", "height": 3}]}
    data["annotations"] = [{"id": 1, "image_id": 9, "caption": "A cat."}]
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations/captions_val2017.json"
    path.write_text(json.dumps(data))
    splits = read_captions(tmp_path, "normalized")[0]
    name = "000000000009"
    assert told(splits) == {"val": [(f"{name}#0", name, [(name, "a cat .")])]}
    assert splits["val"][0][0]["beats"][0]["path"].is_file()
    data["annotations"][0]["image_id"] = 8
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="no image 8, which has a caption"):
        read_captions(tmp_path, "normalized")


def test_a_hubs_folder_of_images(tmp_path):
    photos(tmp_path, "train/x.jpg", "validation/y.jpg")
    lines = {"train": {"file_name": "x.jpg", "captions": ["A cat.", "Two cats."]}}
    lines["validation"] = {"file_name": "y.jpg", "text": "A dog."}
    for split, line in lines.items():
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(line) + "\n\n")
    assert told(read_captions(tmp_path, "normalized")[0]) == {
        "train": [("x#0", "x", [("x", "a cat .")]), ("x#1", "x", [("x", "two cats .")])],
        "val": [("y#0", "y", [("y", "a dog .")])],
    }


def test_vists_descriptions(tmp_path):
    (tmp_path / "dii").mkdir()
    entry = {"photo_flickr_id": "7", "album_id": "3", "text": "a cat .", "tier": "dii"}
    data = json.dumps({"annotations": [[entry], [entry | {"text": "an owl ."}]]})
    (tmp_path / "dii/test.description-in-isolation.json").write_text(data)
    found = told(read_captions(tmp_path, "normalized")[0])
    assert found == {"test": [("7#0", "7", [("7", "a cat .")]), ("7#1", "7", [("7", "an owl .")])]}


def test_stories_of_ones_own(tmp_path):
    lines = [
        {"story_id": "s", "photos": ["d/a.jpg", None], "sentences": ["A cat.", "It sat."],
         "split": "dev", "label": "cats"},
        {"story_id": 2, "album_id": "t", "photos": ["b.jpg"], "sentences": [" . "],
         "split": "train"},
        {"story_id": 3, "album_id": "t", "photos": ["b.jpg"], "sentences": ["a cat ."],
         "split": "train"},
    ]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    splits = read_own(path, "normalized")[0]
    assert told(splits) == {
        "val": [("s", "s", [("d/a.jpg", "a cat ."), (None, "it sat .")])],
        "train": [("3", "t", [("b.jpg", "a cat .")])],
    }
    (story,), _ = splits["val"]
    assert story["label"] == "cats" and story["beats"][0]["path"] == tmp_path / "d/a.jpg"
    assert splits["train"][1] == Counter({"left out: an empty sentence": 1})


def test_stories_without_a_split_are_split_by_album(tmp_path):
    path = tmp_path / "own.jsonl"
    lines = [
        {"story_id": f"{a}-{i}", "album_id": a, "photos": [None], "sentences": ["a cat ."]}
        for a in map(str, range(200))
        for i in range(2)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    splits = read_own(path, "normalized")[0]
    albums = {split: {x["album_id"] for x in stories} for split, (stories, _) in splits.items()}
    assert sum(map(len, albums.values())) == 200  # no album is in two
    assert {name: len(x) for name, x in albums.items()} == {"train": 181, "val": 11, "test": 8}


def write_book(folder, number, pages, pictures):
    text = "# A tall man\n\n" + "".join(f"##\n{page}\n\n" for page in pages)
    text += "##\n* License: [CC-BY]\n* Text: Somebody\n"
    (folder / "asp-source/en").mkdir(parents=True, exist_ok=True)
    (folder / f"asp-source/en/{number}_a-tall-man.md").write_text(text)
    names = [f"asp-imagebank/medium/{number}/{i:02}.jpg" for i in range(1, pictures + 1)]
    photos(folder, *names)


def test_story_books(tmp_path):
    """Picture 01 is the cover; a page without words leaves its picture out; credits are kept."""
    write_book(tmp_path, "0001", ["He was tall.", "", "He\nslept!"], 4)
    write_book(tmp_path, "0002", ["One.", "Two."], 2)  # a picture short
    splits = read_storybooks(tmp_path, "normalized")[0]
    ((story,), remarks) = splits["train"]
    assert told(splits) == {
        "train": [("0001", "0001", [("0001/02", "he was tall ."), ("0001/04", "he slept !")])]
    }
    assert story["beats"][1]["path"].name == "04.jpg" and story["title"] == "A tall man"
    assert story["credits"] == ["License: [CC-BY]", "Text: Somebody"]
    assert remarks == Counter({"left out: pictures that do not fit the pages": 1})


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1: not JSON"),
        ("[]", "expected a story of one's own"),
        ('{"story_id": 1, "photos": ["a.jpg"]}', 'has no "sentences"; expected a list of texts'),
        ('{"story_id": 1, "photos": [], "sentences": []}', '"photos" is \\[\\]; expected a list'),
        ('{"story_id": 1, "photos": ["a"], "sentences": ["b", "c"]}', "1 photos and 2 sentences"),
        ('{"story_id": 1, "photos": ["../a"], "sentences": ["b"]}', "expected a path within"),
        ('{"story_id": 1, "photos": ["/a"], "sentences": ["b"]}', "expected a path within"),
        ('{"story_id": 1, "photos": [null], "sentences": ["b"], "split": "x"}', "split 'x'; exp"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(line, message, tmp_path):
    (tmp_path / "own.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        read_own(tmp_path / "own.jsonl", "normalized")


def test_captions_that_are_none(tmp_path):
    with pytest.raises(UserError, match="no captions.csv, .* expected captions"):
        read_captions(tmp_path, "normalized")
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,b,c\n")
    with pytest.raises(UserError, match="expected a header image,caption and two fields"):
        read_captions(tmp_path, "normalized")
    with pytest.raises(UserError, match="no books in asp-source/en"):
        read_storybooks(tmp_path, "normalized")


@pytest.mark.skipif("FLICKR8K" not in os.environ, reason="FLICKR8K names no folder")
def test_flickr8k_itself():
    splits = read_captions(Path(os.environ["FLICKR8K"]), "normalized")[0]
    counts = {split: len(stories) for split, (stories, _) in splits.items()}
    assert counts == {"train": 30000, "val": 5000, "test": 5000}
    assert all(x["beats"][0]["path"].is_file() for x in splits["test"][0])


@pytest.mark.skipif("STORYBOOKS" not in os.environ, reason="STORYBOOKS names no folder")
def test_the_story_books_themselves():
    splits = read_storybooks(Path(os.environ["STORYBOOKS"]), "normalized")[0]
    counts = {split: len(stories) for split, (stories, _) in splits.items()}
    assert counts == {"train": 270, "val": 16, "test": 16}
    assert sum(splits["train"][1].values()) == 14
