"""Time and memory of all that users wait for, beside a limit and beside the reference's way.

    python -m experiments.benchmark                       all; writes output/benchmark.json and .png
    python -m experiments.benchmark training generation   some parts of it

The reference's way is in reference.py. The limit is the part of the work that no code around it
can save, such as a bare GPT-2 over the same tokens. Weights, words and photos are random: nothing
is downloaded.
"""

import argparse
from pathlib import Path

from utils import cli
from utils.cli import RESNETS, UserError

PARTS = ("training", "generation", "preprocessing", "scoring", "memory", "startup")


def parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m experiments.benchmark", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--size", choices=("gpt2", "tiny"), default="gpt2", help="GPT-2 small, or a rehearsal")
    add("--encoder", choices=RESNETS, help="image encoder (default: by --size)")
    add("--batch_size", type=cli.positive_int, help="stories per training step; 8, on a GPU 64")
    add("--repetitions", type=cli.positive_int, default=5, help="of each, after one to warm up")
    add("--threads", type=cli.positive_int, default=argparse.SUPPRESS, help="of torch")
    add("--precision", choices=("auto", "no", "bf16"), default="auto", help="auto: bf16 on a GPU")
    add("--compile", action="store_true", help="measure training with torch.compile too")
    add("--seed", type=cli.non_negative_int, default=0, help="random seed")
    add("--output", default="output/benchmark", help="writes OUTPUT.json and OUTPUT.png")
    return parser


def parse(arguments: list[str] | None = None):
    options = parser().parse_intermixed_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        raise UserError(f"{min(unknown)}: unknown part; expected {', '.join(PARTS)}")
    options.output = options.output.removesuffix(".json")
    for path in (options.output, f"{options.output}.json"):
        if Path(path).is_dir():
            raise UserError(
                f"--output {options.output}: a folder; expected the name of the files to write"
            )
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import contextlib
import io
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

import CDE_score
from dataset import StoryDataset, collate
from experiments.reference import Reference, story_for_reference
from generate import generate_stories
from model import PlanCVAE, PlanCVAEConfig
from train import ADAM_BETAS
from utils.batches import BucketBatches, split_into
from utils.checkpoint import versions
from utils.dataset_options import CPU_BATCH
from utils.files import save_figure, write_json
from utils.gaussian import Noise
from utils.image_encoder import ImageEncoder, ImageEncoderConfig
from utils.loading import quiet_transformers
from utils.preprocessing import encode_photos, write_photos
from utils.processes import best_device, join_processes
from utils.report import Table
from utils.structure import PAD
from utils.tokenizer import train_tokenizer
from utils.train_options import OBJECTIVE, TrainOptions

BEATS, WORDS = 5, 13  # of VIST's stories, and the mean words of its sentences
VIST_STORIES = 40_155  # of its training split
MEDIAN_AND_RANGE = (0.5, 0, 1)  # quantiles
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # of bf16, per second
TINY = {"vocab_size": 310, "n_layer": 2, "n_embd": 32, "n_head": 2}
SIZES = {  # GPT2Config's fields, image encoder, image size, image positions, photos, scored stories
    "gpt2": ({"vocab_size": 50263}, "resnet152", 224, 10, 192, 32),
    "tiny": (TINY, "resnet18", 32, 3, 8, 6),
}


# ------------------------------------------------------------------------------- what is measured


