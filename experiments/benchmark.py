"""Time and memory of all that users wait for, beside the reference's way and beside the limit.

    python -m experiments.benchmark                       all; writes output/benchmark.json and .png
    python -m experiments.benchmark training generation   some parts of it
    python -m experiments.benchmark scale                 the same for much data and many GPUs

The reference's way is that of the public code for this model (feizc/Latent-Dynamics), by its cost:
one story at a time, beat by beat, every word from a pass over all that came before. The limit is
the part of the work that no code around it can save, such as a bare GPT-2 over the same tokens.
Weights, words and photos are random: nothing is downloaded.
"""

import argparse
import contextlib
import copy
import gc
import io
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from utils import cli
from utils.cli import RESNETS, UserError
from utils.files import read_json, whole, write_json

PARTS = ("training", "generation", "preprocessing", "scoring", "memory", "startup")

# ------------------------------------------------------------------------------------------ options


def parser():
    parser = cli.Parser(prog="python -m experiments.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all if none is named); scale"
    )
    parser.add_argument(
        "--size",
        choices=("gpt2", "tiny"),
        default="gpt2",
        help="GPT-2 small with ResNet-152; tiny is a rehearsal",
    )
    parser.add_argument("--encoder", choices=RESNETS, help="photo encoder in place of the size's")
    parser.add_argument(
        "--batch_size", type=cli.positive_int, help="stories in a training step; 8, on a GPU 64"
    )
    parser.add_argument(
        "--repetitions", type=cli.positive_int, default=5, help="of each way, after one to warm up"
    )
    parser.add_argument(
        "--threads",
        type=cli.positive_int,
        default=argparse.SUPPRESS,
        help="of torch (default: its own choice)",
    )
    parser.add_argument(
        "--precision", choices=("auto", "no", "bf16"), default="auto", help="auto is bf16 on a GPU"
    )
    parser.add_argument(
        "--compile", action="store_true", help="measure the training by torch.compile too"
    )
    parser.add_argument(
        "--seed", type=cli.natural_int, default=0, help="of weights, words and photos"
    )
    parser.add_argument(
        "--output", default="output/benchmark", help="writes OUTPUT.json and OUTPUT.png"
    )
    parser.add_argument(
        "--noisy", action="store_true", help="measure although other processes are at work"
    )
    return parser


def parse(arguments=None):
    options = parser().parse_intermixed_args(arguments)  # parts and options in any order
    for part in options.parts:
        if part not in (*PARTS, "scale"):
            raise UserError(f"{part}: unknown part; expected {', '.join(PARTS)} or scale")
    output = options.output.removesuffix(".json")
    for path in (output, f"{output}.json", f"{output}.png"):
        if not path.strip() or Path(path).is_dir():
            raise UserError(
                f"--output {options.output}: a folder; expected the name of the files to write"
            )
    return options


if __name__ == "__main__":
    cli.answer_early(parse)

import numpy as np
import psutil
import torch
import torch.nn.functional as F
import torchvision
import transformers
from accelerate.utils import send_to_device
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as torchvision_models
from torchvision import transforms
from transformers import DynamicCache, GenerationConfig, GPT2Config, GPT2LMHeadModel, GPT2Model

import CDE_score
import dataset
from dataset import BucketBatches, StoryDataset, Text, collate, cut
from generate import tell
from model import Draws, ImageEncoder, ImageEncoderConfig, PlanCVAE, PlanCVAEConfig
from utils.checkpoint import quiet_transformers
from utils.processes import best_device, join_team
from utils.report import Table
from utils.tokenizer import SpecialIds, special_ids, train_tokenizer

# (times the reference's speed, share of the limit's) to reach; None: no goal
GOALS = {
    "training, CPU": (6, 0.90),
    "training, GPU": (200, 0.85),
    "greedy": (5, 0.90),
    "beam": (8, 0.90),
    "many": (None, 0.90),
    "preprocessing": (None, 0.90),
    "scoring": (None, 0.85),
}
# goals: generate.py --help; a small story beyond the libraries' import
HELP_SECONDS, GENERATE_SECONDS = (1.0, 2.0)
QUIET = 0.1  # share of the machine that others may use
PATIENCE = 5  # seconds to wait for a machine that is not quiet
# The objective and the optimizer of train.py's defaults (a test holds them together: nothing
# imports train.py).
OBJECTIVE = {
    "bow_weight": 1.0,
    "ahead_weight": 1.0,
    "photo_weight": 0.5,
    "foresight_weight": 1.0,
    "dynamics_weight": 3.0,
    "posterior_dropout": 0.7,
    "photo_dropout": 0.1,
    "free_bits": 0.3,
}
GRAD_CLIP, ADAM_BETAS = 1.0, (0.9, 0.95)
LEARNING_RATE = 5e-5
# What is written: from which beat on, beams (1: greedy), stories at once.
TELLINGS = ((5, 1, 1), (5, 5, 1), (5, 1, 16), (5, 5, 16), (1, 1, 1), (1, 5, 1), (1, 1, 16))
BEATS = 5
# VIST's sentences: mean words, and the lengths that random ones keep between
WORDS, FEWEST, MOST = (13, 4, 30)
VIST_STORIES, VIST_PHOTOS = 40_155, 200_775  # of its training split; a photo for each beat
# published, of bf16 without sparsity, a second
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
OURS, COMPILED, REFERENCE, BARE = "ours", "ours, compiled", "reference", "bare GPT-2"


@dataclass
class Size:
    """What is measured: a model and how much of everything makes one repetition."""

    decoder: dict  # GPT2Config's fields
    special: SpecialIds
    encoder: str
    image_size: int
    image_slots: int
    photos: int  # that are preprocessed
    reference_photos: int  # of them, by the reference's way
    scored: int  # stories


