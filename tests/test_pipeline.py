"""The scripts one after the other, as a user calls them."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

import dataset
import train
from experiments.picturebook.writer import make_dataset
from model import load_checkpoint

TINY = "--n_layer 1 --n_head 2 --n_embd 32 --image_positions 2 --plan_size 4".split()
TINY += "--batch_size 4 --max_steps 4".split()


def good(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A picture book, drawn (book) and preprocessed (pixels), and a model of it (model)."""
    folder = tmp_path_factory.mktemp("world")
    book, pixels, model = (folder / name for name in ("book", "pixels", "model"))
    settings = {"stories": {"train": 6, "val": 2, "test": 2}, "stories_per_album": 1}
    make_dataset(book, settings | {"seed": 0, "size": 32}, workers=1)
    small = ["--image_size", "32", "--vocab_size", "600", "--num_workers", "1"]
    dataset.main(["--picturebook", str(book), "--output", str(pixels), *small])
    split = str(pixels / "train.json")
    train.train(train.parse(["--train_data_path", split, "--output_dir", str(model), *TINY]))
    return folder


def test_picture_book_from_drawing_to_score(script, no_meteor, tmp_path):
    book, data, out = tmp_path / "book", tmp_path / "data", tmp_path / "out"
    counts = ["--train", 8, "--val", 2, "--test", 3, "--num_workers", 1]
    good(script("picturebook.py", "--output", book, *counts))
    preprocess = ["dataset.py", "--picturebook", book, "--output", data, "--num_workers", 1]
    good(script(*preprocess))
    assert "complete already" in good(script(*preprocess))
    learn = ["train.py", "--train_data_path", data / "train.json", "--output_dir", out, *TINY]
    assert "best model" in good(script(*learn))
    assert "this training is complete" in good(script(*learn, "--resume"))
    test = ["--data_path", data / "test.json", "--checkpoint", out, "--max_new_tokens", 12]
    good(script("generate.py", *test, cwd=tmp_path))
    stories = json.loads((tmp_path / "output/stories.json").read_text())["stories"]
    assert len(stories) == 3 and all(len(story["sentences"]) == 5 for story in stories)
    figures = tmp_path / "figures.json"
    told = tmp_path / "output/stories.json"
    check = ["picturebook.py", "--check", told, "--world", book, "--json", figures]
    assert "3 stories" in good(script(*check))
    assert json.loads(figures.read_text())["figures"]["beats"][1] == 15
    score = ["CDE_score.py", f"human={data / 'test.json'}", "--checkpoint", out]
    refs = ["--references", book / "references" / "test.json", "--baselines"]
    refs += ["--train_data_path", data / "train.json"]
    said = good(script(*score, f"model={told}", *refs, "--corruptions", cwd=tmp_path))
    for words in (
        "15 of 15",
        "human, bag-of-words agreement",
        "same_album_ending",
        "other_album",
        "human − model",
        "human story",
    ):
        assert words in said, words
    found = json.loads((tmp_path / "output/scores.json").read_text())["systems"]
    value, low, high = found["human"]["figures"]["CDE"]
    assert len(found["human"]["scores"]) == 3 and low <= value <= high
    assert found["human"]["remarks"] == {"that are among their own references": 3}
    assert "copied from training" in found["model"]["figures"]
    text_alone = good(script(*score, "--no_photos", "--reference_log", cwd=tmp_path))
    assert re.search("photos +none", text_alone) and "1.617 chance" in text_alone


def test_features_by_the_eye_of_a_trained_model(world, script, tmp_path):
    book, pixels, model = (world / name for name in ("book", "pixels", "model"))
    out = tmp_path / "out"
    shutil.copytree(model, out)
    features = tmp_path / "features"
    again = ["dataset.py", "--picturebook", book, "--encoder_weights", out, "--output", features]
    again += ["--num_workers", 1]
    good(script(*again, "--store", "features"))
    (out / "something.json").write_text("new")
    assert "complete already" in good(script(*again, "--store", "features"))
    eye = load_checkpoint(out)[0].image_encoder
    seen, kept = (load_file(folder / "test.safetensors")["photos"] for folder in (pixels, features))
    with torch.no_grad():
        torch.testing.assert_close(eye(seen), kept.float(), rtol=2e-3, atol=2e-3)
    data = ["--train_data_path", features / "train.json", "--output_dir", tmp_path / "out2"]
    good(script("train.py", *data, *TINY))
    # A model trained on features keeps the eye, and so tells of pixels too.
    test = [
        "--data_path",
        pixels / "test.json",
        "--max_new_tokens",
        5,
        "--output",
        tmp_path / "s.json",
    ]
    good(script("generate.py", *test, "--checkpoint", tmp_path / "out2"))
    done = script(*again, "--store", "features", "--image_size", 64)
    assert done.returncode == 2
    assert f"--image_size 64: that of --encoder_weights {out} is 32" in done.stderr
    done = script(*again[:4], tmp_path, *again[5:], "--overwrite")
    assert done.returncode == 2
    assert "--encoder_weights" in done.stderr and "no checkpoint there" in done.stderr


