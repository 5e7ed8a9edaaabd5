"""Small models and stories that the tests share. Everything is made here; nothing is downloaded."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two tests at a time, a core each

import importlib
import random
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import cli

ROOT = Path(__file__).parent.parent
WORDS = "a the fox bear kite boat found lost ran home sun rain and then we saw it was red blue . , !".split()


def random_sentences(rng, beats, longest=9):
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(beats)]


@pytest.fixture(scope="session")
def tokenizer():
    from dataset import train_tokenizer

    return train_tokenizer(random_sentences(random.Random(0), 400), vocab_size=320)


@pytest.fixture
def make_model(tokenizer):
    """make_model(**PlanCVAEConfig fields): a small model with random weights, in eval mode."""

    def make(seed=0, **fields):
        from model import ImageEncoder, PlanCVAE

        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=256,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=2, grid=1)
        fields = {"foresight": True, "image_slots": 3, "plan_size": 6, "eos_token_id": tokenizer.eos_token_id} | fields
        model = PlanCVAE.build(GPT2LMHeadModel(config), encoder, **fields)
        with torch.no_grad():  # far from the small initial weights, so that every path leaves a trace in the numbers
            for name, p in model.named_parameters():
                if name.startswith(("decoder", "dynamics.")) and p.dim() > 1:
                    p.mul_(4)
        return model.eval()

    return make


@pytest.fixture
def make_stories(tokenizer):
    """make_stories(model, beats=[…]): a StoryDataset of random stories and photo features, some photos missing."""

    def make(model, beats, seed=0, missing=0.2):
        from dataset import StoryDataset

        rng = random.Random(seed)
        rows = iter(range(sum(beats)))
        stories = [
            {
                "story_id": str(i),
                "album_id": str(i // 2),
                "beats": [
                    {"photo_id": str(i), "photo": None if rng.random() < missing else next(rows), "sentence": sentence}
                    for sentence in random_sentences(rng, count)
                ],
            }
            for i, count in enumerate(beats)
        ]
        size = model.image_encoder.config.feature_size
        photos = torch.randn(sum(beats), size, generator=torch.Generator().manual_seed(seed))
        return StoryDataset(stories, photos, tokenizer, model.config.image_slots, model.max_length)

    return make


@pytest.fixture
def script(monkeypatch, capsys):
    """script("train.py", *arguments): what the command would do, in this process (importing torch takes seconds).

    Returns an object with returncode, stdout and stderr.
    """

    def run(name, *arguments, cwd=None):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [name, *map(str, arguments)])
            if cwd:
                patch.chdir(cwd)
            capsys.readouterr()
            with pytest.raises(SystemExit) as stop:
                cli.run(importlib.import_module(Path(name).stem).main)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code or 0, stdout=out, stderr=err)

    return run


def batch_of(dataset, numbers, tokenizer):
    from dataset import collate

    return collate([dataset[i] for i in numbers], tokenizer.pad_token_id)
