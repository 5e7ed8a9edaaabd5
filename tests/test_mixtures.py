"""Several training splits by weight: shares, resuming, processes, what does not go together."""

import json
import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import train
from utils.batches import BucketBatches

SMALL = "--n_layer 1 --n_head 2 --n_embd 16 --n_positions 96 --image_positions 2 --plan_size 4"
SMALL = [*SMALL.split(), "--batch_size", "4"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Two preprocessed data sets of one tokenizer and image encoder, and one of another."""
    import dataset

    folder = tmp_path_factory.mktemp("mixture")
    for name, count, colour in (("a", 12, "red"), ("b", 6, "blue"), ("c", 6, "green")):
        (folder / name).mkdir()
        Image.new("RGB", (40, 40), colour).save(folder / name / "p.jpg")
        lines = [
            {"story_id": f"{name}{i}", "photos": ["p.jpg", None], "split": split,
             "sentences": [f"a {colour} kite {i} .", "the dog ran home ."]}
            for i in range(count)
            for split in (("train", "val") if i < 3 else ("train",))
        ]  # fmt: skip
        (folder / f"{name}/stories.jsonl").write_text("\n".join(map(json.dumps, lines)))
        tokenizer = "bpe" if name in "ac" else str(folder / "a_data/tokenizer")
        options = ["--stories", f"{folder}/{name}/stories.jsonl", "--tokenizer", tokenizer]
        options += ["--vocab_size", "300"] if tokenizer == "bpe" else []
        options += "--image_encoder resnet18 --encoder_weights none --image_size 32".split()
        options += ["--num_workers", "1", "--output", f"{folder}/{name}_data"]
        assert dataset.main(options) == 0
    return folder


def test_batches_have_the_shares_asked_for():
    """To a story in each epoch; no story of a split comes again before all its others have."""
    sizes, weights = [30, 600], [1, 2]
    batches = BucketBatches([20] * 630, 7, seed=1, sizes=sizes, weights=weights)
    seen = Counter()
    for epoch in range(4):
        batches.set_epoch(epoch)
        drawn = [int(i) for batch in batches for i in batch if i >= 0]
        assert len(drawn) == 630
        assert sum(i < 30 for i in drawn) == 210
        seen.update(drawn)
        assert max(seen[i] for i in range(30)) - min(seen[i] for i in range(30)) <= 1
    again = BucketBatches([20] * 630, 7, seed=1, sizes=sizes, weights=weights)
    again.set_epoch(3)
    assert [list(x) for x in again] == [list(x) for x in batches]


def run(script, splits, output, *options, names=("a", "b")):
    paths = [splits / f"{name}_data" for name in names]
    data = ["--train_data_path", *(path / "train.json" for path in paths)]
    data += ["--val_data_path", *(path / "val.json" for path in paths)]
    return script("train.py", *data, "--output_dir", output, *SMALL, *options)


def test_a_mixture_resumes_as_if_it_had_not_stopped(script, splits, tmp_path, monkeypatch):
    options = ["--train_data_weights", 1, 2, "--eval_steps", 3]
    done = run(script, splits, tmp_path / "whole", "--max_steps", 9, *options)
    assert done.returncode == 0, done.stderr
    assert "training, 33.3% from" in done.stdout and "validation of b_data: 3" in done.stdout
    lines = map(json.loads, (tmp_path / "whole/log.jsonl").read_text().splitlines())
    assert [x["step"] for x in lines if x.get("split") == "val of b_data"] == [3, 6, 9]
    take_step = train.Training.take_step

    def stopped(training, batches):
        if training.progress["step"] == 4 and not training.resumed:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(training, batches)

    monkeypatch.setattr(train.Training, "take_step", stopped)
    done = run(script, splits, tmp_path / "parts", "--max_steps", 9, *options)
    assert done.returncode == 128 + signal.SIGTERM
    done = run(script, splits, tmp_path / "parts", "--max_steps", 9, *options, "--resume")
    assert done.returncode == 0, done.stderr
    whole, parts = (
        load_file(tmp_path / name / "latest/model.safetensors") for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_moments_are_those_of_the_shares(splits):
    from dataset import StoryDataset
    from utils.loading import load_encoder
    from utils.mixture import Mixture
    from utils.tokenizer import load_data_tokenizer

    paths = [splits / f"{name}_data/train.json" for name in "ab"]
    tokenizer = load_data_tokenizer(splits / "a_data/tokenizer")
    encoder = load_encoder(splits / "a_data/image_encoder")
    sets = [StoryDataset.load(path, tokenizer, 2, 96, encoder) for path in paths]
    mean, var = Mixture(sets, paths).moments([1, 3])
    rows = [s.photos[0].double().numpy() for s in sets]
    drawn = np.stack([rows[0], *[rows[1]] * 3])
    torch.testing.assert_close(mean.double(), torch.from_numpy(drawn.mean(0)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(var.double(), torch.from_numpy(drawn.var(0)), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "names, options, message",
    [
        ("ac", [], "c_data/train.json: of another tokenizer than"),
        ("ab", ["--train_data_weights", 1], "--train_data_weights 1: of 2 training splits; expec"),
        ("ab", ["--train_data_weights", 1, 0], "--train_data_weights 1 0: expected numbers abo"),
    ],
)
def test_what_does_not_go_together_is_one_line(names, options, message, script, splits, tmp_path):
    done = run(script, splits, tmp_path / "out", *options, names=names)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_cell_has_a_position_of_its_own(make_model):
    """One projection of each cell, as a linear layer over its channels alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from model import PlanCVAE
    from utils.image_encoder import ImageEncoder

    torch.manual_seed(0)
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1, grid=2)
    sizes = dict(n_embd=16, n_layer=1, n_head=2, n_positions=64, vocab_size=30, eos_token_id=0)
    decoder = GPT2LMHeadModel(GPT2Config(**sizes))
    model = PlanCVAE.build(decoder, encoder, photo_projection="cell").eval()
    assert model.config.image_positions == 4
    assert model.photo_projection.weight.shape == (16, 64)
    features = torch.randn(1, 1, 64 * 4)
    with torch.no_grad():
        found = model.project_photos(features, torch.ones(1, 1, dtype=torch.bool))
        by_channel = features[0, 0].view(64, 4) / (1 + 1e-5) ** 0.5
        for cell in range(4):
            expected = model.photo_projection(by_channel[:, cell])
            torch.testing.assert_close(found[0, 0, cell], expected)