SIZES = {
    "gpt2": Size(
        {"vocab_size": 50263}, SpecialIds(*range(50257, 50263)), "resnet152", 224, 10, 192, 8, 32
    ),
    "tiny": Size(
        {"vocab_size": 306, "n_layer": 2, "n_embd": 32, "n_head": 2},
        SpecialIds(*range(300, 306)),
        "resnet18",
        32,
        3,
        8,
        2,
        6,
    ),
}


@dataclass
class Setup:
    """Where and with what it is measured. It travels to the processes that measure memory."""

    size: Size
    device: torch.device
    bf16: bool
    batch_size: int
    repetitions: int
    threads: int
    seed: int
    compile: bool = False

    @property
    def on_gpu(self):
        return self.device.type == "cuda"

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def wait(self):
        """Until the device has done what it was asked for."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def told(self):
        """It as JSON can hold it."""
        return {**vars(self), "size": vars(self.size), "device": str(self.device)}

    def begin(self):
        """The same start for every part."""
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)


# ---------------------------------------------------------------------------------- a quiet machine


class Others:
    """How much of the machine other processes have used since this object was made."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        """Seconds: on the clock, of all processors at work, of this process and its children that
        have ended."""
        of = psutil.cpu_times()._asdict()
        # a guest's time is in the user's already
        resting = {"idle", "iowait", "guest", "guest_nice"}
        return (
            time.perf_counter(),
            sum(s for name, s in of.items() if name not in resting),
            sum(os.times()[:4]),
        )

    def share(self):
        """0 to 1, of all processors."""
        wall, busy, own = (now - then for now, then in zip(self.now(), self.start))
        return min(1.0, max(0.0, (busy - own) / (wall * psutil.cpu_count())))


def expect_quiet(noisy, patience=PATIENCE):
    """Wait for a quiet machine. Raises UserError where it stays busy, unless `noisy`."""
    for _ in range(patience):
        others = Others()
        time.sleep(1)
        share = others.share()
        if share <= QUIET or noisy:
            break
    if share > QUIET:
        busy = f"other processes use {share:.0%} of this machine; expected at most {QUIET:.0%}"
        if not noisy:
            raise UserError(f"{busy}: end them, or measure all the same with --noisy")
        cli.warn(f"{busy}: figures will be wrong")


# ---------------------------------------------------------------------------------------- measuring


def interleave(ways, setup):
    """Seconds of each way by turns, {name: [one a turn]}, after turn 0 to warm up. ways: {name: a
    function of turn}.

    By turns, so that what slows the machine for a while slows all ways alike.
    """
    seconds = {name: [] for name in ways}
    for turn in range(setup.repetitions + 1):
        for name, way in ways.items():
            setup.wait()
            start = time.perf_counter()
            way(turn)
            setup.wait()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values):
    return {
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
    }


def row(what, unit, seconds, work, goals, ours=OURS):
    """A line of the table. seconds: of `interleave`; work: {way: how many of `unit` it does in a
    call}.

    Ratios are of two ways in the same turn. Of several ways that are neither ours nor the
    reference's, the slowest is the limit: all that they do has to be done.
    """
    rates = {name: work[name] / np.array(times) for name, times in seconds.items()}
    limit = min(
        (n for n in rates if n not in (OURS, COMPILED, REFERENCE)),
        key=lambda n: np.median(rates[n]),
    )
    ratios = {"limit": spread(rates[ours] / rates[limit])}
    if REFERENCE in rates:
        ratios[REFERENCE] = spread(rates[ours] / rates[REFERENCE])
    goals = {
        name: goal
        for name, goal in zip((REFERENCE, "limit"), goals)
        if goal is not None and name in ratios
    }
    return {
        "what": what,
        "unit": unit,
        "seconds": seconds,
        "work": work,
        "ours": ours,
        "limit": limit,
        "goals": goals,
        "rates": {name: spread(of) for name, of in rates.items()},
        "ratios": ratios,
        "met": {name: ratios[name]["median"] >= goal for name, goal in goals.items()},
    }


# -------------------------------------------------------------------------- models, stories, photos


def build_decoder(size):
    """A GPT2LMHeadModel with random weights. Without dropout, which is train.py's default too."""
    ids = {
        "bos_token_id": size.special.bos,
        "eos_token_id": size.special.eos,
        "pad_token_id": size.special.pad,
    }
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**size.decoder, **ids, **dropout))


def build_model(size):
    return PlanCVAE(
        PlanCVAEConfig(
            decoder=build_decoder(size).config.to_dict(),
            image_encoder=ImageEncoderConfig(
                arch=size.encoder, image_size=size.image_size
            ).to_dict(),
            image_slots=size.image_slots,
            foresight=True,
            eos_token_id=size.special.eos,
        )
    )


class RandomStories(StoryDataset):
    """Stories of random words and photo features, as long as VIST's."""

    def __init__(self, count, size, feature_size, beats=BEATS, seed=0):
        rng = np.random.default_rng(seed)
        lengths = np.clip(rng.poisson(rng.gamma(6, WORDS / 6, count * beats)), FEWEST, MOST)
        words = rng.integers(0, min(size.special), lengths.sum(), dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(lengths)]), np.arange(0, count * beats + 1, beats)
        photos = torch.randn(
            count * beats, feature_size, generator=torch.Generator().manual_seed(seed)
        )
        text = Text(words, *starts, np.arange(count * beats))
        super().__init__(
            None,
            photos,
            size.special,
            size.image_slots,
            beats * (size.image_slots + MOST + 3),
            text,
        )

    def as_read(self, i, device):
        """What the reference reads of a story: ids of each sentence, special tokens and all, and
        photos (T, F)."""
        sentences = [spoken(words, self.special, device) for words in self.sentences(i)]
        return sentences, self[i]["photos"].to(device)


