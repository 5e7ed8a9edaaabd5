"""The log of a training, JSON lines, and its picture."""

import dataclasses
import json
import math
import time
from contextlib import suppress

from matplotlib.figure import Figure

from utils import cli
from utils.cli import UserError
from utils.files import atomic_write, reraise_with_path

BAGS = ("bow", "future_bow", "photo_bow", "state_bow")  # bags of words


TERMS = ("nll", "kl", *BAGS, "dynamics")


# Shares of posterior means and samples in the middle of their prior: what lies within so many of
# its deviations.
MIDDLE = {50: 0.67449, 90: 1.64485}


WITHIN = {
    f"{of}_within_{share}": (of, MIDDLE[share]) for of in ("means", "samples") for share in MIDDLE
}


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
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        if options.tensorboard:  # what it holds of steps that are done again is hidden
            self.board = summary_writer()(
                directory / "tensorboard", purge_step=resumed_at + 1 if resumed_at else None
            )

    def write(self, **line):
        self.lines.append(line)
        with reraise_with_path(self.path, self.path), self.path.open("a") as file:
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
        with atomic_write(self.picture) as temporary:
            figure.savefig(temporary, dpi=110)
