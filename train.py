"""Train a plan-CVAE by the ELBO. `--help` lists every option; `bash train.sh` does it all.

What is drawn for a story is a function of (seed, step, story), dropout of (seed, step, process),
the data order of (seed, epoch), so a training that was stopped, by whatever, is taken up from its
latest checkpoint by --resume and then is the uninterrupted one: in one process on a CPU bit for
bit.
"""

import dataclasses
import hashlib
import json
import math
import os
import signal
import time
import uuid
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from utils import cli
from utils.cli import OUTPUT_DIR, PLANS, UserError, option
from utils.files import alone, naming, recover, remove, whole, write_json


@dataclass
class TrainOptions:
    """Every option of a training."""

    # data and output
    train_data_path: str | None = option(
        None, "preprocessed training split (.json); the newest one if not named"
    )
    val_data_path: str | None = option(
        None, "preprocessed validation split; val.json beside the training split if not named"
    )
    output_dir: str = option(OUTPUT_DIR, "where checkpoints, log and picture go")
    resume: bool = option(
        False, "take up the latest checkpoint in output_dir (or start, if there is none)"
    )
    allow_changed: str = option(
        "", "options that may differ from the training that --resume takes up", metavar="NAMES"
    )
    overwrite: bool = option(False, "start again in an output_dir that already holds a training")
    evaluate: str | None = option(
        None,
        "train nothing: figures of output_dir's best model over this preprocessed split",
        metavar="SPLIT",
    )

    # model
    decoder: str = option(
        "scratch", "GPT-2 by name (gpt2, distilgpt2, gpt2-medium …) or local path; or scratch"
    )
    n_layer: int = option(3, "decoder from scratch: blocks")
    n_head: int = option(4, "decoder from scratch: attention heads")
    n_embd: int = option(256, "decoder from scratch: width")
    n_positions: int = option(512, "decoder from scratch: longest story, in positions")
    dropout: float = option(0.0, "dropout in decoder and dynamics")
    image_slots: int = option(4, "sequence positions that a photo fills")
    train_encoder: bool = option(
        True, "where the data holds pixels: train the photo encoder with the rest"
    )
    plan: str = option("cvae", "the plan, or an ablation of it", choices=PLANS)
    plan_size: int = option(32, "width of the plan")
    detach_dynamics_target: bool = option(
        False, "keep the dynamics loss from moving the states that it predicts"
    )

    # objective
    beta: float = option(1.0, "weight of the KL")
    beta_schedule: str = option(
        "linear", "how β gets there", choices=("constant", "linear", "cyclical")
    )
    beta_warmup: float = option(
        0.3, "share of the steps (linear) or of each cycle (cyclical) in which β rises"
    )
    beta_cycles: int = option(4, "cycles of the cyclical schedule")
    free_bits: float = option(0.3, "KL in nats per dimension and beat that is not charged")
    bow_weight: float = option(
        1.0, "weight of the plan's bag-of-words term, until half of the steps"
    )
    ahead_weight: float = option(
        1.0, "weight of the bag-of-words term of the sentences to come, likewise"
    )
    bags_end: float = option(
        0.2, "what is left of these two weights after four fifths of the steps"
    )
    photo_weight: float = option(
        0.5, "weight of the bag-of-words term of the photo, which teaches the eye"
    )
    foresight_weight: float = option(1.0, "weight of the bag-of-words term of the foreseen state")
    dynamics_weight: float = option(3.0, "weight of the latent dynamics term")
    posterior_dropout: float = option(
        0.7, "share of beats whose posterior sees the observed change alone"
    )
    photo_dropout: float = option(
        0.1, "share of stories told without their photos, so that text alone can be scored"
    )

    # optimisation
    epochs: float = option(4.0, "passes over the training stories")
    max_steps: int = option(0, "optimizer steps, in place of epochs; 0 means by epochs")
    batch_size: int = option(16, "stories per step and accumulation, over all processes")
    accumulation: int = option(1, "batches per optimizer step")
    learning_rate: float = option(2e-3, "peak learning rate (5e-5 suits a pretrained GPT-2)")
    warmup: float = option(0.05, "share of the steps in which the learning rate rises")
    weight_decay: float = option(0.01, "AdamW weight decay, on matrices alone")
    grad_clip: float = option(1.0, "largest gradient norm; 0 leaves gradients alone")
    mixed_precision: str = option(
        "auto", "auto is bf16 where the GPU can, else no", choices=("auto", "no", "bf16", "fp16")
    )
    seed: int = option(0, "of everything random")
    workers: int = option(0, "processes that read photos; 0 reads them in the training process")
    fsdp: bool = option(
        False, "cut gradients, moments and model over the processes, for what one GPU cannot hold"
    )

    # watching
    log_every: int = option(10, "steps between lines in the log")
    eval_every: int = option(0, "steps between validations and checkpoints; 0 means once an epoch")
    patience: int = option(
        0, "validations without a better −ELBO before stopping; 0 never stops early"
    )
    iwae_samples: int = option(
        0, "samples of the importance-weighted bound at validation; 0 leaves it out"
    )
    keep: int = option(
        0, "newest validated checkpoints to keep as step-<number> beside best and latest"
    )
    tensorboard: bool = option(
        False, "log to output_dir/tensorboard as well (pip install tensorboard)"
    )


# A resumed training may change these; anything else would make it another training.
FREE_TO_CHANGE = {
    "output_dir", "resume", "allow_changed", "overwrite", "evaluate", "workers", "fsdp",
    "log_every", "patience", "iwae_samples", "keep", "tensorboard",
    "train_data_path", "val_data_path",  # by name: what they hold is compared
}  # fmt: skip
# These are in the model that a checkpoint holds, so that no resumed training can change them.
OF_THE_MODEL = {
    "decoder", "n_layer", "n_head", "n_embd", "n_positions", "dropout", "image_slots",
    "train_encoder", "plan", "plan_size", "detach_dynamics_target", "foresight_weight",
}  # fmt: skip