class Setup:
    """Networks with random weights and random stories, as long as VIST's."""

    def __init__(self, options):
        self.decoder_fields, encoder, image_size, *counts = SIZES[options.size]
        self.image_positions, self.photos, self.scored = counts
        self.options, self.device = options, best_device()
        self.on_gpu = self.device.type == "cuda"
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and self.on_gpu)
        self.batch_size = options.batch_size or (64 if self.on_gpu else 8)
        torch.set_num_threads(getattr(options, "threads", torch.get_num_threads()))
        torch.manual_seed(options.seed)
        self.tokenizer = train_tokenizer(["a fox ."], 256)
        self.encoder = ImageEncoderConfig(arch=options.encoder or encoder, image_size=image_size)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def build_decoder(self) -> GPT2LMHeadModel:
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = GPT2Config(**self.decoder_fields, **dropout, eos_token_id=None, bos_token_id=None)
        return GPT2LMHeadModel(config).to(self.device)

    def build_model(self) -> PlanCVAE:
        config = PlanCVAEConfig(
            decoder=self.build_decoder().config.to_dict(),
            image_encoder=self.encoder.to_dict(),
            image_positions=self.image_positions,
            state_bow=True,
        )
        return PlanCVAE(config).to(self.device)

    def stories(self, count: int, beats: int = BEATS) -> StoryDataset:
        """Stories of one-byte words and random photo features."""
        rng = np.random.default_rng(self.options.seed)
        lengths = np.clip(rng.poisson(rng.gamma(6, WORDS / 6, (count, beats))), 4, 30)
        stories = []
        for i in range(count):
            beats_of_story = [
                # a token a byte, that of the space before it too
                {"sentence": "a" * (n - 1), "photo": i * beats + t}
                for t, n in enumerate(lengths[i])
            ]
            stories.append({"story_id": str(i), "beats": beats_of_story})
        photos = torch.randn(count * beats, self.encoder.feature_size)
        max_length = beats * (self.image_positions + 33)
        return StoryDataset(stories, photos, self.tokenizer, self.image_positions, max_length)

    def batch(self, stories: StoryDataset, indices) -> dict:
        batch = collate([stories[i] for i in indices])
        return send_to_device(batch, self.device)


# -------------------------------------------------------------------------------------- measuring


