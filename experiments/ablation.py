"""Train variants of the model on the same data, with the same steps and seeds, and compare them.

    python -m experiments.ablation                   the three values of --plan, three seeds each
    python -m experiments.ablation free_bits=0 free_bits=0.1,bow_weight=0.5     options of train.py
    python -m experiments.ablation --seeds 0 1 2 3 4 --train="--max_steps 500 --batch_size 32"

It writes a table (mean and 95 % interval over the seeds) and a picture, the KL against the bound of
the likelihood. A variant that was trained is not trained again, so that a run that was stopped is
taken up by the same command.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from utils import cli
from utils.cli import PLANS, UserError
from utils.files import atomic_write, write_json, write_text

REPO = Path(__file__).parent.parent
SAMPLES = 100  # of the importance-weighted bound


def parser():
    parser = cli.Parser(prog="python -m experiments.ablation", description=__doc__.splitlines()[0])
    variants = [f"plan={plan}" for plan in reversed(PLANS)]
    parser.add_argument(
        "variants",
        nargs="*",
        default=variants,
        metavar="NAME=VALUE[,…]",
        help="options of train.py",
    )
    parser.add_argument(
        "--seeds",
        type=cli.non_negative_int,
        nargs="+",
        default=[0, 1, 2],
        help="a training for each",
    )
    parser.add_argument(
        "--jobs", type=cli.positive_int, default=1, help="trainings at once, which share the cores"
    )
    parser.add_argument(
        "--train",
        default="",
        metavar="OPTIONS",
        help="for every train.py, as one argument: --train='--fsdp'",
    )
    parser.add_argument(
        "--train_data_path", help="training split (default: the newest), val.json beside it"
    )
    parser.add_argument(
        "--test_data_path",
        help="split of the figures (default: test.json beside the training split)",
    )
    parser.add_argument(
        "--world",
        help="the picture book that the test split was made of: its stories are checked too",
    )
    parser.add_argument(
        "--output_dir",
        default="output/ablation",
        help="where trainings, table.md, .json and frontier.png go",
    )
    return parser


# options that it sets itself
OWN = ("seed", "resume", "overwrite", "evaluate", "output_dir", "train_data_path")


def parse(arguments=None):
    options = parser().parse_args(arguments)
    options.variants, options.seeds = (
        list(dict.fromkeys(of)) for of in (options.variants, options.seeds)
    )
    for variant in options.variants:
        for entry in variant.split(","):
            if "=" not in entry:
                raise UserError(
                    f"{variant}: expected NAME=VALUE[,NAME=VALUE …], options of train.py"
                )
            if entry.split("=")[0] in OWN:
                raise UserError(
                    f"{variant}: --{entry.split('=')[0]} is ablation.py's to set; expected other "
                    "options"
                )
    try:
        words = shlex.split(options.train)
    except ValueError as error:
        raise UserError(f"--train {options.train}: {error}; expected options of train.py") from None
    for name in OWN:
        if any(word.split("=")[0] == f"--{name}" for word in words):
            raise UserError(
                f"--train: --{name} is ablation.py's to set; expected other options of train.py"
            )
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import json

from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.picturebook.checker import check_stories
from experiments.picturebook.facts import SLOTS
from utils.dataset_options import latest_split
from utils.report import Table
from utils.statistics import mean_over_seeds
from utils.stories import read_stories

FIGURES = {  # of train.py --evaluate: what the table calls them
    "iwae_loss": f"bound, {SAMPLES} samples: nats per story",
    "iwae_per_token": "bound: nats per token",
    "elbo_loss": "−ELBO: nats per story",
    "nll": "NLL given the plan",
    "kl": "KL",
    "information": "information",
    "active_units": "active units a beat",
    "means_within_90": "posterior means in the prior's 90 %",
    "samples_within_90": "posterior samples in the prior's 90 %",
    "bow_perplexity": "bag-of-words perplexity",
    "cosine": "cosine of expected and observed change",
}


RUNNING = set()  # processes that are stopped where another has failed


def run(script, *arguments, threads):
    """Run one of our scripts; its own one line of error is ours."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, REPO / script, *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    RUNNING.add(process)
    _, said = process.communicate()
    RUNNING.discard(process)
    if process.returncode < 0:
        raise UserError(
            f"{script}: stopped by signal {-process.returncode} (9 is often a lack of memory)"
        )
    if process.returncode:
        raise UserError(
            (said.strip().splitlines() or [f"{script}: exit status {process.returncode}"])[-1]
        )


def as_options(entries):
    """train.py's options of {name: value} texts; a switch is true or false."""
    switches = {"true": "--{}", "false": "--no-{}"}
    return [switches.get(value, "--{}={}").format(name, value) for name, value in entries]


