"""Small models and stories that the tests share. Everything is made here; nothing is downloaded."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

os.environ["HF_HUB_OFFLINE"] = "1"
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
        fields = {"image_slots": 3, "plan_size": 6, "eos_token_id": tokenizer.eos_token_id} | fields
        model = PlanCVAE.build(GPT2LMHeadModel(config), encoder, **fields)
        with torch.no_grad():  # far from the small initial weights, so that every path leaves a trace in the numbers
            for name, p in model.named_parameters():
                if not name.startswith("image_encoder") and p.dim() > 1:
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
def script():
    """script("train.py", *arguments): run one of the project's scripts; returns the finished process."""

    def run(name, *arguments, cwd=None, env=None):
        return subprocess.run(
            [sys.executable, ROOT / name, *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=150,
        )  # fmt: skip

    return run


def batch_of(dataset, numbers, tokenizer):
    from dataset import collate

    return collate([dataset[i] for i in numbers], tokenizer.pad_token_id)
