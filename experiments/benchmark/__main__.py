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
from dataclasses import replace
from pathlib import Path

from utils import cli
from utils.cli import RESNETS, UserError

PARTS = ("training", "generation", "preprocessing", "scoring", "memory", "startup")


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
        "--seed", type=cli.non_negative_int, default=0, help="of weights, words and photos"
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
    cli.parse_before_imports(parse)

import torch

from experiments.benchmark.generation import measure_generation
from experiments.benchmark.measuring import GOALS
from experiments.benchmark.memory import measure_memory
from experiments.benchmark.preprocessing import measure_preprocessing
from experiments.benchmark.quiet import QUIET, Others, expect_quiet
from experiments.benchmark.scale import scale_table
from experiments.benchmark.scoring import measure_scoring
from experiments.benchmark.setup import SIZES, Setup, machine
from experiments.benchmark.startup import measure_startup
from experiments.benchmark.tables import draw, tables
from experiments.benchmark.training import measure_training
from utils.files import read_json, write_json
from utils.processes import best_device

MEASURES = {
    "training": measure_training,
    "generation": measure_generation,
    "preprocessing": measure_preprocessing,
    "scoring": measure_scoring,
    "memory": measure_memory,
    "startup": measure_startup,
}


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


def rows_of(found):
    return [line for part in PARTS for line in found.get(part, {"rows": []})["rows"]]


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
        rows = rows_of(found)
        print("\n\n".join(table.text() for table in tables(rows, found)))
        print(f"\nnot measured: {'; '.join(found['not_measured']) or 'nothing'}")
        if rows:
            draw(rows, f"{output}.png")
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