def train_and_measure(variant, seed, train_path, test_path, options, threads):
    """Train a variant with a seed, unless that is done; its figures on the test split."""
    place = Path(options.output_dir) / variant / str(seed)
    own = as_options(entry.split("=", 1) for entry in variant.split(","))
    data = ["--train_data_path", train_path, "--output_dir", place]
    run(
        "train.py",
        *data,
        "--seed",
        seed,
        "--resume",
        *shlex.split(options.train),
        *own,
        threads=threads,
    )
    run(
        "train.py",
        "--output_dir",
        place,
        "--evaluate",
        test_path,
        "--iwae_samples",
        SAMPLES,
        threads=threads,
    )
    found = json.loads((place / "evaluation.json").read_text())["figures"]
    found["iwae_per_token"] = found["iwae_loss"] * found["stories"] / found["tokens"]
    found["active_units"] = sum(found["active_units_per_beat"]) / len(
        found["active_units_per_beat"]
    )
    if "information_per_beat" in found:
        found["information"] = sum(found["information_per_beat"])
    figures = {name: found[key] for key, name in FIGURES.items() if key in found}
    stories = place / "stories.json"
    run(
        "generate.py",
        "--data_path",
        test_path,
        "--checkpoint",
        place,
        "--output",
        stories,
        threads=threads,
    )
    run(
        "CDE_score.py",
        stories,
        "--checkpoint",
        place,
        "--data_path",
        test_path,
        "--output",
        place / "scores",
        threads=threads,
    )
    scores = next(iter(json.loads((place / "scores.json").read_text())["systems"].values()))[
        "figures"
    ]
    names = ("CDE", "sentence repeated across", "distinct-2")
    figures |= {f"its stories: {name}": scores[name][0] for name in names if name in scores}
    if options.world:
        checked = check_stories(read_stories(stories).stories, options.world)
        share = {name: right / of for name, (right, of) in checked["figures"].items()}
        figures |= {
            "its stories: slots right (the worst slot), %": 100
            * min(share[slot] for slot in SLOTS),
            "its stories: whole, %": 100 * share["all five beats"],
            "its stories: one mood, %": 100 * share["one mood"],
            "its stories: cheerful, %": 100 * share["cheerful"],
        }
    return figures


def table_of(figures, options):
    """figures: {variant: [those of each seed]}."""
    names = dict.fromkeys(name for of in figures.values() for found in of for name in found)
    rows = []
    for name in names:
        cells = []
        for of in figures.values():
            values = [found[name] for found in of if name in found]
            shown = "{:.4g} [{:.4g}, {:.4g}]" if len(values) > 1 else "{:.4g}"
            cells.append(shown.format(*mean_over_seeds(values)) if values else "–")
        rows.append([name, *cells])
    caption = (
        f"Mean and 95 % t-interval over seeds {', '.join(map(str, options.seeds))}; nats per story "
        "but where said."
    )
    if options.train:
        caption += f" Trained with {options.train}."
    return Table("Ablation", ["", *figures], rows, caption)


def draw_frontier(figures, path):
    """The KL of each training against its bound, beside the likelihood of those that have no KL."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axis = figure.subplots()
    bound = FIGURES["iwae_per_token"]
    for i, (variant, of) in enumerate(figures.items()):
        points = zip(*((found["KL"], found[bound]) for found in of))
        axis.plot(*points, ls="", marker="os^Dv"[i // 10 % 5], ms=5, c=f"C{i % 10}", label=variant)
    if plain := [found[bound] for found in figures.get("plan=none", ())]:
        level = sum(plain) / len(plain)
        for height, label in ((level, "no plan"), (1.03 * level, "3 % more")):
            axis.axhline(height, c="0.5", lw=0.8, ls="-" if height == level else "--")
            axis.annotate(
                label,
                (1, height),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
    axis.set(
        xlabel="KL, nats per story",
        ylabel=f"bound of {SAMPLES} samples: nats per token, the lower the better",
    )
    axis.legend(fontsize=7)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main():
    options = parse()
    train_path = options.train_data_path or latest_split("train")
    if train_path is None:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split"
        )
    test_path = Path(options.test_data_path or Path(train_path).with_name("test.json"))
    for flag, path in (("--train_data_path", Path(train_path)), ("--test_data_path", test_path)):
        if not path.is_file():
            raise UserError(
                f"{flag}: {path} is not there; expected a preprocessed split (python dataset.py)"
            )
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    jobs = [(variant, seed) for seed in options.seeds for variant in options.variants]
    results = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        same = (train_path, test_path, options, threads)
        found = {pool.submit(train_and_measure, *job, *same): job for job in jobs}
        try:
            for job in tqdm(as_completed(found), total=len(jobs), unit="training", leave=False):
                variant, seed = found[job]
                try:
                    results[variant, seed] = job.result()
                except UserError as error:
                    raise UserError(f"{variant}, seed {seed}: {error.line}") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):  # a training saves before it stops
                process.terminate()
            raise
    figures = {
        variant: [results[variant, seed] for seed in options.seeds] for variant in options.variants
    }
    table = table_of(figures, options)
    print(table.text())
    output = Path(options.output_dir)
    write_json(output / "table.json", {"settings": vars(options), "figures": figures})
    write_text(output / "table.md", table.markdown())
    draw_frontier(figures, output / "frontier.png")
    print(f"\n-> {output}/table.md, table.json, frontier.png")


if __name__ == "__main__":
    cli.run(main)
