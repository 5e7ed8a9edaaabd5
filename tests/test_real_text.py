"""A small pretrained GPT-2 on real stories: what it loses by being told in beats, and what it wins
by being pretrained. Slow; prints its figures:

    python -m pytest -n 0 -s -m slow tests/test_real_text.py

A GPT-2 with GPT-2's tokenizer is pretrained first, on a core in half an hour; SMALL_GPT2 names a
folder that keeps it.
"""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_gpt2 import pretrain
from test_pretrained import build, nll_of_words
from transformers import GPT2LMHeadModel

from dataset import StoryDataset, collate
from utils.image_encoder import ImageEncoder
from utils.text import split_sentences
from utils.tokenizer import decode, encode, load_tokenizer

pytestmark = pytest.mark.slow


def real(variable):
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder")
    return Path(os.environ[variable])


def human_stories():
    texts = (real("JUDGEMENTS") / "union_roc_human_stories.txt").read_text().splitlines()
    return [text.strip() for text in texts if text.strip()]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of the small pretrained GPT-2, and its tokenizer."""
    tokenizer = load_tokenizer(real("GPT2_TOKENIZER"))
    folder = Path(os.environ.get("SMALL_GPT2", tmp_path_factory.mktemp("small") / "gpt2"))
    if not folder.is_dir():
        decoder = pretrain(tokenizer, human_stories(), steps=900, batch_size=8)
        decoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder, tokenizer


@pytest.fixture(scope="module")
def data(small, tmp_path_factory):
    """VIST's text as splits without photos: 900 albums to train on, 98 to validate, 64 stories of
    those, and 32 to write."""
    folder = tmp_path_factory.mktemp("vist_text")
    references = json.loads((real("VIST_TEXT") / "val_reference.json").read_text())
    albums = sorted(references)
    small[1].save_pretrained(folder / "tokenizer")
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(folder / "image_encoder")
    stories = [
        {
            "story_id": f"{album}-{i}",
            "album_id": album,
            "beats": [
                {"photo_id": None, "photo": None, "sentence": sentence}
                for sentence in split_sentences(text)
            ],
        }
        for album in albums
        for i, text in enumerate(references[album])
    ]
    splits = {"train": stories[:4500], "val": stories[4500:], "val64": stories[4500::7][:64]}
    splits["val32"] = splits["val64"][::2]
    for split, chosen in splits.items():
        photos = {"file": f"{split}.safetensors", "kind": "features"}
        about = {"format": 1, "source": "VIST", "split": split, "photos": photos}
        (folder / f"{split}.json").write_text(json.dumps(about | {"stories": chosen}))
        features = torch.zeros(1, encoder.config.feature_size).half()
        save_file({"photos": features}, folder / f"{split}.safetensors")
    return folder


def test_the_small_one_starts_as_itself(small, tmp_path):
    """Each word of a sentence without photos is as likely as under the decoder alone."""
    folder, tokenizer = small
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(tmp_path / "data/image_encoder")
    bare = GPT2LMHeadModel.from_pretrained(folder).eval()
    model, eos = build(folder, tokenizer, tmp_path / "data"), tokenizer.eos_token_id
    worst = 0.0
    for words in encode(tokenizer, human_stories()[-100:]):
        with torch.no_grad():
            ours, _ = nll_of_words(model, [words], eos, image_positions=0)
            logits = bare(torch.tensor([[eos, *words]])).logits[0]
        expected = -logits.log_softmax(-1).gather(1, torch.tensor([*words, eos])[:, None])[:, 0]
        worst = max(worst, (ours - expected).abs().max().item())
    print(f"largest difference of a word's NLL: {worst:.1e}")
    assert worst < 1e-4


def test_what_beats_cost_a_pretrained_decoder(small, tmp_path):
    """Nats per token of 200 held-out stories without photos, against the decoder alone on the same
    running text, by what is put between its words."""
    folder, tokenizer = small
    eos, stories = tokenizer.eos_token_id, human_stories()[-200:]
    encoder = ImageEncoder.build("resnet18", "none", image_size=32, stages=1)
    encoder.save_pretrained(tmp_path / "data/image_encoder")
    bare = GPT2LMHeadModel.from_pretrained(folder).eval()
    model = build(folder, tokenizer, tmp_path / "data")
    sums, counts = Counter(), Counter()

    def add(name, losses, is_first):
        for part, mask in (("", is_first >= 0), (" first words", is_first == 1)):
            sums[name + part] += losses[mask].sum().item()
            counts[name + part] += int(mask.sum())

    for text in stories:
        sentences = encode(tokenizer, split_sentences(text))
        words = [word for sentence in sentences for word in sentence]
        is_first = [int(t > 0 and i == 0) for t, x in enumerate(sentences) for i in range(len(x))]
        is_first = torch.tensor(is_first)
        with torch.no_grad():
            logits = bare(torch.tensor([[eos, *words[:-1]]])).logits[0]
            losses = -logits.log_softmax(-1).gather(1, torch.tensor(words)[:, None])[:, 0]
            add("bare", losses, is_first)
            for image_positions in (0, 1, 4):
                losses, packed = nll_of_words(model, sentences, eos, image_positions)
                name = f"[bos], [dyn], {image_positions} image positions"
                add(name, losses[packed["is_word"]], is_first)
    for name in sums:
        print(f"{name:45} {sums[name] / counts[name]:.3f} nats per token, {counts[name]} tokens")
    cost = (sums["[bos], [dyn], 4 image positions"] - sums["bare"]) / counts["bare"]
    print(f"beats cost {cost:.3f} nats per token")
    assert cost < 0.3


OPTIONS = ["--batch_size", 16, "--logging_steps", 20]
SIZES = ["--n_layer", 4, "--n_embd", 256, "--n_head", 4, "--n_positions", 512]


def train_on(data, script, output, validation, *arguments):
    paths = [
        "--train_data_path",
        data / "train.json",
        "--val_data_path",
        data / f"{validation}.json",
    ]
    done = script("train.py", *paths, "--output_dir", output, *OPTIONS, *arguments)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("split") == "val"]


def test_the_first_steps_do_not_forget(small, data, script, tmp_path):
    """The NLL on 64 fixed stories, before the first step and after each of 20."""
    lines = train_on(
        data, script, tmp_path / "out", "val64", "--decoder", small[0], "--max_steps", 20,
        "--eval_steps", 1, "--resume",
    )  # fmt: skip
    per_token = [line["nll"] * line["stories"] / line["tokens"] for line in lines]
    model = build(small[0], small[1], data)
    positions = model.config.image_positions, model.max_length
    dataset = StoryDataset.load(data / "val64.json", small[1], *positions)
    batch = collate([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        out = model(**batch)
    per_token.insert(0, out.nll.item() / out.tokens.item())
    assert len(per_token) == 21
    print("NLL per token:", " ".join(f"{x:.3f}" for x in per_token))
    assert max(per_token) <= per_token[0] + 0.2


def test_a_pretrained_decoder_is_ahead_of_one_from_scratch(small, data, script, tmp_path):
    folder = Path(os.environ.get("SMALL_GPT2_RUNS", tmp_path))
    steps = int(os.environ.get("SMALL_GPT2_STEPS", 200))
    curves = {}
    for name, options in (("pretrained", ["--decoder", small[0]]), ("scratch", SIZES)):
        lines = train_on(
            data, script, folder / name, "val", *options, "--max_steps", steps, "--eval_steps",
            steps // 4, "--iwae_samples", 4, "--resume",
        )  # fmt: skip
        curves[name] = [line["iwae_loss"] * line["stories"] / line["tokens"] for line in lines]
        print(name, "bound, nats per token:", " ".join(f"{x:.3f}" for x in curves[name]))
    assert all(np.array(curves["pretrained"]) < curves["scratch"])


SETTINGS = {
    "greedy": ["--decoding", "greedy", "--no_repeat_ngram_size", 0],
    "greedy, no 3-gram twice": ["--decoding", "greedy", "--no_repeat_ngram_size", 3],
    "3 beams": ["--decoding", "beam", "--num_beams", 3, "--no_repeat_ngram_size", 0],
    "3 beams, no 3-gram twice (default)": [],
    "3 beams, no 3-gram twice, length penalty 2": ["--decoding", "beam", "--length_penalty", 2],
    "3 beams, no 3-gram twice, at least 8 tokens": ["--min_new_tokens", 8],
    "nucleus .9": ["--decoding", "nucleus", "--no_repeat_ngram_size", 0],
    "nucleus .9, no 3-gram twice": ["--decoding", "nucleus", "--no_repeat_ngram_size", 3],
}


def measure(stories):
    """Of stories (lists of sentences): trigrams that occur before in their story, words per story,
    and stories in which two sentences begin with the same word."""
    repeated, words, alike = [], [], []
    for sentences in stories:
        tokens = [sentence.split() for sentence in sentences]
        grams = [tuple(x[i : i + 3]) for x in tokens for i in range(len(x) - 2)]
        repeated.append(len(grams) - len(set(grams)))
        words.append(sum(map(len, tokens)))
        firsts = [x[0] for x in tokens if x]
        alike.append(len(set(firsts)) < len(firsts))
    return np.mean(repeated), np.mean(words), np.mean(alike)


def test_settings_of_generation_on_vists_text(small, data, script, tmp_path):
    """The fine-tuned model writes 32 stories, under sampled plans."""
    folder = Path(os.environ.get("SMALL_GPT2_RUNS", tmp_path)) / "pretrained"
    if not folder.is_dir():
        pytest.skip("SMALL_GPT2_RUNS holds no fine-tuned model")
    human = json.loads((data / "val32.json").read_text())["stories"]
    human = [[beat["sentence"] for beat in story["beats"]] for story in human]
    figures = {"people": measure(human)}
    for name, options in SETTINGS.items():
        target = tmp_path / "stories.json"
        arguments = ["--data_path", data / "val32.json", "--checkpoint", folder, "--seed", 1]
        arguments += ["--plan", "sample", "--output", target, "--batch_size", 16]
        done = script("generate.py", *arguments, *options)
        assert done.returncode == 0, done.stderr
        stories = json.loads(target.read_text())["stories"]
        figures[name] = measure([story["sentences"] for story in stories])
        print(name, "|", " / ".join(stories[0]["sentences"]))
    for name, (repeated, words, alike) in figures.items():
        print(f"{name:45} {repeated:6.2f} repeated trigrams, {words:5.1f} words per story, "
              f"{alike:4.0%} begin two sentences alike")  # fmt: skip
    default = figures["3 beams, no 3-gram twice (default)"]
    assert default[0] < figures["3 beams"][0] and default[2] > 0.2


def test_words_are_the_same_there_and_back(small):
    tokenizer, texts = small[1], human_stories()[:500]
    assert decode(tokenizer, encode(tokenizer, texts)) == texts
