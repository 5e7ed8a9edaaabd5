"""Time and memory of all that users wait for, beside a limit and beside the reference's way.

    python -m experiments.benchmark                       all; writes output/benchmark.json and .png
    python -m experiments.benchmark training generation   some parts of it

The reference's way is in reference.py. The limit is the part of the work that no code around it
can save, such as a bare GPT-2 over the same tokens. Weights, words and photos are random: nothing
is downloaded.
"""

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
    add("--threads", type=cli.positive_int, help="of torch")
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

import itertools
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as torchvision_models
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

import CDE_score
from dataset import StoryDataset, collate, story_length
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
from utils.preprocessing import encode_photos, write_photos
from utils.processes import best_device, join_processes
from utils.quiet import quiet_transformers
from utils.report import Table
from utils.structure import PAD
from utils.tokenizer import train_tokenizer
from utils.train_options import OBJECTIVE, TrainOptions

BEATS, WORDS = 5, 13  # of VIST's stories, and the mean words of its sentences
VIST_STORIES = 40_155  # of its training split
MEDIAN_AND_RANGE = (0.5, 0, 1)  # quantiles
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # of bf16, per second
SIZES = {  # GPT2Config's fields, image encoder, image size, image positions, photos, scored stories
    "gpt2": ({"vocab_size": 50257}, "resnet152", 224, 10, 192, 32),
    "tiny": ({"vocab_size": 257, "n_layer": 2, "n_embd": 32, "n_head": 2}, "resnet18", 32, 3, 8, 6),
}
GENERATION = {  # the first sentence that is written, beams, stories
    "fifth sentence, greedy, batch 1": (5, 1, 1),
    "fifth sentence, beam 5, batch 1": (5, 5, 1),
    "whole story, greedy, batch 16": (1, 1, 16),
    "whole story, beam 5, batch 16": (1, 5, 16),
}


class Benchmark:
    """Networks with random weights, random stories as long as VIST's, and what is measured of
    them: `rows` of speeds, and other `figures` by name."""

    def __init__(self, options):
        fields, encoder, image_size, *counts = SIZES[options.size]
        self.image_positions, self.photos, self.scored = counts
        self.options, self.device = options, best_device()
        self.on_gpu = self.device.type == "cuda"
        self.name = torch.cuda.get_device_name() if self.on_gpu else platform.processor()
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and self.on_gpu)
        if options.threads:
            torch.set_num_threads(options.threads)
        torch.manual_seed(options.seed)
        self.tokenizer = train_tokenizer(["a fox ."], 256)
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        eos = self.tokenizer.eos_token_id
        self.decoder = GPT2Config(**fields, **dropout, eos_token_id=eos, bos_token_id=eos)
        self.encoder = ImageEncoderConfig(arch=options.encoder or encoder, image_size=image_size)
        self.scale = 16 if self.on_gpu else 1  # a GPU is too fast to time little work
        self.rows, self.figures = [], {}

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def build_decoder(self) -> GPT2LMHeadModel:
        return GPT2LMHeadModel(self.decoder).to(self.device)

    def build_model(self) -> PlanCVAE:
        config = PlanCVAEConfig(
            decoder=self.decoder.to_dict(),
            image_encoder=self.encoder.to_dict(),
            image_positions=self.image_positions,
            state_bow=True,
        )
        return PlanCVAE(config).to(self.device)

    def build_reference(self) -> Reference:
        sizes = self.encoder.feature_size, self.image_positions
        return Reference(self.build_decoder(), *sizes).to(self.device)

    def stories(self, count: int) -> StoryDataset:
        """Stories of one-byte words and random photo features."""
        rng = np.random.default_rng(self.options.seed)
        lengths = rng.poisson(rng.gamma(6, WORDS / 6, (count, BEATS))).clip(4, 30)
        photo = itertools.count()
        stories = [
            # a token a byte, that of the space before it too
            {"beats": [{"sentence": "a" * (n - 1), "photo": next(photo)} for n in story]}
            for story in lengths.tolist()
        ]
        photos = torch.randn(count * BEATS, self.encoder.feature_size)
        positions = self.image_positions, self.decoder.n_positions
        return StoryDataset(stories, photos, self.tokenizer, *positions)

    def batch(self, stories: StoryDataset, indices) -> dict:
        """A batch as a training step reads it."""
        batch = collate([stories[i] for i in indices])
        size, seed = PlanCVAEConfig().plan_size, [self.options.seed, 0]
        batch["noise"] = Noise.sample(batch["index"], batch["beat_mask"], size, seed)
        return send_to_device(batch, self.device)

    def trainer(self, network, loss, clips: bool = True):
        """A function that takes a step on each of some batches."""
        optimizer = torch.optim.AdamW(network.parameters(), 5e-5, ADAM_BETAS)

        def train(batches) -> None:
            for batch in batches:
                with self.autocast():
                    value = loss(network, batch)
                value.backward()
                if clips:
                    max_norm = TrainOptions().max_grad_norm
                    torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)
                optimizer.step()
                optimizer.zero_grad()

        return train

    def compare(self, what: str, functions: dict, count: int, reference_count: int = 0) -> None:
        """Add a row with the speed of each function: how much it does in a call by the second."""
        work = dict.fromkeys(functions, count)
        work["reference"] = reference_count or count
        seconds = interleave(functions, self.options.repetitions)
        self.rows.append(make_row(what, seconds, work))