def parser():
    return cli.Parser(prog="train.py", description=__doc__.splitlines()[0]).add_dataclass(
        TrainOptions
    )


def parse(arguments=None):
    """The options; values that cannot work are refused by the option's name."""
    options = TrainOptions(**vars(parser().parse_args(arguments)))
    at_least = {
        "n_layer": 1,
        "n_head": 1,
        "n_embd": 1,
        "n_positions": 8,
        "image_slots": 1,
        "plan_size": 1,
        "batch_size": 1,
        "accumulation": 1,
        "log_every": 1,
        "beta_cycles": 1,
        "max_steps": 0,
        "eval_every": 0,
        "patience": 0,
        "iwae_samples": 0,
        "keep": 0,
        "workers": 0,
        "beta": 0,
        "free_bits": 0,
        "bow_weight": 0,
        "ahead_weight": 0,
        "bags_end": 0,
        "photo_weight": 0,
        "foresight_weight": 0,
        "dynamics_weight": 0,
        "learning_rate": 0,
        "weight_decay": 0,
        "grad_clip": 0,
        "warmup": 0,
        "beta_warmup": 0,
        "dropout": 0,
        "posterior_dropout": 0,
        "photo_dropout": 0,
        "seed": 0,
    }
    for name, least in at_least.items():
        if not getattr(options, name) >= least or not math.isfinite(getattr(options, name)):
            raise UserError(f"--{name} {getattr(options, name)}: expected at least {least}")
    for name in (
        "warmup",
        "beta_warmup",
        "bags_end",
        "dropout",
        "posterior_dropout",
        "photo_dropout",
    ):
        if getattr(options, name) > 1:
            raise UserError(f"--{name} {getattr(options, name)}: a share, expected 0 to 1")
    if not 0 < options.epochs < math.inf:
        raise UserError(f"--epochs {options.epochs}: expected more than 0")
    for name in changeable(options):
        if name not in {field.name for field in dataclasses.fields(TrainOptions)} - OF_THE_MODEL:
            found = "of the model, which is made" if name in OF_THE_MODEL else "no option"
            raise UserError(
                f"--allow_changed {name}: {found}; expected options' names, as in "
                "learning_rate,epochs"
            )
    return options


def changeable(options):
    return [
        name.strip().removeprefix("--") for name in options.allow_changed.split(",") if name.strip()
    ]


if __name__ == "__main__":
    cli.answer_early(parse)

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device, set_seed
from matplotlib.figure import Figure
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from dataset import BucketBatches, StoryDataset, collate, latest_split
from model import Draws, PlanCVAE, load_checkpoint, load_encoder, select_beats
from utils.checkpoint import (
    BEST,
    LATEST,
    OPTIMIZER,
    PROGRESS,
    STEP,
    copy_checkpoint,
    gathered,
    is_of,
    kept_steps,
    load_optimizer,
    optimizer_tensors,
    quiet_transformers,
    read_progress,
    save_checkpoint,
    versions,
)
from utils.gaussian import Gaussian
from utils.processes import best_device
from utils.stories import SPLIT_SHAPE, story_ids
from utils.tokenizer import load_data_tokenizer

BAGS = ("bow", "ahead", "photo", "foresight")  # terms that tell the words of a sentence in no order
TERMS = ("nll", "kl", *BAGS, "dynamics")
# A shorter memory of squared gradients than the usual 0.999, as is common for transformers of this
# kind.
ADAM_BETAS = (0.9, 0.95)
MOST_PLANS = 4096  # stories whose plans are held against each other at validation, evenly spread
# Shares of posterior means and samples in the middle of their prior: what lies within so many of
# its deviations.
MIDDLE = {50: 0.67449, 90: 1.64485}
WITHIN = {
    f"{of}_within_{share}": (of, MIDDLE[share]) for of in ("means", "samples") for share in MIDDLE
}
VALIDATION = 2**32  # stands for the step in the seed of validation: its draws are those of no step


# ---------------------------------------------------------------------------------------- schedules


