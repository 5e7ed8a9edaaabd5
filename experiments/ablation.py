"""Train variants of the model on the same data, with the same steps and seeds, and compare them.

    python -m experiments.ablation                   the three values of --plan, three seeds each
    python -m experiments.ablation free_bits=0 free_bits=0.1,bow_weight=0.5     options of train.py
    python -m experiments.ablation --seeds 0 1 2 3 4 --train="--max_steps 500 --batch_size 32"

It writes a table (mean and 95 % interval over the seeds) and a figure, the KL against the bound of
the likelihood. The same command resumes a run that was stopped: what is trained stays.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, product
from pathlib import Path

from utils import cli
from utils.cli import PLANS, UserError
from utils.files import read_json, save_figure, write_json, write_text

REPO = Path(__file__).parent.parent
IWAE_SAMPLES = 100  # of the importance-weighted bound
OWN_OPTIONS = ("seed", "resume", "overwrite", "evaluate", "output_dir", "train_data_path")


def parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m experiments.ablation", description=__doc__.splitlines()[0])
    add = parser.add_argument
    plans = [f"plan={plan}" for plan in reversed(PLANS)]
    of_train = {"metavar": "NAME=VALUE[,…]", "help": "options of train.py"}
    add("variants", nargs="*", default=plans, **of_train)
    add("--seeds", type=cli.non_negative_int, nargs="+", default=[0, 1, 2], help="a training each")
    add("--jobs", type=cli.positive_int, default=1, help="trainings at once, sharing the cores")
    add("--train", default="", metavar="OPTIONS", help="options of every train.py, in one argument")
    add("--train_data_path", help="training split (default: the newest), val.json beside it")
    add("--test_data_path", help="test split (default: test.json beside the training split)")
    add("--world", help="the picture book of the test split: checks the stories against its truth")
    add("--output_dir", default="output/ablation", help="for trainings, table and frontier.png")
    return parser


def parse(arguments: list[str] | None = None):
    options = parser().parse_args(arguments)
    options.variants = list(dict.fromkeys(options.variants))
    options.seeds = list(dict.fromkeys(options.seeds))
    try:
        train_options = shlex.split(options.train)
    except ValueError as error:
        raise UserError(f"--train {options.train}: {error}; expected options of train.py") from None
    given = [("--train", word) for word in train_options]
    for variant in options.variants:
        for entry in variant.split(","):
            if "=" not in entry:
                raise UserError(
                    f"{variant}: expected NAME=VALUE[,NAME=VALUE …], options of train.py"
                )
            given.append((variant, entry))
    for where, entry in given:
        name = entry.removeprefix("--").split("=")[0]
        if name in OWN_OPTIONS:
            raise UserError(
                f"{where}: --{name} is ablation.py's to set; expected other options of train.py"
            )
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from experiments.picturebook.checker import check_stories
from experiments.picturebook.facts import SLOTS
from utils.dataset_options import latest_split
from utils.report import Table
from utils.statistics import mean_over_seeds
from utils.stories import read_stories

BOUND = "bound: nats per token"
FIGURES = {  # of train.py --evaluate, by their names in the table
    "iwae_loss": f"bound, {IWAE_SAMPLES} samples: nats per story",
    "iwae_per_token": BOUND,
    "elbo_loss": "−ELBO: nats per story",
    "nll": "NLL given the plan",
    "kl": "KL",
    "information": "information",
    "active_units": "active units per beat",
    "means_within_90": "posterior means in the prior's 90 %",
    "samples_within_90": "posterior samples in the prior's 90 %",
    "bow_perplexity": "bag-of-words perplexity",
    "cosine": "cosine of expected and observed change",
}
STORY_FIGURES = ("CDE", "sentence repeated across", "distinct-2")

processes = set()  # terminated where another fails


def run_script(script: str, *arguments) -> None:
    """Run one of our scripts; its line of error is ours."""
    process = subprocess.Popen(
        [sys.executable, REPO / script, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    processes.add(process)
    _, errors = process.communicate()
    processes.discard(process)
    status = process.returncode
    if status < 0:
        raise UserError(f"{script}: stopped by signal {-status} (9 is often a lack of memory)")
    if status:
        lines = errors.strip().splitlines()
        raise UserError(lines[-1] if lines else f"{script}: exit status {status}")


def as_options(variant: str) -> list[str]:
    """train.py's options of NAME=VALUE,…; switches are true or false."""
    switches = {"true": "--{}", "false": "--no-{}"}
    entries = [entry.split("=", 1) for entry in variant.split(",")]
    return [switches.get(value, "--{}={}").format(name, value) for name, value in entries]


