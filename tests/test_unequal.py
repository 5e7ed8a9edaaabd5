"""Trainings on stories of unequal numbers of beats: VIST-Edit in its own format, one to seven."""

import json

import pytest
from made_data import write_vist, write_vist_edit

from utils.dataset_options import PREPROCESSED

SMALL_DATA = "--image_encoder resnet18 --encoder_weights none --image_size 32 --tokenizer bpe"
SMALL_MODEL = "--n_layer 1 --n_head 2 --n_embd 32 --image_positions 2 --plan_size 8 --batch_size 4"
TERMS = ("nll", "kl", "bow", "future_bow", "photo_bow", "state_bow", "dynamics")


@pytest.fixture
def train(script, tmp_path):
    """train(dataset.py's source, its folder, *train.py's options): the training's log."""

    def run(source, folder, *options):
        small = [*SMALL_DATA.split(), "--vocab_size", 600, "--num_workers", 1]
        done = script("dataset.py", f"--{source}", folder, *small, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        data = tmp_path / PREPROCESSED / source
        done = script("train.py", "--train_data_path", data / "train.json", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, (tmp_path / "output" / "log.jsonl").read_text().splitlines())
        return json.loads((data / "train.json").read_text())["stories"], list(lines)[1:]

    return run


def mean(lines, term):
    return sum(line[term] for line in lines) / len(lines)


def check_curves(lines):
    """No term grows: the mean of a term over the last tenth of the training is at most a quarter
    above the least that a later tenth has had. What is learned falls."""
    of_train = [line for line in lines if line["split"] == "train"]
    size = len(of_train) // 10
    tenths = [of_train[at : at + size] for at in range(0, 10 * size, size)]
    for term in TERMS:
        curve = [mean(tenth, term) for tenth in tenths]
        print(f"{term:10}", *(f"{value:8.2f}" for value in curve))
        assert curve[-1] < 1.25 * max(min(curve[2:]), 0.05), (term, curve)
        if term in ("nll", "dynamics"):  # the bags' weights fade, and β lets the KL rise at first
            assert curve[-1] < curve[1], (term, curve)


def test_vist_edit_is_trained_at_the_defaults_of_the_objective(train, tmp_path):
    write_vist_edit(tmp_path, files=40)
    options = [*SMALL_MODEL.split(), "--max_steps", 200, "--eval_steps", 200, "--logging_steps", 4]
    stories, lines = train("vist_edit", tmp_path / "VIST-Edit", *options)
    assert {len(story["beats"]) for story in stories} == {1, 2, 3, 4, 5}
    check_curves(lines)


@pytest.mark.slow
def test_vist_edit_at_its_real_size_for_three_epochs_at_all_defaults(train, tmp_path):
    """Some eight minutes on two cores."""
    write_vist_edit(tmp_path, files=2981)
    _, lines = train("vist_edit", tmp_path / "VIST-Edit", "--num_train_epochs", 3)
    check_curves(lines)


@pytest.mark.slow
def test_one_to_seven_beats_for_2000_steps_at_all_defaults(train, tmp_path):
    """Captions beside stories, in every batch. Some eight minutes on two cores."""
    write_vist(tmp_path / "VIST", {"train": 4000, "val": 200}, lengths=[1, 1, 1, 2, 3, 4, 5, 6, 7])
    stories, lines = train("vist", tmp_path / "VIST", "--max_steps", 2000)
    assert {len(story["beats"]) for story in stories} == {1, 2, 3, 4, 5, 6, 7}
    check_curves(lines)