def test_photos_of_another_encoder_are_refused(world, script, tmp_path):
    other = ["--output", tmp_path / "48", "--image_size", 48, "--num_workers", 1]
    good(script("dataset.py", "--picturebook", world / "book", *other))
    training, val = world / "pixels" / "train.json", tmp_path / "48" / "val.json"
    paths = ["--train_data_path", training, "--val_data_path", val, "--output_dir", tmp_path / "o"]
    for command in (
        ["train.py", *paths, *TINY],
        ["generate.py", "--data_path", val, "--checkpoint", world / "model"],
        ["CDE_score.py", val, "--checkpoint", world / "model"],
    ):
        done = script(*command, cwd=tmp_path)
        assert done.returncode == 2 and "48/val.json: photos of (3, 48, 48)" in done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "o").exists()


def test_defaults_find_what_lies_there(script, tmp_path):
    """Without arguments the scripts take the newest data and the default output, and say so."""
    done = script("train.py", cwd=tmp_path)
    assert done.returncode == 2 and "bash train.sh" in done.stderr and done.stderr.count("\n") == 1
    done = script("CDE_score.py", cwd=tmp_path)
    assert done.returncode == 2 and "no stories named" in done.stderr
    good(
        script(
            "picturebook.py",
            "--train",
            5,
            "--val",
            2,
            "--test",
            2,
            "--num_workers",
            1,
            cwd=tmp_path,
        )
    )
    assert "Preprocessing" in good(script("dataset.py", "--num_workers", 1, cwd=tmp_path))
    assert "the newest split" in good(script("train.py", *TINY, cwd=tmp_path))
    said = good(script("CDE_score.py", cwd=tmp_path))
    assert "scoring the human stories of dataset/preprocessed/picturebook/test.json" in said
    album = tmp_path / "album"
    album.mkdir()
    for path in sorted((tmp_path / "dataset/picturebook/images/test").iterdir())[:3]:
        shutil.copy(path, album)
    good(script("generate.py", album, "--max_new_tokens", 8, cwd=tmp_path))
    assert "3 of 3" in good(script("CDE_score.py", "output/stories.json", cwd=tmp_path))


def test_real_vist_album(script, tmp_path):
    if "VIST_REAL" not in os.environ:
        pytest.skip("VIST_REAL names no folder with a real VIST album")
    data, out, vist = tmp_path / "data", tmp_path / "out", os.environ["VIST_REAL"]
    small = [
        "--image_encoder",
        "resnet18",
        "--encoder_weights",
        "none",
        "--image_size",
        64,
        "--tokenizer",
        "bpe",
    ]
    said = good(script("dataset.py", "--vist", vist, "--output", data, *small, "--num_workers", 1))
    assert "1 stories, 5 beats; photos: 5 found, 0 missing, 0 broken" in said
    split = data / "train.json"
    good(
        script(
            "train.py",
            "--train_data_path",
            split,
            "--val_data_path",
            split,
            "--output_dir",
            out,
            *TINY,
        )
    )
    good(
        script(
            "generate.py",
            "--data_path",
            split,
            "--checkpoint",
            out,
            "--max_new_tokens",
            8,
            cwd=tmp_path,
        )
    )
    assert "5 of 5" in good(
        script("CDE_score.py", "output/stories.json", "--checkpoint", out, cwd=tmp_path)
    )


@pytest.mark.slow
def test_train_sh_teaches_the_picture_book(tmp_path):
    """The one command, in a copy of the project: what a newcomer is promised. Some ten minutes on
    two cores."""
    for path in [*ROOT.glob("*.py"), ROOT / "train.sh"]:
        shutil.copy(path, tmp_path)
    done = subprocess.run(["bash", "train.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for command in (
        "python generate.py --data_path dataset/preprocessed/picturebook/test.json",
        "python -m experiments.picturebook --check output/stories.json --json check.json",
        "python CDE_score.py --controls",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    figures = json.loads((tmp_path / "check.json").read_text())["figures"]
    for name in ("hero", "colour", "place", "object", "all five beats"):
        right, of = figures[name]
        assert right / of >= 0.97, name
    controls = json.loads((tmp_path / "output/scores.json").read_text())["systems"]["human"][
        "controls"
    ]
    least = {"shuffled": 0.98, "repeated": 0.98, "other_album": 0.85}
    for kind, auc in least.items():
        assert controls[kind]["CDE"]["auc"] >= auc, kind
    again = subprocess.run(["bash", "train.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and "this training is complete" in again.stdout
    assert Path(tmp_path, "output", "training.png").is_file()