def train_and_measure(variant: str, seed: int, options) -> dict:
    """Train a variant with a seed, unless that is done; its figures on the test split."""
    place = Path(options.output_dir) / variant / str(seed)
    test_path = options.test_data_path
    train = ["--train_data_path", options.train_data_path, "--seed", seed, "--resume"]
    train += [*shlex.split(options.train), *as_options(variant)]
    evaluate = ["--evaluate", test_path, "--iwae_samples", IWAE_SAMPLES]
    for arguments in (train, evaluate):
        run_script("train.py", "--output_dir", place, *arguments)
    values = read_json(place / "evaluation.json", "train.py's figures")["figures"]
    values["iwae_per_token"] = values["iwae_loss"] * values["stories"] / values["tokens"]
    values["active_units"] = np.mean(values["active_units_per_beat"])
    if "information_per_beat" in values:
        values["information"] = sum(values["information_per_beat"])
    figures = {label: values[name] for name, label in FIGURES.items() if name in values}

    stories = place / "stories.json"
    data = ["--data_path", test_path, "--checkpoint", place]
    run_script("generate.py", *data, "--output", stories)
    run_script("CDE_score.py", stories, *data, "--output", place / "scores")
    systems = read_json(place / "scores.json", "CDE_score.py's scores")["systems"]
    (system,) = systems.values()
    found = {name: estimate[0] for name, estimate in system["figures"].items()}
    names = list(STORY_FIGURES)
    if options.world:
        counts = check_stories(read_stories(stories).stories, options.world)["figures"]
        found |= {f"{name}, %": 100 * right / total for name, (right, total) in counts.items()}
        worst = "slots right (the worst slot), %"
        found[worst] = min(found[f"{slot}, %"] for slot in SLOTS)
        names += [worst, "all five beats, %", "one mood, %", "cheerful, %"]
    return figures | {f"its stories: {name}": found[name] for name in names if name in found}


def format_runs(runs: list[dict]) -> dict[str, str]:
    """The cells of a variant; runs: the figures of each seed."""
    cells = {}
    for name in dict.fromkeys(chain(*runs)):
        values = [run[name] for run in runs if name in run]
        form = "{:.4g} [{:.4g}, {:.4g}]" if len(values) > 1 else "{:.4g}"
        cells[name] = form.format(*mean_over_seeds(values))
    return cells


def draw_frontier(figures: dict[str, list[dict]], path: Path) -> None:
    """The KL of each training against its bound, and the bound without a plan."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axis = figure.subplots()
    for i, (variant, runs) in enumerate(figures.items()):
        kl, bound = ([run[name] for run in runs] for name in ("KL", BOUND))
        axis.plot(kl, bound, "os^Dv"[i // 10 % 5], ms=5, c=f"C{i}", label=variant)
    if "plan=none" in figures:
        level = np.mean([run[BOUND] for run in figures["plan=none"]])
        axis.axhline(level, c="0.5", lw=0.8, label="mean without a plan")
        axis.axhline(1.03 * level, c="0.5", lw=0.8, ls="--", label="3 % more")
    bound = f"bound of {IWAE_SAMPLES} samples, nats per token"
    axis.set(xlabel="KL, nats per story", ylabel=bound)
    axis.legend(fontsize=7)
    save_figure(figure, path)


def run_all(options) -> dict[str, list[dict]]:
    """{variant: the figures of each seed}, --jobs at once."""
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # of each script

    def run(seed: int, variant: str) -> dict:
        with cli.flag(f"{variant}, seed {seed}:"):
            return train_and_measure(variant, seed, options)

    jobs = list(product(options.seeds, options.variants))
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            found = pool.map(run, *zip(*jobs))
            found = list(tqdm(found, total=len(jobs), unit="training", leave=False))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(processes):  # a training saves before it stops
                process.terminate()
            raise
    results = dict(zip(jobs, found))
    return {
        variant: [results[seed, variant] for seed in options.seeds] for variant in options.variants
    }


def main() -> None:
    options = parse()
    train_path = options.train_data_path or latest_split("train")
    if train_path is None:
        raise UserError(
            "--train_data_path: not named, and dataset/preprocessed/ holds no training split"
        )
    options.train_data_path = str(train_path)
    options.test_data_path = options.test_data_path or str(Path(train_path).with_name("test.json"))
    for name in ("train_data_path", "test_data_path"):
        path = getattr(options, name)
        if not Path(path).is_file():
            raise UserError(
                f"--{name}: {path} is not there; expected a preprocessed split (python dataset.py)"
            )
    figures = run_all(options)
    seeds = ", ".join(map(str, options.seeds))
    caption = f"Mean and 95 % t-interval over seeds {seeds}; nats per story but where said."
    if options.train:
        caption += f" Trained with {options.train}."
    columns = {variant: format_runs(runs) for variant, runs in figures.items()}
    table = Table.from_columns("Ablation", columns, caption)
    print(table.text())
    output = Path(options.output_dir)
    write_json(output / "table.json", {"settings": vars(options), "figures": figures})
    write_text(output / "table.md", table.markdown())
    draw_frontier(figures, output / "frontier.png")
    print(f"\n-> {output}/table.md, table.json, frontier.png")


if __name__ == "__main__":
    cli.run(main)