def spoken(words, special, device):
    return torch.tensor([special.bos, *words, special.eos, special.dyn], device=device)


def draw_photos(folder, count, seed):
    """JPEG files of VIST's usual size, {id: path}: smooth noise, with some grain."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + rng.normal(
            0, 6, (375, 500, 3)
        )
        Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
    return {str(i): folder / f"{i}.jpg" for i in range(count)}


# ------------------------------------------------------------------------------ the reference's way


class Reference(nn.Module):
    """How the public reference computes, by its cost: one story, beat by beat, with heads of its
    own."""

    def __init__(self, config, feature_size, image_slots):
        super().__init__()
        D, V = config.n_embd, config.vocab_size
        self.decoder = GPT2Model(config)
        self.dynamics = GPT2Model(
            GPT2Config(
                n_embd=D,
                n_head=config.n_head,
                n_layer=2,
                vocab_size=1,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.project = nn.Sequential(
            nn.Linear(feature_size, image_slots * D // 2),
            nn.Tanh(),
            nn.Linear(image_slots * D // 2, image_slots * D),
            nn.Tanh(),
        )
        self.word_head = nn.Linear(2 * D, V)  # over [h; z]
        self.bow_head = nn.Linear(D, V)

    def embed(self, sentences, photos):
        """Sentences (1-D ids, special tokens and all) after their photos (F each) -> embeddings (1,
        L, D)."""
        parts = []
        for words, photo in zip(sentences, photos):
            parts += [
                self.project(photo).view(-1, self.decoder.config.n_embd),
                self.decoder.wte(words),
            ]
        return torch.cat(parts)[None]

    def read(self, sentences, photos):
        """States (L, D), where each sentence ends, and the state foreseen for the end of the next
        (T, D)."""
        states = self.decoder(inputs_embeds=self.embed(sentences, photos), use_cache=False)[0][0]
        slots = (len(states) - sum(map(len, sentences))) // len(sentences)
        ends = list(itertools.accumulate(slots + len(words) for words in sentences))
        foreseen = self.dynamics(
            inputs_embeds=states[[end - 1 for end in ends]][None], use_cache=False
        )[0][0]
        return states, ends, foreseen

    def train_on(self, sentences, photos, optimizer, autocast):
        """A step for each beginning of the story: words of all its sentences, their bags, the
        dynamics."""
        for beats in range(2, len(sentences) + 1):
            with autocast():
                states, ends, foreseen = self.read(sentences[:beats], photos[:beats])
                loss = F.mse_loss(foreseen[:-1], states[[end - 1 for end in ends[1:]]])
                for t, words in enumerate(sentences[:beats]):
                    before = states[ends[t] - len(words) : ends[t] - 1]
                    plan = foreseen[t].expand(len(before), -1)
                    loss = loss + F.cross_entropy(
                        self.word_head(torch.cat([before, plan], -1)).float(), words[1:]
                    )
                    loss = (
                        loss - self.bow_head(foreseen[t]).float().log_softmax(-1)[words[1:]].mean()
                    )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def next_word(self, sentences, photos):
        """Log-probabilities (V) of the word after the last sentence's."""
        states, _, foreseen = self.read(sentences, photos)
        return self.word_head(torch.cat([states[-1], foreseen[-1]])).float().log_softmax(-1)

    @torch.no_grad()
    def score(self, sentences, photos):
        """Cosines of expected and observed changes, beat by beat."""
        states, ends, foreseen = self.read(sentences, photos)
        dyn = [states[end - 1] for end in ends]
        return [
            F.cosine_similarity(dyn[t] - dyn[t - 1], foreseen[t] - dyn[t - 1], dim=0).item()
            for t in range(1, len(dyn))
        ]


@torch.inference_mode()
def write_uncached(next_word, count, beams=1):
    """`count` words, each from next_word(words so far) -> log-probabilities (V): one hypothesis at
    a time."""
    hypotheses = [(0.0, [])]
    for _ in range(count):
        longer = []
        for score, words in hypotheses:
            best, ids = next_word(words).topk(beams)
            longer += [(score + s, [*words, i]) for s, i in zip(best.tolist(), ids.tolist())]
        hypotheses = sorted(longer, reverse=True)[:beams]
    return hypotheses[0][1]


def networks(setup, training=False):
    """Ours, a bare GPT-2 and the reference's network, on the device."""
    model, decoder = build_model(setup.size), build_decoder(setup.size)
    reference = Reference(
        decoder.config, model.image_encoder.config.feature_size, setup.size.image_slots
    )
    return [network.to(setup.device).train(training) for network in (model, decoder, reference)]


# ----------------------------------------------------------------------------------------- training


def stages(model, batch):
    """Each stage of the training's forward by its name: a function of inputs, and the inputs.

    What the profile knows of the model's inside, it knows here.
    """
    states = model.states(**batch)
    words, word_beat, beat_mask, beats = (
        batch[name] for name in ("words", "word_beat", "beat_mask", "beats")
    )
    of_words = states.hidden.flatten(0, 1)[batch["word_at"]]
    z, one = model.prior(states.expected_change).mean, torch.tensor(1.0, device=words.device)

    def decoder(slots):
        embeddings = model.embed(
            batch["input_ids"], batch["segment_ids"], slots, batch["image_at"], batch["beats"]
        )
        return model.decode(embeddings, use_cache=False)[0]

    def latent_dynamics(dyn):
        dyn = dyn.view(*beat_mask.shape, -1)  # every story has as many beats
        predicted = model.predict_states(dyn, dyn, beats)
        observed, expected = model.changes(dyn, predicted, beats)
        return model.posterior(observed, expected).kl(model.prior(expected))

    def bags_of_words(z, slots, predicted):
        inside = words != model.config.eos_token_id
        bag, bag_beat, once = words[inside], word_beat[inside], inside[inside].float()
        bow = model.plan_bag_loss(z, bag, bag_beat, one)[0]
        later = model.words_ahead(bag, bag_beat, beats, beat_mask)
        photos = slots.mean(2).flatten(0, 1)
        tellers = {
            "ahead": (model.ahead_mlp(z), 1.0, *later),
            "photo": (model.photo_head(photos), 1.0, bag, bag_beat, once),
            "foresight": (model.foresight_head(predicted), 1.0, bag, bag_beat, once),
        }
        return bow + model.bag_loss(tellers, one)[0]

    return {
        "image projection": (
            lambda: model.project_photos(batch["photos"], batch["photo_mask"]),
            (),
        ),
        "decoder": (decoder, (states.slots,)),
        "latent dynamics": (latent_dynamics, (states.dyn,)),
        "vocabulary and word loss": (
            lambda h, z: model.word_loss(h, z, words, word_beat, one)[0],
            (of_words, z),
        ),
        "bags of words": (bags_of_words, (z, states.slots, states.predicted)),
    }