def get_lr(step, total_steps, options):
    """Learning rate at `step`: a linear rise over the warm-up, then half a cosine down to a
    hundredth of the peak."""
    warm = max(1, round(options.warmup * total_steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total_steps - warm)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def get_beta(step, total_steps, options):
    """Weight of the KL at `step`: constant, a rise from 0 (Bowman et al. 2016), or several (Fu et
    al. 2019)."""
    if options.beta_schedule == "constant":
        return options.beta
    cycles = options.beta_cycles if options.beta_schedule == "cyclical" else 1
    place = step / total_steps * cycles % 1  # within the cycle
    return options.beta * min(1.0, place / options.beta_warmup if options.beta_warmup else 1.0)


def get_bags(step, total_steps, options):
    """Share of the plan's bag-of-words weights at `step`: all of it for half of the steps, then a
    fall to bags_end.

    The bags make the plan tell the sentence; once the words listen to it, what they would go on to
    say is noise.
    """
    done = min(1.0, max(0.0, (step / total_steps - 0.5) / 0.3))
    # at 0 the terms would go, and DDP wait for their gradients
    return max(1e-6, 1 - done * (1 - options.bags_end))


# -------------------------------------------------------------------------------------------- setup


def build_model(options, tokenizer, data_dir):
    """The model that the options describe, around the data's tokenizer and photo encoder."""
    if options.decoder == "scratch":
        if options.n_embd % options.n_head:
            raise UserError(
                f"--n_embd {options.n_embd}: not a multiple of --n_head {options.n_head}"
            )
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=options.n_positions,
            n_embd=options.n_embd,
            n_layer=options.n_layer,
            n_head=options.n_head,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        decoder = GPT2LMHeadModel(config)
    else:
        advice = "--decoder takes a name on the hub, a local directory, or scratch (no download)"
        with cli.loading(f"--decoder {options.decoder}", advice), quiet_transformers():
            decoder, report = GPT2LMHeadModel.from_pretrained(
                options.decoder, dtype=torch.float32, output_loading_info=True
            )
            if report["missing_keys"]:
                raise UserError(
                    f"--decoder {options.decoder}: not a GPT-2 (it lacks "
                    f"{sorted(report['missing_keys'])[0]})"
                )
        if len(tokenizer) < decoder.config.vocab_size:
            raise UserError(
                f"--decoder {options.decoder}: has {decoder.config.vocab_size} words, the data's "
                "tokenizer only "
                f"{len(tokenizer)}; preprocess with that decoder's tokenizer (python dataset.py "
                "--tokenizer …)"
            )
        decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        decoder.config.bos_token_id, decoder.config.eos_token_id = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(decoder.config, name, options.dropout)
    encoder = load_encoder(data_dir / "image_encoder")
    return PlanCVAE.build(
        decoder,
        encoder,
        train_encoder=options.train_encoder,
        image_slots=options.image_slots,
        plan=options.plan,
        plan_size=options.plan_size,
        detach_dynamics_target=options.detach_dynamics_target,
        eos_token_id=tokenizer.eos_token_id,
        foresight=options.foresight_weight > 0,
    )


def parameter_groups(model, weight_decay):
    """Matrices decay; biases, gains, embeddings and single vectors do not. Every trained parameter
    is in one group."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [
        p for p in trained if p.dim() >= 2 and id(p) not in embeddings and p is not model.no_photo
    ]
    chosen = {id(p) for p in decay}
    rest = [p for p in trained if id(p) not in chosen]
    assert len(decay) + len(rest) == len(trained), "a parameter is missing or doubled"
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


class Shard:
    """One process's share of every batch.

    Every process does every batch, since they wait for each other. Where a batch has fewer stories
    than processes, those without one do a story that does not count, by a negative number.
    """

    def __init__(self, batches, accelerator):
        self.batches, self.rank, self.world = (
            batches,
            accelerator.process_index,
            accelerator.num_processes,
        )

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            yield batch[self.rank :: self.world] or [~batch[0]]

    @staticmethod
    def counts(batch):
        """Whether the stories of a batch count."""
        return bool(batch["index"][0] >= 0)


def get_accelerator(options):
    if options.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise UserError("--mixed_precision fp16: needs a CUDA GPU; expected auto, no or bf16 here")
    auto = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return Accelerator(
        mixed_precision=auto if options.mixed_precision == "auto" else options.mixed_precision,
        cpu=best_device().type == "cpu",  # several processes talk by gloo then
    )


def get_loader(dataset, batches, accelerator, workers):
    return DataLoader(
        dataset,
        batch_sampler=Shard(batches, accelerator),
        collate_fn=partial(collate, pad_id=dataset.special.pad),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )


def over_processes(accelerator, sums):
    """The sum of a float64 tensor over all processes. A single one needs no device, and Apple's has
    no float64."""
    return (
        sums
        if accelerator.num_processes == 1
        else accelerator.reduce(sums.to(accelerator.device)).cpu()
    )


# --------------------------------------------------------------------------------------- validation


@torch.no_grad()
def evaluate(model, dataset, accelerator, options):
    """Token-weighted figures over a whole split, with z drawn from the posterior.

    Returns a dict: −ELBO and each term in nats per story, perplexity (exp of −ELBO per token), mean
    cosine of expected and observed change, and, on request, the importance-weighted bound. Of the
    plans, in units of their prior: KL and mutual information with the story (nats) and active units
    (Burda et al. 2016: where the variance over stories of the posterior mean exceeds 0.01) of each
    beat; the shares of posterior means and samples in the prior's middle 50 and 90 %, which are 0.5
    and 0.9 of the samples of a prior that foresees them rightly; and the perplexity of a sentence's
    words, in no order, given its plan alone.
    """
    model.eval()
    T, Z = int(dataset.beats.max()), model.config.plan_size
    # a weight of 0 has trained nothing
    bags = [name for name in BAGS if getattr(options, f"{name}_weight")]
    iwae_samples, every = options.iwae_samples, -(-len(dataset) // MOST_PLANS)
    batches = BucketBatches(dataset.lengths, options.batch_size, shuffle=False)
    data = get_loader(dataset, batches, accelerator, options.workers)
    names = (*TERMS, "tokens", "stories", "beats", "cosine", "transitions", "log_bound", *WITHIN)
    sums = dict.fromkeys(names, 0.0)
    # of posterior means: count, sum, sum of squares
    moments = torch.zeros(3, T, Z, dtype=torch.float64)
    kl = torch.zeros(T, dtype=torch.float64)
    plans = []  # of some stories: number; posterior mean and log-variance, noise (T, Z)
    for batch in tqdm(data, "validation", leave=False, disable=not accelerator.is_main_process):
        chance = batch["index"], batch["beat_mask"], Z, [options.seed, VALIDATION]
        batch["draws"] = Draws.of(*chance)
        if iwae_samples:
            batch["iwae_noise"] = Draws.of(*chance, samples=(iwae_samples,)).plans
        counts = Shard.counts(batch)
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            out = model(**batch, **{f"{name}_weight": 1.0 for name in bags})
        if not counts:
            continue
        if iwae_samples:
            sums["log_bound"] += (
                (out.log_weights.logsumexp(0) - math.log(iwae_samples)).sum().item()
            )
        place = batch["beats"] % batch["beat_mask"].shape[1]  # M: which beat of its story each is
        for name in (*TERMS, "tokens"):
            sums[name] += getattr(out, name).item()
        sums["stories"] += len(batch["index"])
        sums["beats"] += len(place)
        sums["cosine"] += out.cosine[place > 0].sum().item()
        sums["transitions"] += (place > 0).sum().item()
        if out.posterior is not None:
            place = place.cpu()
            noise = select_beats(batch["draws"].plans, batch["beats"]).cpu()
            q = Gaussian(out.posterior.mean.cpu(), out.posterior.log_var.cpu())
            for power, of_power in enumerate(moments):
                of_power.index_add_(0, place, q.mean.double() ** power)
            kl.index_add_(0, place, out.kl_per_beat.cpu().double())
            for name, (of, bound) in WITHIN.items():
                values = q.mean if of == "means" else q.sample(noise)
                sums[name] += (values.abs() < bound).double().mean(1).sum().item()
            beats = batch["beat_mask"].sum(1).tolist()
            # Copies: what is sent to other processes of a view is all that it is a view of.
            parts = ([part.clone() for part in x.split(beats)] for x in (q.mean, q.log_var, noise))
            by_story = zip(batch["index"].tolist(), *parts)
            plans += [story for story in by_story if story[0] % every == 0]
    model.train()
    flat = over_processes(accelerator, torch.tensor(list(sums.values()), dtype=torch.float64))
    sums = dict(zip(sums, flat.tolist()))
    count, total, squares = over_processes(accelerator, moments)
    count = count.clamp(min=1)
    variance = squares / count - (total / count) ** 2
    per_story = {name: sums[name] / sums["stories"] for name in TERMS}
    figures = {
        "elbo_loss": per_story["nll"] + per_story["kl"],
        "perplexity": perplexity(sums["nll"] + sums["kl"], sums["tokens"]),
        **per_story,
        "cosine": sums["cosine"] / max(1, sums["transitions"]),
        "kl_per_beat": (over_processes(accelerator, kl) / count[:, 0]).tolist(),
        "active_units_per_beat": (variance > 0.01).sum(1).tolist(),
        "tokens": int(sums["tokens"]),
        "stories": int(sums["stories"]),
    }
    if model.config.plan == "cvae":
        figures["information_per_beat"] = information_per_beat(gather_object(plans), T)
        figures |= {name: sums[name] / sums["beats"] for name in WITHIN}
        if "bow" in bags:
            figures["bow_perplexity"] = perplexity(sums["bow"], sums["tokens"] - sums["beats"])
    if iwae_samples:
        figures["iwae_loss"] = -sums["log_bound"] / sums["stories"]
        figures["iwae_perplexity"] = perplexity(-sums["log_bound"], sums["tokens"])
    return figures


def perplexity(nats, tokens):
    return math.exp(min(700, nats / max(1, tokens)))


def information_per_beat(plans, beats):
    """Mutual information of story and plan, in nats, of each beat: of plans (number, mean,
    log-variance, noise)."""
    # so that it does not depend on who has read them
    plans = sorted(plans, key=lambda plan: plan[0])
    found = []
    for t in range(beats):
        of_beat = [
            (mean[t], log_var[t], noise[t]) for _, mean, log_var, noise in plans if len(mean) > t
        ]
        if not of_beat:  # only stories that were passed over are so long
            found.append(0.0)
            continue
        mean, log_var, noise = (torch.stack(x)[:, None] for x in zip(*of_beat))
        found += Gaussian(mean, log_var).information(noise).tolist()
    return found


# ---------------------------------------------------------------------------------------------- log


def read_log(path):
    """The lines of a log as dicts; one that a kill has cut short is said to be left out."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    read = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            read.append(json.loads(line))
    read = [
        line for line in read if isinstance(line, dict) and isinstance(line.get("step", 0), int)
    ]
    if len(read) < len(lines):
        cli.warn(f"{path}: {len(lines) - len(read)} lines were cut short and are left out")
    return read


def summary_writer():
    """torch's SummaryWriter. Raises UserError where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: the package is not installed; pip install tensorboard, or do without"
        ) from None
    return SummaryWriter


class Log:
    """JSON lines in output_dir/log.jsonl and their picture, training.png."""

    def __init__(self, directory, options, made, resumed_at=0):
        self.path, self.picture = directory / "log.jsonl", directory / "training.png"
        self.lines, self.board, self.drawn = [], None, -math.inf
        if resumed_at and self.path.is_file():  # steps after the checkpoint are done again
            self.lines = [line for line in read_log(self.path) if line.get("step", 0) <= resumed_at]
        self.lines.append({"options": dataclasses.asdict(options), "versions": made})
        with whole(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        if options.tensorboard:  # what it holds of steps that are done again is hidden
            self.board = summary_writer()(
                directory / "tensorboard", purge_step=resumed_at + 1 if resumed_at else None
            )

    def write(self, **line):
        self.lines.append(line)
        with naming(self.path, self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name in line.keys() - {"step", "split"}:
                values = line[name] if isinstance(line[name], list) else [line[name]]
                for beat, value in enumerate(values, start=1):
                    of = f"/beat {beat}" if isinstance(line[name], list) else ""
                    self.board.add_scalar(f"{line['split']}/{name}{of}", value, line["step"])
            self.board.flush()

    def draw(self, anew=True):
        """Loss terms and bounds, what the plans carry, learning rate and β over the steps, as
        training.png.

        anew: also where it has just been drawn, which takes a second.
        """
        if not anew and time.monotonic() < self.drawn + 20:
            return
        self.drawn = time.monotonic()
        train = [line for line in self.lines if line.get("split") == "train"]
        val = [line for line in self.lines if line.get("split") == "val"]
        figure = Figure(figsize=(15, 7.5), layout="constrained")
        axes = figure.subplots(2, 3)
        terms, bounds, plans, units, calibration, rates = axes.flat

        def line(axis, lines, name, *style, **options):
            points = [(x["step"], x[name]) for x in lines if name in x]
            return axis.plot(*zip(*points), *style, **options)[0] if points else None

        for name in TERMS:
            drawn = line(terms, train, name, label=name, lw=1)
            line(terms, val, name, "o--", ms=3, c=drawn.get_color() if drawn else None)
        terms.set(
            title="loss terms (line: training, dots: validation)",
            ylabel="nats per story",
            yscale="symlog",
        )
        for name, label in (
            ("elbo_loss", "−ELBO"),
            ("iwae_loss", "−IWAE bound"),
            ("nll", "NLL given the plan"),
        ):
            line(bounds, val, name, "o-", ms=3, label=label)
        line(bounds, val, "kl", "o:", ms=3, label="KL")
        bounds.set(
            title="bounds of the likelihood (validation)", ylabel="nats per story", yscale="symlog"
        )
        for name, style, label in (("kl", "o-", "KL"), ("information", "x--", "information")):
            for beat, values in enumerate(
                zip(*(x[f"{name}_per_beat"] for x in val if f"{name}_per_beat" in x))
            ):
                steps = [x["step"] for x in val][-len(values) :]
                plans.plot(
                    steps, values, style, ms=4, c=f"C{beat}", label=f"{label}, beat {beat + 1}"
                )
        plans.set(title="KL, and mutual information of story and plan", ylabel="nats")
        for beat, values in enumerate(zip(*(x["active_units_per_beat"] for x in val))):
            units.plot([x["step"] for x in val], values, "o-", ms=3, label=f"beat {beat + 1}")
        told = units.twinx()
        if line(
            told,
            val,
            "bow_perplexity",
            "k:",
            label="perplexity of the words, in no order, given the plan alone",
        ):
            told.legend(fontsize=7, loc="center right")
        units.set(
            title="active units, and what a plan tells",
            ylabel="dimensions of the plan",
            xlabel="step",
        )
        units.set_ylim(0)
        for name, (of, _) in WITHIN.items():
            share = int(name[-2:])
            style = {"c": f"C{int(share > 50)}", "ls": "-" if of == "samples" else ":"}
            if line(calibration, val, name, marker="o", ms=3, label=f"{of} in {share} %", **style):
                calibration.axhline(share / 100, c=style["c"], lw=0.5)
        calibration.set(
            title="posterior in the middle of the prior",
            ylabel="share",
            xlabel="step",
            ylim=(0, 1.02),
        )
        peak = max((x["lr"] for x in train), default=0) or 1
        rates.plot(
            [x["step"] for x in train],
            [x["lr"] / peak for x in train],
            label=f"learning rate / {peak:.2g}",
        )
        line(rates, train, "beta", label="β")
        line(rates, train, "bags", label="the plan's bags of words")
        rates.set(title="schedules", xlabel="step")
        for axis in axes.flat:
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7, ncols=2 if axis is plans else 1)
        with whole(self.picture) as temporary:
            figure.savefig(temporary, dpi=110)


# --------------------------------------------------------------------------------------------- main


def resolve(options):
    """Fill in what was not named, saying what was chosen. Returns the paths of both splits."""
    train_path = options.train_data_path or latest_split("train")
    if train_path is None:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split; run "
            "python dataset.py "
            "first, or bash train.sh, which draws its own sample"
        )
    train_path = Path(train_path)
    if options.train_data_path is None and cli.first_process():
        print(
            f"training on {train_path}, the newest preprocessed split (--train_data_path names "
            "another)"
        )
    val_path = (
        Path(options.val_data_path) if options.val_data_path else train_path.with_name("val.json")
    )
    if options.val_data_path is None and cli.first_process():
        print(f"validating on {val_path} (--val_data_path names another)")
    for path in (train_path, val_path):
        if not path.is_file():
            raise UserError(
                f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected {SPLIT_SHAPE}"
            )
    return train_path, val_path


def restore(options):
    """The progress of the latest checkpoint, None to start afresh. Raises UserError where options
    do not fit it."""
    directory = Path(options.output_dir)
    latest = directory / LATEST
    recover(latest)
    if options.overwrite:
        return None
    if not (latest / PROGRESS).is_file():
        if steps := kept_steps(directory):
            found = f"--output_dir {directory}: no {LATEST}, but {steps[-1].name}"
            raise UserError(f"{found}; rename it to {LATEST} to go on from there, or --overwrite")
        if any((directory / name).exists() for name in (BEST, LATEST)):
            raise UserError(
                f"--output_dir {directory}: holds a model that cannot be resumed; --overwrite "
                "replaces it"
            )
        if options.resume and cli.first_process():
            print(f"nothing to resume in {directory}: starting from the beginning")
        return None
    if not options.resume:
        raise UserError(
            f"--output_dir {directory}: holds a training; --resume takes it up, --overwrite starts "
            "again"
        )
    progress = read_progress(latest / PROGRESS)
    now, allowed = dataclasses.asdict(options), {*FREE_TO_CHANGE, *changeable(options)}
    then = progress["options"]
    changed = [
        name for name in then if name in now and name not in allowed and now[name] != then[name]
    ]
    if unknown := then.keys() - now.keys():
        cli.warn(
            f"{latest}: of a version with other options, which are left aside: "
            f"{', '.join(sorted(unknown))}"
        )
    if changed:
        told = "; ".join(f"--{name} was {then[name]}, now {now[name]}" for name in changed)
        allow = (
            "" if OF_THE_MODEL & {*changed} else f"allow it (--allow_changed {','.join(changed)}), "
        )
        advice = f"keep its options, {allow}or --overwrite"
        raise UserError(f"--resume {latest}: another training ({told}); {advice}")
    return progress


def describe(path, dataset):
    """A split in a few words, which change when the data do."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    rows = " x ".join(map(str, dataset.photos.shape))
    return f"{len(dataset)} stories (sha256 {digest}…), photos: {dataset.photos.kind}, {rows}"


class Training:
    """A training in progress: the model, the optimizer, and where it stands."""

    def __init__(self, options, train_path, val_path, progress):
        self.options, self.directory = options, Path(options.output_dir)
        self.progress = {"step": 0, "best": math.inf, "best_step": None, "worse": 0} | (
            progress or {}
        )
        self.progress.setdefault("id", uuid.uuid4().hex)
        self.resumed = bool(progress)
        self.progress["stopped_early"] = 0 < options.patience <= self.progress["worse"]
        self.accelerator = get_accelerator(options)
        set_seed(options.seed)
        latest = self.directory / LATEST
        if progress:
            self.model, self.tokenizer = load_checkpoint(latest, "--resume")
        else:
            self.tokenizer = load_data_tokenizer(train_path.parent / "tokenizer")
            self.model = build_model(options, self.tokenizer, train_path.parent)
        self.train_set, self.val_set = (
            StoryDataset.load(
                path,
                self.tokenizer,
                options.image_slots,
                self.model.max_length,
                self.model.image_encoder,
            )
            for path in (train_path, val_path)
        )
        data = {
            "training": describe(train_path, self.train_set),
            "validation": describe(val_path, self.val_set),
        }
        for split, name in (("training", "train_data_path"), ("validation", "val_data_path")):
            then = self.progress.get("data", data).get(split)
            if data[split] != then and name not in changeable(options):
                advice = f"the same data, or --allow_changed {name}, or --overwrite"
                raise UserError(
                    f"--resume {latest}: other {split} data ({then} then, {data[split]} now); "
                    f"{advice}"
                )
        self.progress |= {"data": data, "versions": versions()}
        self.model.config.text = self.train_set.written
        if self.train_set.photos.kind == "features":
            self.model.config.train_encoder = False  # there are no pixels to train it from
            if not progress:
                rows = self.train_set.text.photos
                mean, var = self.train_set.photos.moments(rows[rows >= 0])
                self.model.feature_mean.copy_(mean)
                self.model.feature_var.copy_(var)
        # A model that was loaded has forgotten what of it is frozen.
        self.model.first_dyn.requires_grad_(options.plan != "none")
        self.model.image_encoder.requires_grad_(self.model.config.train_encoder)
        # several GPUs would wait for idle gradients
        self.model.photo_head.requires_grad_(options.photo_weight > 0)
        if options.plan != "none":
            self.model.bow_bias.requires_grad_(options.bow_weight > 0)
            self.model.ahead_mlp.requires_grad_(options.ahead_weight > 0)
        elif not (options.dynamics_weight or options.foresight_weight):
            self.model.dynamics.requires_grad_(False)
            self.model.dynamics_head.requires_grad_(False)
        # Validation asks the model without the wrapper of DDP, which would wait for the others at
        # every batch.
        self.ddp = self.shard() if options.fsdp else self.accelerator.prepare(self.model)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options.weight_decay),
            lr=options.learning_rate,
            betas=ADAM_BETAS,
            fused=True,
        )
        self.optimizer = self.accelerator.prepare(self.optimizer)
        if progress:
            with cli.loading(
                f"--resume {latest / OPTIMIZER}", "expected the state that train.py wrote", tried=""
            ):
                load_optimizer(self.model, self.optimizer, latest / OPTIMIZER)
            if self.accelerator.scaler is not None and "scaler" in progress:
                self.accelerator.scaler.load_state_dict(progress["scaler"])
        self.batches = BucketBatches(self.train_set.lengths, options.batch_size, options.seed)
        self.steps_per_epoch = math.ceil(len(self.batches) / options.accumulation)
        self.total_steps = options.max_steps or max(1, round(options.epochs * self.steps_per_epoch))
        self.eval_every = options.eval_every or self.steps_per_epoch
        terms = (
            "free_bits",
            "bow_weight",
            "ahead_weight",
            "photo_weight",
            "foresight_weight",
            "dynamics_weight",
            "posterior_dropout",
            "photo_dropout",
        )
        self.objective = {name: getattr(options, name) for name in terms}
        self.stop = None  # the signal that asked us to stop
        self.stopping = False  # whether it has asked any of several processes
        self.unchecked = []  # losses since the last check
        # Sums of the terms, tokens and stories since the last line of the log; in a checkpoint
        # those of all processes.
        self.window = torch.zeros(len(TERMS) + 2, device=self.accelerator.device)
        window = self.progress.get("window", [])
        if self.accelerator.is_main_process and len(window) == len(self.window):
            self.window += torch.tensor(window, device=self.accelerator.device)

    def shard(self):
        """The model with its parameters, their gradients and their moments cut over the processes,
        block by block."""
        if self.accelerator.num_processes == 1:
            raise UserError("--fsdp: one process; expected several (torchrun or accelerate launch)")
        # whose batch norms would differ from process to process
        if self.model.config.train_encoder:
            raise UserError(
                "--fsdp: the photo encoder is trained too; expected features, or --no-train_encoder"
            )
        self.model.to(self.accelerator.device)
        for block in (*self.model.decoder.transformer.h, *self.model.dynamics.h):
            fully_shard(block)
        return fully_shard(self.model, reshard_after_forward=True)

    def groups(self):
        """The batches of each optimizer step, from where the training stands; it never ends."""
        options = self.options
        while True:
            epoch, done = divmod(self.progress["step"], self.steps_per_epoch)
            self.batches.set_epoch(epoch, start=done * options.accumulation)
            data = iter(get_loader(self.train_set, self.batches, self.accelerator, options.workers))
            while group := list(islice(data, options.accumulation)):
                yield group

    def take_step(self, group):
        """One optimizer step over the batches of `group`. Returns this process's sums of the terms,
        and rates."""
        options, step, accelerator = self.options, self.progress["step"], self.accelerator
        set_seed((options.seed * 1_000_003 + step) % 2**32, device_specific=True)  # of the dropout
        lr, beta = (
            get_lr(step, self.total_steps, options),
            get_beta(step, self.total_steps, options),
        )
        for entry in self.optimizer.param_groups:
            entry["lr"] = lr
        # The whole step's tokens divide the loss: a mean of means over unequal parts would weigh
        # them wrongly.
        tokens = sum(len(batch["words"]) * Shard.counts(batch) for batch in group)
        told = accelerator.reduce(
            torch.tensor([tokens, bool(self.stop)], device=accelerator.device)
        )
        tokens, sums = told[0], 0
        objective, bags = dict(self.objective), get_bags(step, self.total_steps, options)
        for name in ("bow_weight", "ahead_weight"):
            objective[name] *= bags
        self.stopping = bool(told[1]) if accelerator.num_processes > 1 else False
        for place, batch in enumerate(group):
            stories, counts, Z = batch["index"], Shard.counts(batch), self.model.config.plan_size
            batch["draws"] = Draws.of(stories, batch["beat_mask"], Z, [options.seed, step])
            batch = send_to_device(batch, accelerator.device, non_blocking=True)
            sync = nullcontext() if place == len(group) - 1 else accelerator.no_sync(self.ddp)
            with sync:
                with accelerator.autocast():
                    out = self.ddp(**batch, beta=beta, num_tokens=tokens, **objective)
                # Processes average their gradients, which are to be added.
                accelerator.backward(out.loss * (counts * accelerator.num_processes))
            terms = [out[name].detach() for name in TERMS]
            terms += [out.tokens.float(), out.tokens.new_tensor(len(stories)).float()]
            sums = sums + counts * torch.stack(terms)
            self.unchecked.append((step, stories, out.loss.detach(), sums))
        norm = accelerator.clip_grad_norm_(self.ddp.parameters(), options.grad_clip or math.inf)
        if accelerator.scaler is None:  # which leaves out steps whose gradients have overflown
            norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            alone = accelerator.num_processes == 1  # else it is of all processes' stories
            stories = (
                torch.cat([batch["index"] for batch in group])
                if alone
                else torch.empty(0, dtype=torch.long)
            )
            self.unchecked.append((step, stories, norm, None))
        # a GPU would have to be waited for: run() does so now and then
        if accelerator.device.type == "cpu":
            self.check()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress["step"] += 1
        return sums, {"lr": lr, "beta": beta, "bags": bags}

    def check(self, together=False):
        """Stop at a loss or gradient that was not finite since the last check, saying which term;
        together: of any process."""
        bad = [entry for entry in self.unchecked if not torch.isfinite(entry[2])]
        self.unchecked = []
        elsewhere = together and over_processes(self.accelerator, torch.tensor(len(bad)).double())
        if bad:
            step, stories, value, terms = bad[0]
            if terms is None:
                found = f"step {step}: gradient not finite (its norm is {value.item()}"
            else:
                values = dict(zip(TERMS, terms.tolist()))
                names = [name for name, value in values.items() if not math.isfinite(value)] or [
                    "loss"
                ]
                found = f"step {step}: {' and '.join(names)} not finite ({values}"
            numbers = stories.tolist()
            ids = ", ".join(story_ids(self.options.train_data_path, numbers[:32]))
            of = f"; stories {ids}{' …' if len(numbers) > 32 else ''}" if numbers else ""
            self.give_up(f"{found}{of})")
        elif elsewhere:
            self.give_up("a loss is not finite in another process")

    def give_up(self, found):
        latest = self.directory / LATEST
        there = (
            f"{latest} holds the last good checkpoint"
            if latest.is_dir()
            else "there is no checkpoint yet"
        )
        raise UserError(f"{found}; {there}; a smaller --learning_rate or --grad_clip often helps")

    def validate(self, log):
        """Figures over the validation split; the latest and the best model are saved. Returns a
        line to print."""
        self.check(together=True)
        figures = evaluate(self.model, self.val_set, self.accelerator, self.options)
        progress, patience = self.progress, self.options.patience
        if not math.isfinite(figures["elbo_loss"]):  # of the same weights in all processes
            names = [name for name in TERMS if not math.isfinite(figures[name])]
            self.give_up(f"validation at step {progress['step']}: {' and '.join(names)} not finite")
        better = figures["elbo_loss"] < progress["best"]
        if better:
            progress |= {"best": figures["elbo_loss"], "best_step": progress["step"]}
        progress["worse"] = 0 if better else progress["worse"] + 1
        progress["stopped_early"] = 0 < patience <= progress["worse"]
        progress["validation"] = {"step": progress["step"], **figures}
        if log:
            log.write(step=progress["step"], split="val", **figures)
            log.draw(anew=False)
        self.save()
        return (
            f"step {progress['step']}: validation −ELBO {figures['elbo_loss']:.2f} nats a story, "
            "perplexity "
            f"{figures['perplexity']:.3f}, KL {figures['kl']:.2f}, active units "
            f"{figures['active_units_per_beat']}"
            f"{', the best so far' if better else ''}"
        )

    def save(self):
        """Write the latest checkpoint, from which any number of processes can go on; all else is
        derived from it."""
        self.check(together=True)
        main = self.accelerator.is_main_process
        # Tied weights are there once: under FSDP they would be written twice.
        own = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
        state = {key: value for key, value in self.model.state_dict().items() if key in own}
        moments = optimizer_tensors(self.model, self.optimizer)
        weights, optimizer = gathered(state, main), gathered(moments, main)
        window = over_processes(self.accelerator, self.window.cpu().double()).tolist()
        progress = self.progress | {"options": dataclasses.asdict(self.options), "window": window}
        if self.accelerator.scaler is not None:
            progress["scaler"] = self.accelerator.scaler.state_dict()
        if main:
            save_checkpoint(
                self.directory / LATEST, self.model, self.tokenizer, weights, optimizer, progress
            )
            self.derive()
        self.accelerator.wait_for_everyone()

    def derive(self):
        """The checkpoints that follow from the latest: the best, where it is that, and the --keep
        newest.

        Those of a training that was overwritten go, and those that are ahead of one that was taken
        up from an older step. A training that is taken up does this first: it may have been killed
        before it came to it.
        """
        progress, latest, best = self.progress, self.directory / LATEST, self.directory / BEST
        recover(best)
        if progress["best_step"] == progress["step"]:
            copy_checkpoint(latest, best, leave_out=(OPTIMIZER, PROGRESS))
        elif progress["best_step"] is None and best.exists():
            remove(best)
        # not where it stopped
        if self.options.keep and progress.get("validation", {}).get("step") == progress["step"]:
            copy_checkpoint(latest, self.directory / f"{STEP}{progress['step']}")
        kept = [path for path in kept_steps(self.directory) if is_of(path, progress)]
        for path in kept_steps(self.directory):
            if path not in kept[-self.options.keep :]:  # with --keep 0 all that are its own stay
                remove(path)

    def say(self, text):
        if self.accelerator.is_main_process:
            cli.say(text)

    def ask_to_stop(self, number, frame):
        """A signal handler: the step under way is finished and saved first; a second such signal
        stops at once."""
        self.stop = number
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        # print() may be interrupted within itself
        if self.accelerator.is_main_process and os.getpid() == self.pid:
            os.write(
                2, b"\nstopping: the step or validation under way is finished and saved first\n"
            )

    @contextmanager
    def stoppable(self):
        """Within it SIGINT and SIGTERM ask the training to stop."""
        self.pid = os.getpid()  # not that of the workers, which get the signals too
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # One that is ignored stays so; None is a handler that Python knows nothing of.
        before = {n: was for n, was in before.items() if was not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, self.ask_to_stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self):
        """Train to the end, or to where a signal or --patience stops it. Returns the exit
        status."""
        options, accelerator, progress = self.options, self.accelerator, self.progress
        main = accelerator.is_main_process
        if main and self.resumed:
            self.derive()
        elif options.overwrite:  # from here on it is this training that --resume takes up
            self.save()
        log = Log(self.directory, options, progress["versions"], progress["step"]) if main else None
        bar = tqdm(
            total=self.total_steps,
            initial=progress["step"],
            desc="training",
            unit="step",
            disable=not main,
        )
        names = (*TERMS, "tokens", "stories")
        since = time.perf_counter()
        self.ddp.train()
        for group in self.groups():
            sums, rates = self.take_step(group)
            self.window += sums
            bar.update()
            step = progress["step"]
            last = step >= self.total_steps
            if step % options.log_every == 0 or last:
                self.check()
                totals = over_processes(accelerator, self.window.cpu().double())
                totals = dict(zip(names, totals.tolist(), strict=True))
                speed = totals["stories"] / (time.perf_counter() - since)
                terms = {name: totals[name] / totals["stories"] for name in TERMS}
                nll = totals["nll"] / totals["tokens"]
                bar.set_postfix_str(
                    f"NLL {nll:.3f} a token, KL {terms['kl']:.2f} a story, {speed:.0f} stories/s"
                )
                if log:
                    log.write(step=step, split="train", **terms, **rates, stories_per_second=speed)
                since = time.perf_counter()
                self.window.zero_()
            validated = step % self.eval_every == 0 or last
            if validated:
                figures = self.validate(log)
                if main:
                    with tqdm.external_write_mode():
                        cli.say(figures)
                since = time.perf_counter()
            if last or progress["stopped_early"]:
                break
            # A signal may reach one of several processes: they have told each other when the step
            # began.
            if self.stopping if accelerator.num_processes > 1 else self.stop:
                if not validated:
                    self.save()
                bar.close()
                if log:
                    log.draw()
                self.say(
                    f"stopped at step {step} and saved; the same command with --resume goes on"
                )
                accelerator.end_training()
                return 128 + (self.stop or signal.SIGTERM)
        bar.close()
        if log:
            log.draw()
        if progress["stopped_early"]:
            self.say(
                f"stopped early: {progress['worse']} validations without a better −ELBO "
                "(--patience)"
            )
        self.say(f"best model: {self.directory / BEST}; log.jsonl and training.png stand beside it")
        accelerator.end_training()