def interleave(functions: dict, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each function, in turns, so that what slows the machine for a while slows all of
    them; turn 0 warms up."""
    seconds = {name: [] for name in functions}
    for turn in range(repetitions + 1):
        for name, function in functions.items():
            synchronize()
            start = time.perf_counter()
            function(turn)
            synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_row(what: str, unit: str, seconds: dict, work: dict, ours: str = "ours") -> dict:
    """Speeds, and ours by the limit's and the reference's in the same turn. work: how much each
    does in a call."""
    rates = {name: work[name] / np.array(times) for name, times in seconds.items()}
    row = {"what": what, "unit": unit, "seconds": seconds, "rates": {}, "ratios": {}}
    for name, rate in rates.items():
        row["rates"][name] = np.quantile(rate, MEDIAN_AND_RANGE).tolist()
        if name in ("limit", "reference"):
            row["ratios"][name] = np.quantile(rates[ours] / rate, MEDIAN_AND_RANGE).tolist()
    return row


def measure_training(setup: Setup) -> dict:
    options, train_options = setup.options, TrainOptions()
    steps = 10 if setup.on_gpu else 1  # a GPU's step is too short to time one
    model, decoder = setup.build_model().train(), setup.build_decoder().train()
    reference = Reference(setup.build_decoder(), setup.encoder.feature_size, setup.image_positions)
    reference.to(setup.device)
    networks = (model, decoder, reference)
    optimizers = {x: torch.optim.AdamW(x.parameters(), 5e-5, ADAM_BETAS) for x in networks}
    objective = {name: getattr(train_options, name) for name in OBJECTIVE}
    stories = setup.stories(50 * setup.batch_size)
    batches = list(BucketBatches(stories.lengths, setup.batch_size, options.seed))
    ready = [setup.batch(stories, indices) for indices in batches[:steps]]

    def step(network, loss) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), train_options.max_grad_norm)
        optimizers[network].step()
        optimizers[network].zero_grad()

    def ours(turn: int, network=model) -> None:
        for indices in batches[:steps]:
            batch = collate([stories[i] for i in indices])
            seed = [options.seed, turn]
            size = model.config.plan_size
            batch["noise"] = Noise.sample(batch["index"], batch["beat_mask"], size, seed)
            with setup.autocast():
                loss = network(**send_to_device(batch, setup.device), **objective).loss
            step(model, loss)

    def limit(turn: int) -> None:
        for batch in ready:
            with setup.autocast():
                loss = bare_loss(decoder, batch)
            step(decoder, loss)

    def reference_step(turn: int) -> None:
        story = story_for_reference(stories, batches[0][0], setup.device)
        reference.train_on(*story, optimizers[reference], setup.autocast)

    functions = {"reference": reference_step, "limit": limit, "ours": ours}
    if options.compile:
        compiled = torch.compile(model, dynamic=True)
        functions["compiled"] = lambda turn: ours(turn, compiled)
    work = dict.fromkeys(functions, steps * setup.batch_size) | {"reference": 1}
    seconds = interleave(functions, options.repetitions)
    rows = [make_row(f"training, batch {setup.batch_size}", "stories", seconds, work)]
    if options.compile:
        rows.append(make_row("training, compiled", "stories", seconds, work, "compiled"))
    step_seconds = float(np.median(seconds["ours"])) / steps
    tokens = sum(int((batch["input_ids"] != PAD).sum()) for batch in ready)
    positions = sum(batch["input_ids"].numel() for batch in ready)
    with FlopCounterMode(display=False) as counter:
        ours(0)
    flops = counter.get_total_flops() / steps / step_seconds
    figures = {
        "tokens per second": tokens / steps / step_seconds,
        "TFLOP per second": flops / 1e12,
        "padding": 1 - tokens / positions,
        "hours per epoch of VIST": VIST_STORIES / setup.batch_size * step_seconds / 3600,
    }
    name = torch.cuda.get_device_name() if setup.on_gpu else ""
    for gpu, peak in PEAK_FLOPS.items():
        if gpu in name and setup.bf16:
            figures["model FLOP utilisation"] = flops / peak
    return {"rows": rows, "figures": figures}


def bare_logits(decoder: GPT2LMHeadModel, batch: dict) -> torch.Tensor:
    """GPT-2 alone over the same tokens: logits (N, V) of predicted words."""
    states = decoder.transformer(input_ids=batch["input_ids"].clamp(min=0), use_cache=False)[0]
    return decoder.lm_head(states.flatten(0, 1)[batch["word_at"]])


def bare_loss(decoder: GPT2LMHeadModel, batch: dict) -> torch.Tensor:
    return F.cross_entropy(bare_logits(decoder, batch).float(), batch["words"])


def measure_generation(setup: Setup) -> dict:
    """A fifth sentence or a whole story; greedy or 5 beams; 1 story or 16."""
    model, decoder = setup.build_model().eval(), setup.build_decoder().eval()
    reference = Reference(decoder, setup.encoder.feature_size, setup.image_positions)
    networks = model, decoder, reference.to(setup.device)
    stories, rows = setup.stories(16), []
    for first, beams, count in ((5, 1, 1), (5, 5, 1), (1, 1, 16), (1, 5, 16)):
        functions = generation_functions(setup, networks, stories, first, beams, count)
        work = dict.fromkeys(functions, count * (BEATS - first + 1))
        with setup.autocast():
            seconds = interleave(functions, setup.options.repetitions)
        extent = "fifth sentence" if first > 1 else "whole story"
        decoding = f"beam {beams}" if beams > 1 else "greedy"
        rows.append(make_row(f"{extent}, {decoding}, batch {count}", "sentences", seconds, work))
    return {"rows": rows}


def generation_functions(
    setup: Setup, networks: tuple, stories: StoryDataset, first: int, beams: int, count: int
) -> dict:
    """Each way to write the sentences from number `first` on of `count` stories."""
    model, decoder, reference = networks
    device, eos = setup.device, setup.tokenizer.eos_token_id
    settings = GenerationConfig(
        num_beams=beams,
        do_sample=False,
        min_new_tokens=WORDS,
        max_new_tokens=WORDS,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    photos = stories.photos.view(len(stories), BEATS, -1)[:count].to(device)
    mask = torch.ones(count, BEATS, dtype=torch.bool, device=device)
    prefix = [stories.sentences(i)[: first - 1] for i in range(count)]

    def ours(turn: int) -> None:
        generate_stories(model, photos, mask, settings, prefix=prefix)

    def limit(turn: int) -> None:
        for t in range(first, BEATS + 1):
            length = t * (setup.image_positions + 1) + (t - 1) * (WORDS + 2)
            ids = torch.zeros(count, length, dtype=torch.long, device=device)
            read = torch.ones_like(ids)
            decoder.generate(ids, attention_mask=read, generation_config=settings)

    def word_by_word(turn: int) -> None:
        sentences, features = story_for_reference(stories, 0, device)
        reference.write([*sentences[:-1], sentences[-1][:1]], features, WORDS, beams)

    functions = {"limit": limit, "ours": ours}
    return functions | {"reference": word_by_word} if count == 1 else functions


def draw_photos(folder: Path, count: int, seed: int) -> dict[str, Path]:
    """JPEG files of VIST's usual size: smooth noise."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)
    return {str(i): folder / f"{i}.jpg" for i in range(count)}


def measure_preprocessing(setup: Setup) -> dict:
    encoder = ImageEncoder(setup.encoder).eval()
    network = encoder.fuse_batch_norms().to(setup.device)
    count = setup.photos * (32 if setup.on_gpu else 1)
    batch_size = 64 if setup.on_gpu else CPU_BATCH
    with tempfile.TemporaryDirectory() as folder, join_processes() as state:
        photos = draw_photos(Path(folder), count, setup.options.seed)
        pixels = encoder.preprocess(Image.open(photos["0"]))
        batches = [torch.stack([pixels] * len(x)) for x in split_into(range(count), batch_size)]

        def ours(turn: int) -> None:
            target = Path(folder) / f"{turn}.partial"
            with contextlib.redirect_stderr(io.StringIO()):  # its bar
                workers = psutil.cpu_count()
                write_photos(target, photos, encoder, "pixels", batch_size, workers, state)

        def limit(turn: int) -> None:
            for batch in batches:
                encode_photos(network, batch.to(setup.device))

        @torch.no_grad()
        def one_by_one(turn: int) -> None:
            for path in list(photos.values())[: count // 8]:
                pixels = encoder.preprocess(Image.open(path).convert("RGB"))
                encoder(pixels[None])

        functions = {"reference": one_by_one, "limit": limit, "ours": ours}
        work = dict.fromkeys(functions, count) | {"reference": count // 8}
        seconds = interleave(functions, setup.options.repetitions)
    return {"rows": [make_row(f"preprocessing, {setup.encoder.arch}", "photos", seconds, work)]}


def measure_scoring(setup: Setup) -> dict:
    model, decoder = setup.build_model().eval(), setup.build_decoder().eval()
    stories = setup.stories(setup.scored * (16 if setup.on_gpu else 1))
    indices = split_into(range(len(stories)), 32)

    @torch.inference_mode()
    def limit(turn: int) -> None:
        for part in indices:
            bare_logits(decoder, setup.batch(stories, part))

    def ours(turn: int) -> None:
        CDE_score.score_stories(model, stories, 32)

    functions = {"limit": limit, "ours": ours}
    with setup.autocast():
        seconds = interleave(functions, setup.options.repetitions)
    work = dict.fromkeys(functions, len(stories))
    return {"rows": [make_row("scores, batch 32", "stories", seconds, work)]}


def peak_memory(options, is_ours: bool, batch_size: int) -> int:
    """Bytes that two training steps take at most, beyond the imports; in a process of its own."""
    setup = Setup(options)
    network = (setup.build_model if is_ours else setup.build_decoder)().train()
    batch = setup.batch(setup.stories(batch_size), range(batch_size))
    optimizer = torch.optim.AdamW(network.parameters())
    objective = {name: getattr(TrainOptions(), name) for name in OBJECTIVE}
    before = psutil.Process().memory_info().rss
    for _ in range(2):  # the optimizer's state is there from the second on
        with setup.autocast():
            loss = network(**batch, **objective).loss if is_ours else bare_loss(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if setup.on_gpu:
        return torch.cuda.max_memory_allocated()
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return 1024 * int(peak) - before


def measure_memory(setup: Setup) -> dict:
    figures = {}
    for batch_size in (8, 16, 32):
        for is_ours, name in ((True, "ours"), (False, "bare GPT-2")):
            with ProcessPoolExecutor(1, get_context("spawn"), cli.keep_memory) as process:
                peak = process.submit(peak_memory, setup.options, is_ours, batch_size).result()
            figures[f"GiB, batch {batch_size}, {name}"] = peak / 2**30
    return {"figures": figures}


def run_python(*arguments) -> None:
    command = [sys.executable, *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr.strip()[-500:]}")


def measure_startup(setup: Setup) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "photos").mkdir()
        draw_photos(folder / "photos", BEATS, setup.options.seed)
        setup.decoder_fields = TINY | {"vocab_size": len(setup.tokenizer), "n_embd": 64}
        setup.encoder = ImageEncoderConfig(arch="resnet18", image_size=64)
        for item in (setup.build_model(), setup.tokenizer):
            with quiet_transformers():
                item.save_pretrained(folder / "checkpoint")
        story = ["generate.py", folder / "photos", "--checkpoint", folder / "checkpoint"]
        story += ["--output", folder / "stories.json"]
        commands = {
            "seconds, import of the libraries": ["-c", "import torch, torchvision, transformers"],
            "seconds, generate.py --help": ["generate.py", "--help"],
            "seconds, generate.py, five photos": story,
        }
        functions = {
            name: lambda _, x=command: run_python(*x) for name, command in commands.items()
        }
        seconds = interleave(functions, setup.options.repetitions)
    return {"figures": {name: float(np.median(x)) for name, x in seconds.items()}}


# ------------------------------------------------------------------------------------------ report


def speed_table(rows: list[dict]) -> Table:
    table = []
    for row in rows:
        cells = [f"{row['what']} ({row['unit']}/s)"]
        for name in ("reference", "limit", "ours"):
            rate = row["rates"].get(name)
            cells.append("{:.3g} [{:.3g}, {:.3g}]".format(*rate) if rate else "–")
        for name in ("reference", "limit"):
            ratio = row["ratios"].get(name)
            cells.append("{:.3g} x [{:.3g}, {:.3g}]".format(*ratio) if ratio else "–")
        table.append(cells)
    columns = ["", "reference", "limit", "ours", "ours / reference", "ours / limit"]
    return Table("Speed", columns, table, "Medians [least, most] over repetitions, in turns.")


def draw(rows: list[dict], path: str) -> None:
    """Our speed by the limit's and by the reference's."""
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(rows)), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2, sharey=True), ("limit", "reference")):
        shown = [row for row in rows if name in row["ratios"]]
        medians = [row["ratios"][name][0] for row in shown]
        axis.barh([row["what"] for row in shown], medians, color="C0", alpha=0.7)
        axis.axvline(1, color="grey", lw=1)
        axis.set_xlabel(f"our speed / the {name}'s")
    axis.invert_yaxis()
    save_figure(figure, path)


def main() -> None:
    options = parse()
    setup = Setup(options)
    device = torch.cuda.get_device_name() if setup.on_gpu else platform.processor()
    machine = {"device": device, "threads": torch.get_num_threads(), "bf16": setup.bf16}
    results = {"options": vars(options), "machine": machine | versions()}
    for part in options.parts or PARTS:
        print(f"measuring {part} …", flush=True)
        results[part] = globals()[f"measure_{part}"](setup)
        write_json(f"{options.output}.json", results)  # the next part may take all memory
    parts = [results[part] for part in PARTS if part in results]
    rows = [row for part in parts for row in part.get("rows", ())]
    if rows:
        print(speed_table(rows).text())
        draw(rows, f"{options.output}.png")
    for part in parts:
        for name, value in part.get("figures", {}).items():
            print(f"{name:<40} {value:>10.3g}")
    print(f"every repetition's seconds -> {options.output}.json")


if __name__ == "__main__":
    cli.run(main)