def adamw(model, **kwargs):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=LEARNING_RATE, **kwargs)


def update(model, optimizer):
    nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
    optimizer.step()
    optimizer.zero_grad()


def train_step(model, optimizer, batch, setup):
    """One step of ours, as train.py takes it."""
    with setup.autocast():
        loss = model(**batch, **OBJECTIVE).loss
    if not torch.isfinite(loss):
        raise RuntimeError("the loss is not finite")  # train.py asks a GPU less often
    loss.backward()
    update(model, optimizer)


def bare_logits(decoder, batch):
    """The limit of reading stories: GPT-2 itself over the same tokens, logits (N, V) only of
    predicted words."""
    embeddings = decoder.transformer.wte(batch["input_ids"])
    states = decoder.transformer(
        inputs_embeds=embeddings, token_type_ids=batch["segment_ids"], use_cache=False
    )[0]
    return decoder.lm_head(states.flatten(0, 1)[batch["word_at"]])


def bare_step(decoder, optimizer, batch, setup):
    with setup.autocast():
        loss = F.cross_entropy(bare_logits(decoder, batch).float(), batch["words"])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def padding(lengths, batch_size, seed):
    """Share of the positions in a training's batches that are padding."""
    batches = [
        [lengths[i] for i in numbers] for numbers in BucketBatches(lengths, batch_size, seed)
    ]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def measure_training(setup):
    # a GPU's step is too short to time one by itself
    size, steps = (setup.size, 10 if setup.on_gpu else 1)
    model, decoder, reference = networks(setup, training=True)
    feature_size = model.image_encoder.config.feature_size
    stories = RandomStories(50 * setup.batch_size, size, feature_size, seed=setup.seed)
    fused = {"betas": ADAM_BETAS, "fused": True}
    optimizer, bare_optimizer, reference_optimizer = (
        adamw(model, **fused),
        adamw(decoder, **fused),
        adamw(reference),
    )

    def batch_of(numbers):
        batch = collate([stories[i] for i in numbers], size.special.pad)
        batch["draws"] = Draws.of(
            batch["index"], batch["beat_mask"], model.config.plan_size, [setup.seed, 0]
        )
        return send_to_device(batch, setup.device)

    epoch = itertools.cycle(BucketBatches(stories.lengths, setup.batch_size, setup.seed))
    # the same for all ways
    rounds = [list(itertools.islice(epoch, steps)) for _ in range(setup.repetitions + 1)]
    ready = [[batch_of(numbers) for numbers in of] for of in rounds]

    def ours(turn, network=model):
        for numbers in rounds[turn]:
            train_step(network, optimizer, batch_of(numbers), setup)

    def limit(turn):
        for batch in ready[turn]:
            bare_step(decoder, bare_optimizer, batch, setup)

    def one_by_one(turn):
        story = stories.as_read(rounds[turn][0][0], setup.device)
        reference.train_on(*story, reference_optimizer, setup.autocast)

    ways = {REFERENCE: one_by_one, BARE: limit, OURS: ours}
    if setup.compile:
        compiled = torch.compile(model, dynamic=True)
        try:
            ours(0, compiled)
            ways[COMPILED] = lambda turn: ours(turn, compiled)
        except (
            Exception
        ) as error:  # torch's compiler and the C++ compiler behind it raise many kinds
            cli.warn(
                f"--compile: torch cannot compile the model ({type(error).__name__}), which is "
                "left out"
            )
    work = dict.fromkeys(ways, steps * setup.batch_size) | {REFERENCE: 1}
    goals = GOALS["training, GPU" if setup.on_gpu else "training, CPU"]
    seconds = interleave(ways, setup)
    what = f"training, batch {setup.batch_size}"
    rows = [row(what, "stories", seconds, work, goals)]
    if COMPILED in ways:
        rows.append(row(f"{what}, compiled", "stories", seconds, work, goals, COMPILED))
    profile = measure_profile(model, optimizer, lambda: batch_of(rounds[0][0]), setup)
    per_step, step = (
        profile["optimizer and clipping"]["median"],
        setup.batch_size / rows[0]["rates"][OURS]["median"],
    )
    return {
        "rows": rows,
        "profile": profile,
        "padding": padding(stories.lengths, setup.batch_size, setup.seed),
        "seconds_per_step": per_step,
        "seconds_per_story": max(0, step - per_step) / setup.batch_size,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        **throughput(model, optimizer, ready, step, setup),
    }