def evaluate_only(options):
    """Figures of the best model over a split, on the screen and in output_dir/evaluation.json.

    The weights of the bags are those that it was trained with, where output_dir tells.
    """
    progress = Path(options.output_dir) / LATEST / PROGRESS
    if progress.is_file():
        trained = read_progress(progress)["options"]
        weights = {
            f"{name}_weight": trained[f"{name}_weight"]
            for name in BAGS
            if f"{name}_weight" in trained
        }
        options = dataclasses.replace(options, **weights)
    accelerator = get_accelerator(options)
    model, tokenizer = load_checkpoint(options.output_dir, "--output_dir")
    K, most = model.config.image_slots, model.max_length
    dataset = StoryDataset.load(options.evaluate, tokenizer, K, most, model.image_encoder)
    figures = evaluate(model.to(accelerator.device), dataset, accelerator, options)
    if accelerator.is_main_process:
        for name, value in figures.items():
            print(
                f"{name:24}"
                f"{[round(x, 3) for x in value] if isinstance(value, list) else round(value, 4)}"
            )
        target = Path(options.output_dir) / "evaluation.json"
        write_json(
            target,
            {"split": options.evaluate, "iwae_samples": options.iwae_samples, "figures": figures},
        )
        print(f"-> {target}")
    accelerator.end_training()