def our_loss(model: PlanCVAE, batch: dict) -> torch.Tensor:
    options = TrainOptions()
    return model(**batch, **{name: getattr(options, name) for name in OBJECTIVE}).loss


def bare_logits(decoder: GPT2LMHeadModel, batch: dict) -> torch.Tensor:
    """GPT-2 alone over the same tokens: logits (N, V) of predicted words."""
    states = decoder.transformer(input_ids=batch["input_ids"].clamp(min=0), use_cache=False)[0]
    return decoder.lm_head(states.flatten(0, 1)[batch["word_at"]])


def bare_loss(decoder: GPT2LMHeadModel, batch: dict) -> torch.Tensor:
    return F.cross_entropy(bare_logits(decoder, batch).float(), batch["words"])


def interleave(functions: dict, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each function, in turns, so that what slows the machine for a while slows all of
    them; the first turn warms up."""
    seconds = {name: [] for name in functions}
    for _ in range(repetitions + 1):
        for name, function in functions.items():
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            seconds[name].append(time.perf_counter() - start)
    return {name: times[1:] for name, times in seconds.items()}


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def make_row(what: str, seconds: dict, work: dict) -> dict:
    """Speeds, and ours by each other one in the same turn: median, least, most."""
    speeds = {name: work[name] / np.array(times) for name, times in seconds.items()}
    for name in [name for name in seconds if name != "ours"]:
        speeds[f"ours / {name}"] = speeds["ours"] / speeds[name]
    speeds = {name: np.quantile(x, MEDIAN_AND_RANGE).tolist() for name, x in speeds.items()}
    return {"what": what, "seconds": seconds, "speeds": speeds}


# ------------------------------------------------------------------------------- what is measured


def measure_training(benchmark: Benchmark) -> None:
    options = benchmark.options
    batch_size = options.batch_size or (64 if benchmark.on_gpu else 8)
    stories = benchmark.stories(50 * batch_size)
    batches = list(BucketBatches(stories.lengths, batch_size, options.seed))[: benchmark.scale]
    ready = [benchmark.batch(stories, indices) for indices in batches]
    sentences, photos = story_for_reference(stories, batches[0][0], benchmark.device)
    beginnings = [(sentences[:beats], photos[:beats]) for beats in range(2, BEATS + 1)]

    model = benchmark.build_model().train()
    train = benchmark.trainer(model, our_loss)
    train_decoder = benchmark.trainer(benchmark.build_decoder().train(), bare_loss)
    train_reference = benchmark.trainer(benchmark.build_reference(), Reference.loss, clips=False)
    functions = {
        "reference": partial(train_reference, beginnings),
        "limit": partial(train_decoder, ready),
        "ours": lambda: train(benchmark.batch(stories, indices) for indices in batches),
    }
    count = len(batches) * batch_size
    benchmark.compare(f"training, batch {batch_size} (stories/s)", functions, count, 1)
    seconds = float(np.median(benchmark.rows[-1]["seconds"]["ours"]))
    with FlopCounterMode(display=False) as counter:
        train(ready)
    flops = counter.get_total_flops() / seconds
    tokens = sum(int((batch["input_ids"] != PAD).sum()) for batch in ready)
    positions = sum(batch["input_ids"].numel() for batch in ready)
    benchmark.figures |= {
        "tokens per second": tokens / seconds,
        "TFLOP per second": flops / 1e12,
        "padding": 1 - tokens / positions,
        "hours per epoch of VIST": VIST_STORIES / count * seconds / 3600,
    }
    for gpu, peak in PEAK_FLOPS.items():
        if gpu in benchmark.name and benchmark.bf16:
            benchmark.figures["model FLOP utilisation"] = flops / peak
    if options.compile:
        model.compile(dynamic=True)
        benchmark.compare("training, compiled (stories/s)", functions, count, 1)


def measure_generation(benchmark: Benchmark) -> None:
    model, decoder = benchmark.build_model().eval(), benchmark.build_decoder().eval()
    reference, device = benchmark.build_reference().eval(), benchmark.device
    stories, eos = benchmark.stories(16), benchmark.tokenizer.eos_token_id
    K = benchmark.image_positions
    for name, (first, beams, count) in GENERATION.items():
        settings = GenerationConfig(
            num_beams=beams,
            min_new_tokens=WORDS,
            max_new_tokens=WORDS,
            eos_token_id=eos,
            pad_token_id=eos,
        )
        photos = stories.photos.view(len(stories), BEATS, -1)[:count].to(device)
        mask = torch.ones(count, BEATS, dtype=torch.bool, device=device)
        prefix = [stories.sentences(i)[: first - 1] for i in range(count)]

        def limit() -> None:
            for t in range(first, BEATS + 1):
                read_before = [[0] * WORDS] * (t - 1)
                length = story_length(read_before, K) + K + 1  # its photo and [bos]
                ids = torch.zeros(count, length, dtype=torch.long, device=device)
                read = torch.ones_like(ids)
                decoder.generate(ids, attention_mask=read, generation_config=settings)

        ours = partial(generate_stories, model, photos, mask, settings, prefix=prefix)
        functions = {"limit": limit, "ours": ours}
        if count == 1:
            sentences, features = story_for_reference(stories, 0, device)
            begun = [*sentences[:-1], sentences[-1][:1]]
            functions["reference"] = partial(reference.write, begun, features, WORDS, beams)
        with benchmark.autocast():
            sentences_per_call = count * (BEATS - first + 1)
            benchmark.compare(f"{name} (sentences/s)", functions, sentences_per_call)


def draw_photos(folder: Path, count: int, seed: int) -> dict[str, Path]:
    """JPEG files of VIST's usual size: smooth noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    noise = Image.fromarray(pixels).resize((500, 375))
    photos = {str(i): folder / f"{i}.jpg" for i in range(count)}
    for path in photos.values():
        noise.save(path, quality=90)
    return photos


def measure_preprocessing(benchmark: Benchmark) -> None:
    arch, device = benchmark.encoder.arch, benchmark.device
    # random residual branches would exceed float16's range; at zero they cost as much
    resnet = torchvision_models.get_model(arch, weights=None, zero_init_residual=True)
    encoder = ImageEncoder(benchmark.encoder, resnet).eval()
    network = encoder.fuse_batch_norms().to(device)
    count = benchmark.photos * benchmark.scale
    batch_size = 64 if benchmark.on_gpu else CPU_BATCH
    with tempfile.TemporaryDirectory() as folder, join_processes() as state:
        photos = draw_photos(Path(folder), count, benchmark.options.seed)
        pixels = encoder.preprocess(Image.open(photos["0"])).expand(count, -1, -1, -1)

        def ours() -> None:
            target, workers = Path(tempfile.mkdtemp(dir=folder)), psutil.cpu_count()
            write_photos(target, photos, encoder, "features", batch_size, workers, state)

        def limit() -> None:
            for batch in pixels.split(batch_size):
                encode_photos(network, batch.to(device))

        @torch.no_grad()
        def one_by_one() -> None:
            for path in list(photos.values())[: count // 8]:
                encoder(encoder.preprocess(Image.open(path))[None])

        functions = {"reference": one_by_one, "limit": limit, "ours": ours}
        benchmark.compare(f"preprocessing, {arch} (photos/s)", functions, count, count // 8)


def measure_scoring(benchmark: Benchmark) -> None:
    model, decoder = benchmark.build_model().eval(), benchmark.build_decoder().eval()
    stories = benchmark.stories(benchmark.scored * benchmark.scale)
    batches = [benchmark.batch(stories, x) for x in split_into(range(len(stories)), 32)]

    @torch.inference_mode()
    def limit() -> None:
        for batch in batches:
            bare_logits(decoder, batch)

    functions = {"limit": limit, "ours": partial(CDE_score.score_stories, model, stories, 32)}
    with benchmark.autocast():
        benchmark.compare("scores, batch 32 (stories/s)", functions, len(stories))


def peak_memory(options, name: str, batch_size: int) -> int:
    """Bytes that two training steps take at most, beyond the imports; in a process of its own."""
    benchmark = Benchmark(options)
    if name == "ours":
        train = benchmark.trainer(benchmark.build_model().train(), our_loss)
    else:
        train = benchmark.trainer(benchmark.build_decoder().train(), bare_loss)
    batch = benchmark.batch(benchmark.stories(batch_size), range(batch_size))
    before = psutil.Process().memory_info().rss
    train([batch, batch])  # the optimizer's state is there from the second on
    if benchmark.on_gpu:
        return torch.cuda.max_memory_allocated()
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return 1024 * int(peak) - before


def measure_memory(benchmark: Benchmark) -> None:
    with ProcessPoolExecutor(1, initializer=cli.keep_memory, max_tasks_per_child=1) as pool:
        for batch_size in (8, 16, 32):
            for name in ("ours", "bare GPT-2"):
                peak = pool.submit(peak_memory, benchmark.options, name, batch_size).result()
                benchmark.figures[f"GiB, batch {batch_size}, {name}"] = peak / 2**30


def run_python(*arguments) -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def measure_startup(benchmark: Benchmark) -> None:
    small = Benchmark(parse(["--size", "tiny"]))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as checkpoint:
        draw_photos(Path(folder), BEATS, benchmark.options.seed)
        with quiet_transformers():
            small.build_model().save_pretrained(checkpoint)
            small.tokenizer.save_pretrained(checkpoint)
        commands = {
            "import of the libraries": ["-c", "import torch, torchvision, transformers"],
            "generate.py --help": ["generate.py", "--help"],
            "generate.py, five photos": ["generate.py", folder, "--checkpoint", checkpoint],
        }
        functions = {name: partial(run_python, *command) for name, command in commands.items()}
        for name, seconds in interleave(functions, benchmark.options.repetitions).items():
            benchmark.figures[f"seconds, {name}"] = float(np.median(seconds))


# ------------------------------------------------------------------------------------------ report


def speed_table(rows: list[dict]) -> Table:
    names = ("ours", "limit", "reference", "ours / limit", "ours / reference")
    columns = {name: {} for name in names}
    for row in rows:
        for name, speed in row["speeds"].items():
            columns[name][row["what"]] = "{:.3g} [{:.3g}, {:.3g}]".format(*speed)
    caption = "Medians [least, most] over repetitions, in turns."
    return Table.from_columns("Speed", columns, caption)


def draw(rows: list[dict], path: str) -> None:
    """Our speed by the limit's and by the reference's."""
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(rows)), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2, sharey=True), ("limit", "reference")):
        shown = [row for row in rows if name in row["seconds"]]
        medians = [row["speeds"][f"ours / {name}"][0] for row in shown]
        axis.barh([row["what"] for row in shown], medians, color="C0", alpha=0.7)
        axis.axvline(1, color="grey", lw=1)
        axis.set_xlabel(f"our speed / the {name}'s")
    axis.invert_yaxis()
    save_figure(figure, path)


def main() -> None:
    options = parse()
    benchmark = Benchmark(options)
    threads = torch.get_num_threads()
    machine = {"device": benchmark.name, "threads": threads, "bf16": benchmark.bf16}
    results = {"options": vars(options), "machine": machine | versions()}
    results |= {"rows": benchmark.rows, "figures": benchmark.figures}
    for part in options.parts or PARTS:
        print(f"measuring {part} …", flush=True)
        globals()[f"measure_{part}"](benchmark)
        write_json(f"{options.output}.json", results)  # the next part may take all memory
    if benchmark.rows:
        print(speed_table(benchmark.rows).text())
        draw(benchmark.rows, f"{options.output}.png")
    for name, value in benchmark.figures.items():
        print(f"{name:<40} {value:>10.3g}")
    print(f"every repetition's seconds -> {options.output}.json")


if __name__ == "__main__":
    cli.run(main)