def measure_profile(model, optimizer, make_batch, setup):
    """Seconds of each stage of a step, forward and backward, each by itself; and of the whole
    step."""
    batch = make_batch()
    with torch.no_grad(), setup.autocast():
        parts = stages(model, batch)

    def forward_backward(stage, inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        with setup.autocast():
            total = stage(*inputs).float().sum()
        total.backward()

    ways = {name: lambda _, part=part: forward_backward(*part) for name, part in parts.items()}
    ways["optimizer and clipping"] = lambda _: update(model, optimizer)
    ways["data"] = lambda _: make_batch()
    ways["whole step"] = lambda _: train_step(model, optimizer, make_batch(), setup)
    return {name: spread(times) for name, times in interleave(ways, setup).items()}


def throughput(model, optimizer, batches, seconds, setup):
    """Tokens and arithmetic a second of a step of `seconds`, by the operations that torch counts in
    one."""
    with FlopCounterMode(display=False) as counter:
        train_step(model, optimizer, batches[0][0], setup)
    name = torch.cuda.get_device_name() if setup.on_gpu else ""
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name and setup.bf16), None)
    rate = counter.get_total_flops() / seconds
    tokens = [
        int((batch["input_ids"] != setup.size.special.pad).sum()) for of in batches for batch in of
    ]
    return {
        "tokens_per_second": sum(tokens) / len(tokens) / seconds,
        "flops_per_second": rate,
        "flop_utilisation": peak and rate / peak,
        "epoch_seconds": VIST_STORIES * seconds / setup.batch_size,
    }


# --------------------------------------------------------------------------------------- generation


def decoding(special, beams):
    """Greedy or beam search of sentences of WORDS words, no more and no fewer, so that all write
    equally much."""
    return GenerationConfig(
        num_beams=beams,
        do_sample=False,
        min_new_tokens=WORDS,
        max_new_tokens=WORDS,
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
    )


def context(sentences, special, image_slots):
    """Ids of a story up to the [bos] of its next sentence."""
    slots, ids = [special.img] * image_slots, []
    for words in sentences:
        ids += [*slots, special.bos, *words, special.eos, special.dyn]
    return [*ids, *slots, special.bos]


@torch.inference_mode()
def bare_stories(decoder, told, settings, setup):
    """The limit: transformers' generate() goes on with each story up to BEATS sentences, its cache
    kept if greedy."""
    special, K = setup.size.special, setup.size.image_slots
    cache = DynamicCache(config=decoder.config)
    stories = [list(story) for story in told]
    for _ in range(BEATS - len(told[0])):
        ids = [torch.tensor(context(story, special, K)[::-1]) for story in stories]
        # on the left
        ids = nn.utils.rnn.pad_sequence(ids, True, special.pad).flip(1).to(setup.device)
        kept = {"cache": cache} if settings.num_beams == 1 else {}
        out = decoder.generate(
            ids, attention_mask=(ids != special.pad).long(), generation_config=settings, **kept
        )
        for story, words in zip(stories, out[:, ids.shape[1] :].tolist(), strict=True):
            story.append(words)
    return stories


def measure_generation(setup):
    size, many = setup.size, max(batch for _, _, batch in TELLINGS)
    model, decoder, reference = networks(setup)
    stories = RandomStories(many, size, model.image_encoder.config.feature_size, seed=setup.seed)
    photos = stories.photos.view(many, BEATS, -1).to(setup.device)

    def checked(sentences):
        counts = {len(words) for story in sentences for words in story[BEATS - unwritten :]}
        if counts != {WORDS} or {len(story) for story in sentences} != {BEATS}:
            raise RuntimeError(f"sentences of {counts} words; expected {WORDS} in each")

    def ours(_):
        mask = torch.ones(batch, BEATS, dtype=torch.bool, device=setup.device)
        checked(tell(model, size.special, photos[:batch], mask, settings, told=told)[0])

    def bare(_):
        checked(bare_stories(decoder, told, settings, setup))

    def word_by_word(_):
        story = list(told[0])
        while len(story) < BEATS:
            before = [spoken(words, size.special, setup.device) for words in story]

            def next_word(words):
                last = torch.tensor([size.special.bos, *words], device=setup.device)
                return reference.next_word([*before, last], photos[0])

            story.append(write_uncached(next_word, WORDS, beams))
        checked([story])

    rows = []
    for first, beams, batch in TELLINGS:
        settings, unwritten = decoding(size.special, beams), BEATS - first + 1
        told = [stories.sentences(i)[: first - 1] for i in range(batch)]
        ways = {REFERENCE: word_by_word, "generate() of a bare GPT-2": bare, OURS: ours}
        # it writes one at a time, and a whole story by beams for minutes
        if batch > 1 or (first, beams) == (1, 5):
            ways.pop(REFERENCE)
        how, extent = (
            ("greedy" if beams == 1 else "beam"),
            ("fifth sentence" if first > 1 else "whole story"),
        )
        work = dict.fromkeys(ways, batch * unwritten)
        with setup.autocast():
            seconds = interleave(ways, setup)
        what = f"{extent}, {how}{f' {beams}' if beams > 1 else ''}, batch {batch}"
        rows.append(row(what, "sentences", seconds, work, GOALS[how if batch == 1 else "many"]))
    return {"rows": rows}


# --------------------------------------------------------------------------- preprocessing, scoring


def decode_jpeg(path):
    with Image.open(path) as image:
        return image.convert("RGB").size


def photos_at_once(setup):
    return 64 if setup.on_gpu else dataset.CPU_BATCH


def write_features(folder, photos, encoder, setup):
    """Ours: from files to a file of features."""
    with contextlib.redirect_stderr(io.StringIO()), join_team() as team:  # its bar
        dataset.write_photos(
            folder / "features",
            photos,
            encoder,
            "features",
            photos_at_once(setup),
            team.workers,
            team,
        )
    if any(json.loads(note.read_text()) for note in (folder / "features").glob(dataset.NOTES)):
        raise RuntimeError("photos are broken")
    shutil.rmtree(folder / "features")