def main():
    options = parse()
    if options.evaluate is not None:
        return evaluate_only(options)
    if options.tensorboard:
        summary_writer()  # before anything is loaded
    with alone(options.output_dir, "--output_dir") if cli.first_process() else nullcontext():
        return train(options)


def train(options):
    """Start or take up the training that the options describe. Returns the exit status."""
    train_path, val_path = resolve(options)
    options.train_data_path, options.val_data_path = str(train_path), str(val_path)
    progress = restore(options)
    training = Training(options, train_path, val_path, progress)
    say = training.say
    for name, data in (("training", training.train_set), ("validation", training.val_set)):
        shortened = (
            f", {data.shortened} of them shortened to {training.model.max_length} positions"
            if data.shortened
            else ""
        )
        say(f"{name}: {len(data)} stories{shortened}, photos as {data.photos.kind}")
    done = training.progress
    if progress and (done["step"] >= training.total_steps or done["stopped_early"]):
        if cli.first_process():
            training.derive()
        say(
            f"{options.output_dir}: this training is complete ({done['step']} steps, −ELBO "
            f"{done['best']:.2f})"
        )
        return 0
    trained = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    say(
        f"{trained / 1e6:.1f} M trained parameters, {training.total_steps} steps on "
        f"{training.accelerator.device}"
    )
    with training.stoppable():
        return training.run()


if __name__ == "__main__":
    cli.run(main)
