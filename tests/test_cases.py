"""What people really feed it: each test is a fault that was found in the field."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import ROOT
from made_data import write_vist
from PIL import Image

from model import load_checkpoint
from utils import cli, loading
from utils.albums import read_folder
from utils.cli import UserError
from utils.files import atomic_write
from utils.image_encoder import ImageEncoder
from utils.photos import load_photo, natural, photo_files
from utils.screen import vist_submission
from utils.stories import read_stories
from utils.story_files import read_edits
from utils.text import split_sentences


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("hooray ! ! we won ! ! then we slept .", ["hooray ! !", "we won ! !", "then we slept ."]),
        ('he said , " stop ! " she ran .', ['he said , " stop ! "', "she ran ."]),
        ('" go ! " she said . he ran .', ['" go ! "', "she said .", "he ran ."]),
        ("`` go ! '' she said .", ["`` go ! ''", "she said ."]),
        ("... and then . we slept . . .", ["... and then .", "we slept . . ."]),
        ("we ran . ... and then we slept .", ["we ran .", "... and then we slept ."]),
        ("( we slept . ) he ran .", ["( we slept . )", "he ran ."]),
        ("! ! !", ["! ! !"]),
        ("Hooray!! We won. ”", ["Hooray!!", "We won. ”"]),
    ],
)
def test_marks_are_no_sentence_of_their_own(text, sentences):
    assert split_sentences(text) == sentences


def test_a_submissions_sentences_stand_with_their_photos(tmp_path):
    story = {
        "album_id": "1",
        "photo_sequence": ["a", "b", "c"],
        "story_text_normalized": "hooray ! ! we won ! ! then we slept .",
    }
    path = tmp_path / "vist.json"
    path.write_text(json.dumps({"team_name": "t", "output_stories": [story]}))
    (read,) = read_stories(path).stories
    beats = [(beat["photo_id"], beat["sentence"]) for beat in read["beats"]]
    assert beats == [("a", "hooray ! !"), ("b", "we won ! !"), ("c", "then we slept .")]


def test_an_edits_lone_marks_are_no_beat(tmp_path):
    edits = [["we ran .", ".", "he sat .", "!", "the end ."], ["."], ["we ran .", "he sat ."]]
    data = {
        "photo_sequence_ids": list("abcde"),
        "model": "AREL",
        "auto_story_text_normalized": "we ran . it was . he sat . yes . the end .",
        "edited_stories": [
            {"normalized_edited_story_text_sent": x, "edited_story_text": " ".join(x)}
            for x in edits
        ],
    }
    path = tmp_path / "story.json"
    path.write_text(json.dumps(data))
    remarks = Counter()
    stories, _ = read_edits(path, "normalized", remarks)
    read = [[beat["sentence"] for beat in story["beats"]] for story in stories]
    assert read == [["we ran . .", "he sat . !", "the end ."], ["we ran .", "he sat ."]]
    assert remarks["left out: no sentences"] == 1


def test_names_are_in_the_order_of_ls_v():
    names = ["IMG_7.jpg", "IMG_7 (1).jpg", "IMG_7 (2).jpg", "IMG_10.jpg", "photo.jpg", "photo2.jpg"]
    names += ["photo2a.jpg", "photo10.jpg"]
    assert sorted(reversed(names), key=natural) == names


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder.build("resnet18", "none", image_size=32, stages=1)


def test_hidden_files_are_no_photos_and_no_word_is_said(encoder, tmp_path, capsys):
    for name in ("one.jpg", ".trashed-1700000000-two.jpg"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    (tmp_path / "._one.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert read_folder(tmp_path, encoder, "name")["photo_ids"] == ["one.jpg"]
    assert capsys.readouterr() == ("", "")


def test_jpegs_by_any_of_their_suffixes(encoder, tmp_path, capsys):
    names = ["a.jfif", "b.jpe", "c.JIF", "d.jfi"]
    for name in names:
        Image.new("RGB", (20, 20)).save(tmp_path / name, "JPEG")
    assert read_folder(tmp_path, encoder, "name")["photo_ids"] == names
    assert [path.name for path in photo_files(tmp_path)[0]] == sorted(names)
    assert not capsys.readouterr().err


def test_a_folder_of_folders_says_so(encoder, tmp_path):
    (tmp_path / "summer").mkdir()
    with pytest.raises(UserError, match=r"only folders \(summer\): name one of them"):
        read_folder(tmp_path, encoder, "name")


def test_a_photo_whose_resolution_is_0_by_0_is_turned(tmp_path):
    """Its size is (40, 20) with orientation 6; some versions of Pillow left it sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "sideways.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)
    data = path.read_bytes()
    at = data.index(b"Exif\0\0") + 6
    order = "little" if data[at : at + 2] == b"II" else "big"
    fields = [(0x0112, 3, 1, 6 if order == "little" else 6 << 16), (0x011A, 5, 1, 38)]
    directory = len(fields).to_bytes(2, order)
    for tag, kind, count, value in fields:
        directory += tag.to_bytes(2, order) + kind.to_bytes(2, order)
        directory += count.to_bytes(4, order) + value.to_bytes(4, order)
    tiff = data[at : at + 4] + (8).to_bytes(4, order) + directory + bytes(4) + bytes(8)
    segment = b"Exif\0\0" + tiff
    start = data.index(b"\xff\xe1")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    new = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    path.write_bytes(data[:start] + new + data[start + 2 + length :])
    with Image.open(path) as image:
        assert image.size == (40, 20) and image.getexif()[0x0112] == 6
    assert load_photo(path, 32).size == (20, 40)