def measure_preprocessing(setup):
    size = setup.size
    # Random residual branches would multiply their input by millions; switched off they cost as
    # much.
    resnet = torchvision_models.get_model(size.encoder, weights=None, zero_init_residual=True)
    encoder = ImageEncoder(
        ImageEncoderConfig(arch=size.encoder, image_size=size.image_size), resnet
    ).eval()
    network = copy.deepcopy(encoder).to(setup.device)
    folded = encoder.folded().to(setup.device)
    count = size.photos * (32 if setup.on_gpu else 1)
    side = size.image_size
    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.25),
        ]
    )
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(psutil.cpu_count()) as pool:
        photos = draw_photos(Path(folder), count, setup.seed)
        paths = list(photos.values())
        square = encoder.preprocess(Image.open(paths[0]))
        pixels = [torch.stack([square] * len(of)) for of in cut(paths, photos_at_once(setup))]

        @torch.no_grad()
        def one_by_one(_):
            for path in paths[: size.reference_photos]:
                x = transform(Image.open(path).convert("RGB"))[None].to(setup.device)
                network.pool(network.trunk(x)).flatten(1).cpu()

        ways = {
            REFERENCE: one_by_one,
            "encoder alone": lambda _: [
                dataset.encode_photos(folded, of.to(setup.device)) for of in pixels
            ],
            "JPEG decoding alone": lambda _: list(pool.map(decode_jpeg, paths, chunksize=8)),
            OURS: lambda _: write_features(Path(folder), photos, encoder, setup),
        }
        work = dict.fromkeys(ways, count) | {REFERENCE: size.reference_photos}
        seconds = interleave(ways, setup)
    return {
        "rows": [
            row(f"preprocessing, {size.encoder}", "photos", seconds, work, GOALS["preprocessing"])
        ]
    }


def measure_scoring(setup):
    size, batch_size = setup.size, CDE_score.parser().get_default("batch_size")
    model, decoder, reference = networks(setup)
    feature_size = model.image_encoder.config.feature_size
    stories = RandomStories(
        size.scored * (16 if setup.on_gpu else 1), size, feature_size, seed=setup.seed
    )
    numbers = BucketBatches(stories.lengths, batch_size, shuffle=False)
    batches = [
        send_to_device(collate([stories[i] for i in of], size.special.pad), setup.device)
        for of in numbers
    ]
    few = len(stories) // 4

    @torch.inference_mode()
    def limit(_):
        for batch in batches:
            bare_logits(decoder, batch)

    def one_by_one(_):
        for i in range(few):
            reference.score(*stories.as_read(i, setup.device))

    def ours(_):
        CDE_score.traces(model, stories, size.special.pad, batch_size)

    ways = {REFERENCE: one_by_one, BARE: limit, OURS: ours}
    work = dict.fromkeys(ways, len(stories)) | {REFERENCE: few}
    with setup.autocast():
        seconds = interleave(ways, setup)
    return {
        "rows": [row(f"CDE scores, batch {batch_size}", "stories", seconds, work, GOALS["scoring"])]
    }


# --------------------------------------------------------------------------------- memory, start-up