def test_all_files_have_the_mode_that_the_umask_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "model") as folder:
            (folder / "deep").mkdir(parents=True)
            for path in (folder / "a", folder / "deep/b"):
                path.touch(mode=0o600)
        with atomic_write(tmp_path / "file") as path:
            path.touch(mode=0o600)
        with atomic_write(tmp_path / "probe") as folder:
            folder.mkdir()
            (folder / "a").touch(mode=0o600)
    finally:
        os.umask(before)
    for name in ("model/a", "model/deep/b", "file", "probe/a"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o640


def test_the_next_command_can_be_pasted(script, tmp_path):
    """With a space in the path of the output, and of the photos."""
    write_vist(tmp_path / "my data", {"train": 2, "val": 2}, [2])
    arguments = ["--vist", tmp_path / "my data", "--output", tmp_path / "my tensors"]
    arguments += ["--tokenizer", "bpe", "--vocab_size", 300, "--image_encoder", "resnet18"]
    arguments += ["--encoder_weights", "none", "--image_size", 32, "--num_workers", 1]
    done = script("dataset.py", *arguments)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1].removeprefix("Next: ")
    assert shlex.split(last) == [
        "python", "train.py", "--train_data_path", f"{tmp_path}/my tensors/train.json",
        "--val_data_path", f"{tmp_path}/my tensors/val.json",
    ]  # fmt: skip
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "my tensors").rglob("*.*")}
    assert np.ptp(list(modes)) == 0


@pytest.mark.parametrize(
    "change, line",
    [
        ({"python": (3, 10, 4)}, "Python 3.10.4: too old; expected 3.11 or newer"),
        ({"transformers": "5.23.1"}, "transformers 5.23.1: too old; expected 5.24 or newer (pip"),
        ({"torch": "2.9.0+cpu"}, "torch 2.9.0+cpu: too old; expected 2.11 or newer (pip install"),
        ({"torch": None}, "torch: not installed; pip install -r requirements.txt"),
    ],
)
def test_what_is_too_old_is_one_line(change, line, monkeypatch, capsys):
    versions = {"torch": "2.11.0", "transformers": "5.100.0.dev0"} | change

    def version(name):
        if versions[name] is None:
            raise importlib.metadata.PackageNotFoundError
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(cli.sys, "version_info", change.get("python", (3, 11, 0)))
    monkeypatch.setattr(cli.sys, "argv", ["train.py"])
    with pytest.raises(SystemExit) as stop:
        cli.parse_before_imports(lambda: None)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"train.py: {line}")


def test_the_versions_asked_for_are_those_of_the_requirements():
    text = (ROOT / "requirements.txt").read_text()
    for name, least in cli.NEEDS.items():
        assert re.search(rf"^{name}>={'.'.join(map(str, least))}(\s|$)", text, re.M)


def test_a_model_is_loaded_by_its_name_on_the_hub(saved_model, tmp_path, monkeypatch):
    """The name of no folder, owner/name; without a network, or of no such model, it is one line."""
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, "model.safetensors" in allow_patterns))
        return str(saved_model)

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="someone/stories: cannot be loaded, neither .* the hub$"):
        load_checkpoint("someone/stories")
    monkeypatch.setattr(loading, "snapshot_download", fetch)
    model, _ = load_checkpoint("someone/stories")
    assert asked == [("someone/stories", True)] and model.config.plan_size == 6
    with pytest.raises(UserError, match="output: no checkpoint there"):
        load_checkpoint("output")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"num_beams": "three"}, "num_beams"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1; expected what"),
        ({"top_p": 7.0, "do_sample": True}, "top_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; expected what"),
        ({"temperature": 0.0, "do_sample": True}, "temperature"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5; expected what"),
        ({"typical_p": 0.5, "do_sample": True}, "typical_p is 0.5, which is not read; expected"),
    ],
)
def test_settings_of_generation_that_are_none_are_one_line(values, message, saved_model, tmp_path):
    shutil.copytree(saved_model, tmp_path / "model")
    (tmp_path / "model/generation_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"model: cannot be loaded .*{message}"):
        load_checkpoint(tmp_path / "model")


def test_a_broken_photo_takes_no_room(encoder, tmp_path):
    for i in range(3):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{i}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"x")
    assert read_folder(tmp_path, encoder, "name", max_photos=3)["num_photos"] == 3
    assert read_folder(tmp_path, encoder, "name", max_photos=2)["num_photos"] == 4


def test_stories_without_photo_ids_are_all_submitted():
    story = {"album_id": "1", "photo_ids": [None, None], "sentences": ["a .", "b ."]}
    submission, num_more = vist_submission([story, story])
    assert len(submission["output_stories"]) == 2 and num_more == 0