def in_fresh_process(function, *arguments):
    """The function's result, computed in a process of its own; None where that was killed, as for
    its memory."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=cli.keep_memory) as process:
        try:
            return process.submit(function, *arguments).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return None


def peak_memory(setup):
    """The most bytes that this process has held: on the GPU, or else in main memory."""
    if setup.on_gpu:
        return torch.cuda.max_memory_allocated()
    try:  # getrusage would hand on the peak of the process that started this one
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    except OSError:
        import resource  # not there on every system

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )


def peak_of_steps(who, batch_size, beats, setup):
    """Peak memory in bytes of two training steps, what the imports alone take left out."""
    setup.begin()
    before = 0 if setup.on_gpu else psutil.Process().memory_info().rss
    network = (build_model if who == OURS else build_decoder)(setup.size).to(setup.device).train()
    feature_size = network.image_encoder.config.feature_size if who == OURS else 1
    stories = RandomStories(batch_size, setup.size, feature_size, beats, setup.seed)
    batch = send_to_device(
        collate([stories[i] for i in range(batch_size)], setup.size.special.pad), setup.device
    )
    optimizer, step = adamw(network, fused=True), train_step if who == OURS else bare_step
    for _ in range(2):  # the optimizer's state is there from the second on
        step(network, optimizer, batch, setup)
    return peak_memory(setup) - before


def memory_of_stories(count, setup):
    """Bytes that `count` stories take in a StoryDataset, words and all (of a split's files, its
    words stay there)."""
    before = psutil.Process().memory_info().rss
    stories = RandomStories(count, setup.size, 0, seed=setup.seed)
    return psutil.Process().memory_info().rss - before if len(stories) else 0


def measure_memory(setup):
    peaks = []
    for batch_size, beats in ((8, BEATS), (16, BEATS), (32, BEATS), (8, 2 * BEATS)):
        found = {
            who: in_fresh_process(peak_of_steps, who, batch_size, beats, setup)
            for who in (OURS, BARE)
        }
        peaks.append({"batch_size": batch_size, "beats": beats, **found})
    counts = (VIST_STORIES // 10, VIST_STORIES)
    return {
        "rows": [],
        "peaks": peaks,
        "stories": {n: in_fresh_process(memory_of_stories, n, setup) for n in counts},
    }


def run_python(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr.strip()[-500:]}")


def measure_startup(setup):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "photos").mkdir()
        draw_photos(folder / "photos", BEATS, setup.seed)
        tokenizer = train_tokenizer(["we saw a fox and a bear in a boat ."], vocab_size=300)
        small = Size(
            {"vocab_size": len(tokenizer), "n_layer": 3, "n_embd": 256, "n_head": 4},
            special_ids(tokenizer),
            "resnet18",
            64,
            4,
            0,
            0,
            0,
        )
        for item in (build_model(small), tokenizer):
            with quiet_transformers():
                item.save_pretrained(folder / "checkpoint")
        command = ["generate.py", folder / "photos", "--checkpoint", folder / "checkpoint"]
        ways = {
            "import of torch, torchvision, transformers": (
                "-c",
                "import torch, torchvision, transformers",
            ),
            "generate.py --help": ("generate.py", "--help"),
            "generate.py, five photos": (*command, "--output", folder / "stories.json"),
        }
        seconds = interleave(
            {name: lambda _, way=way: run_python(*way) for name, way in ways.items()}, setup
        )
    imports, help, generate = map(np.array, seconds.values())
    goals = {
        "generate.py --help": (help, HELP_SECONDS),
        "a story, beyond the import": (generate - imports, GENERATE_SECONDS),
    }
    goals = {
        name: spread(of) | {"goal": goal, "met": bool(np.median(of) <= goal)}
        for name, (of, goal) in goals.items()
    }
    return {"rows": [], "seconds": seconds, "goals": goals}


# ----------------------------------------------------------------------------------------- at scale


def cost_model(
    stories,
    photos,
    processes,
    batch_size,
    per_story,
    per_step,
    trained_parameters,
    photos_per_second,
):
    """What so much data costs on so many processes, each as fast as the one measured.

    batch_size: stories of a process in a step; per_story, per_step: seconds that a story adds to a
    step, and of the step itself (the optimizer). Returns seconds of an epoch and of preprocessing,
    and the bytes that a process sends over the network in a step, by a ring all-reduce of float32
    gradients. How long those take is not in the seconds.
    """
    steps = -(-stories // (batch_size * processes))
    return {
        "epoch_seconds": steps * (per_step + batch_size * per_story),
        "photo_seconds": photos / (photos_per_second * processes) if photos_per_second else None,
        "bytes_per_step": 2 * (processes - 1) / processes * 4 * trained_parameters,
    }


def scale_table(found):
    """The cost model over what a benchmark found. Raises UserError where training was not in it."""
    training = found.get("training")
    if not training:
        raise UserError(
            "scale: no figures of training there; expected those of python -m "
            "experiments.benchmark training"
        )
    photos = found.get("preprocessing")
    per_second = photos["rows"][0]["rates"][OURS]["median"] if photos else None
    batch_size, rows = found["setup"]["batch_size"], []
    for data, processes in itertools.product((1, 10, 100), (1, 8, 64)):
        cost = cost_model(
            data * VIST_STORIES,
            data * VIST_PHOTOS,
            processes,
            batch_size,
            training["seconds_per_story"],
            training["seconds_per_step"],
            training["trained_parameters"],
            per_second,
        )
        hours = [
            f"{s / 3600:.2f}" if s is not None else "–"
            for s in (cost["photo_seconds"], cost["epoch_seconds"])
        ]
        rows.append(
            [
                f"{data * VIST_STORIES:,}",
                str(processes),
                *hours,
                f"{cost['bytes_per_step'] / 1e6:.0f}",
            ]
        )
    caption = (
        f"Processes as fast as this one ({found['machine']['device']}), {batch_size} stories each; "
        "sending not timed."
    )
    columns = ["stories", "processes", "preprocessing, h", "epoch, h", "sent a step, MB"]
    return Table("At scale, computed from what was measured", columns, rows, caption)


# ------------------------------------------------------------------------------------------- report

MEASURES = {
    "training": measure_training,
    "generation": measure_generation,
    "preprocessing": measure_preprocessing,
    "scoring": measure_scoring,
    "memory": measure_memory,
    "startup": measure_startup,
}


def cell(of, unit=""):
    return f"{of['median']:.3g}{unit} [{of['min']:.3g}, {of['max']:.3g}]"


def rows_of(found):
    return [line for part in PARTS for line in found.get(part, {"rows": []})["rows"]]


def main_table(rows):
    def cells(line):
        ways = (REFERENCE, line["limit"], line["ours"])
        rates = [
            f"{line['rates'][way]['median']:.3g}" if way in line["rates"] else "–" for way in ways
        ]
        ratios = [
            cell(line["ratios"][by], " x") if by in line["ratios"] else "–"
            for by in (REFERENCE, "limit")
        ]
        goals = " and ".join(
            f"≥ {goal:.3g} {'x' if by == REFERENCE else 'of the limit'}"
            for by, goal in line["goals"].items()
        )
        return [
            f"{line['what']} ({line['unit']}/s)",
            *rates,
            *ratios,
            goals,
            met(all(line["met"].values())),
        ]

    columns = ["", "reference", "limit", "ours", "ours / reference", "ours / limit", "goal", "met"]
    limits = dict.fromkeys(f"{line['what'].split(',')[0]}: {line['limit']}" for line in rows)
    return Table(
        "Speed, side by side",
        columns,
        [cells(line) for line in rows],
        f"Medians [least, most] over repetitions by turns. The limits: {'; '.join(limits)}.",
    )


def met(yes):
    return "yes" if yes else "no"


def profile_table(training):
    profile = dict(training["profile"])
    whole = profile.pop("whole step")["median"]
    left = whole - sum(of["median"] for of in profile.values())
    shown = {name: of["median"] for name, of in profile.items()} | {
        "unexplained": left,
        "whole step": whole,
    }
    rows = [[name, f"{1000 * s:.1f}", f"{s / whole:.1%}"] for name, s in shown.items()]
    flops = training["flop_utilisation"]
    caption = (
        f"{training['padding']:.1%} of the positions are padding. "
        f"{training['tokens_per_second']:.0f} tokens/s, "
        f"{training['flops_per_second'] / 1e9:.0f} GFLOP/s"
        + (f", {flops:.1%} of the GPU's peak" if flops else "")
        + f"; an epoch over {VIST_STORIES:,} stories at this rate: "
        f"{training['epoch_seconds'] / 3600:.2f} h."
    )
    return Table(
        "Where a training step's time goes",
        ["forward and backward of", "ms", "share"],
        rows,
        caption,
    )


def memory_table(memory):
    gib = lambda bytes: "–" if bytes is None else f"{bytes / 2**30:.2f}"
    rows = []
    for of in memory["peaks"]:
        ours, bare = of[OURS], of[BARE]
        ratio = f"{ours / bare:.2f}" if ours and bare else "–"
        rows.append(
            [f"{of['batch_size']} stories of {of['beats']} beats", gib(bare), gib(ours), ratio]
        )
    held = "; ".join(
        f"{int(n):,} stories {b / 1e6:.0f} MB"
        for n, b in memory["stories"].items()
        if b is not None
    )
    caption = (
        "GiB beyond what the imports take; – where the memory did not suffice. Words of a data "
        f"set: {held}."
    )
    return Table(
        "Peak memory of a training step", ["batch", BARE, "ours", "ours / bare"], rows, caption
    )


def startup_table(startup):
    rows = [[name, cell(spread(of)), "", ""] for name, of in startup["seconds"].items()]
    rows += [
        None,
        *(
            [name, cell(of), f"≤ {of['goal']:g}", met(of["met"])]
            for name, of in startup["goals"].items()
        ),
    ]
    return Table("Start-up, seconds", ["", "median", "goal", "met"], rows, "Median [least, most].")


def draw(rows, path):
    """Bars of our speed by the limit's and by the reference's, with their spread and the goals."""
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, by, start in zip(axes, ("limit", REFERENCE), (0, 1)):  # a logarithmic bar has no zero
        for at, line in enumerate(rows):
            if by in line["ratios"]:
                of = line["ratios"][by]
                axis.barh(at, of["median"] - start, left=start, color="C0", alpha=0.7)
                axis.plot([of["min"], of["max"]], [at, at], color="black", lw=1)
            if by in line["goals"]:
                axis.plot([line["goals"][by]] * 2, [at - 0.4, at + 0.4], color="C3", lw=2)
        axis.axvline(1, color="grey", lw=1)
        axis.set(xlabel=f"our speed / the {by}'s (red: goal)")
    axes[1].set_xscale("log")
    axes[0].set_yticks(range(len(rows)), [line["what"] for line in rows])
    axes[0].invert_yaxis()
    with whole(path) as temporary:
        figure.savefig(temporary, dpi=130)


def tables(found):
    tables = [main_table(rows_of(found))] if rows_of(found) else []
    for part, table in (
        ("training", profile_table),
        ("memory", memory_table),
        ("startup", startup_table),
    ):
        if part in found:
            tables.append(table(found[part]))
    return tables


def machine(setup):
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        cpu = (
            Path("/proc/cpuinfo")
            .read_text()
            .split("model name")[1]
            .split(":")[1]
            .splitlines()[0]
            .strip()
        )
    return {
        "device": torch.cuda.get_device_name()
        if setup.on_gpu
        else f"{cpu}, {setup.threads} threads",
        "cpu": cpu,
        "processors": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def not_measured(setup, parts):
    left_out = [part for part in PARTS if part not in parts]
    found = [f"{', '.join(left_out)} (not asked for)"] if left_out else []
    if setup.size != SIZES["gpt2"]:
        found.append("GPT-2 small with ResNet-152, whose goals these are")
    if not setup.on_gpu:
        times, share = GOALS["training, GPU"]
        found.append(
            f"anything on a GPU (none here): training in bf16 at {times} x the reference's speed "
            f"and {share:.2f} of "
            f"the limit's, model FLOP utilisation, the time of an epoch, memory"
        )
    return found


# --------------------------------------------------------------------------------------------- main


def set_up(options):
    size, device = SIZES[options.size], best_device()
    if options.encoder:
        size = replace(size, encoder=options.encoder)
    on_gpu = device.type == "cuda"
    return Setup(
        size=size,
        device=device,
        bf16=options.precision == "bf16" or (options.precision == "auto" and on_gpu),
        batch_size=options.batch_size or (64 if on_gpu else 8),
        repetitions=options.repetitions,
        threads=getattr(options, "threads", torch.get_num_threads()),
        seed=options.seed,
        compile=options.compile,
    )


def measure(part, setup, noisy):
    """What a part finds, and the share of the machine that others used meanwhile."""
    expect_quiet(noisy)
    print(f"measuring {part} …", flush=True)
    setup.begin()
    others = Others()
    found = MEASURES[part](setup)
    share = others.share()
    if share > QUIET:
        cli.warn(f"{part}: other processes used {share:.0%} of the machine; measure it again")
    return found | {"others": share}


def main():
    options = parse()
    output = options.output.removesuffix(".json")
    parts = [part for part in PARTS if part in (options.parts or PARTS)]
    if parts:
        setup = set_up(options)
        found = {"options": vars(options), "setup": setup.told(), "machine": machine(setup)}
        for part in parts:
            found[part] = measure(part, setup, options.noisy)
            found["not_measured"] = not_measured(setup, found)
            # now, as the next part may take all the memory there is
            write_json(f"{output}.json", found)
        print("\n\n".join(table.text() for table in tables(found)))
        print(f"\nnot measured: {'; '.join(found['not_measured']) or 'nothing'}")
        if rows_of(found):
            draw(rows_of(found), f"{output}.png")
        print(f"every repetition's seconds -> {output}.json")
    if "scale" in options.parts:
        print(
            "\n"
            + scale_table(
                read_json(f"{output}.json", "what python -m experiments.benchmark training wrote")
            ).text()
        )


if __name__ == "__main__":
    cli.run(main)
