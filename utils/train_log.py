"""The log of a training, JSON lines, and its figure."""

import dataclasses
import json
import math
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils import cli
from utils.files import atomic_write, reraise_with_path, save_figure

BAGS = ("bow", "future_bow", "photo_bow", "state_bow")  # the bag-of-words terms
TERMS = ("nll", "kl", *BAGS, "dynamics")
SUMS = (*TERMS, "tokens", "stories")  # over the batches of a training
# Shares of posterior means and samples within so many standard deviations of the prior: were the
# posteriors samples of it, the shares would be 50 and 90 %.
WITHIN = {
    "means_within_50": ("means", 0.67449),
    "means_within_90": ("means", 1.64485),
    "samples_within_50": ("samples", 0.67449),
    "samples_within_90": ("samples", 1.64485),
}
SCHEDULES = {"lr": "learning rate", "beta": "β", "bow_scale": "bow scale"}
PANELS = (  # title, label of the y axis, scale, {name in the log: label}, of the validation
    ("terms of the loss", "nats per story", "symlog", {name: name for name in TERMS}),
    (
        "bounds of the likelihood",
        "nats per story",
        "symlog",
        {"elbo_loss": "−ELBO", "iwae_loss": "importance-weighted", "nll": "NLL given the plan"},
    ),
    (
        "KL and mutual information per beat",
        "nats",
        "linear",
        {"kl_per_beat": "KL", "information_per_beat": "information"},
    ),
    ("active units per beat", "dimensions", "linear", {"active_units_per_beat": "beat"}),
    ("posterior within the prior", "share", "linear", {name: name for name in WITHIN}),
)


def read_log(path: Path) -> list[dict]:
    """The lines of a log; with a warning, without those that a kill has cut short."""
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = []
    for text in texts:
        with suppress(ValueError, RecursionError):
            line = json.loads(text)
            if isinstance(line, dict) and isinstance(line.get("step", 0), int):
                lines.append(line)
    if len(lines) < len(texts):
        cli.warn(f"{path}: {len(texts) - len(lines)} lines were cut short and are skipped")
    return lines


class Log:
    """JSON lines in output_dir/log.jsonl and their figure, training.png."""

    def __init__(self, directory: Path, options, versions: dict, resumed_at: int = 0):
        self.path, self.figure_path = directory / "log.jsonl", directory / "training.png"
        self.lines, self.board, self.drawn_at = [], None, -math.inf
        if resumed_at and self.path.is_file():  # steps after the checkpoint are repeated
            self.lines = [line for line in read_log(self.path) if line.get("step", 0) <= resumed_at]
        self.lines.append({"options": dataclasses.asdict(options), "versions": versions})
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines))
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            purge_step = resumed_at + 1 if resumed_at else None  # hides the repeated steps
            self.board = SummaryWriter(directory / "tensorboard", purge_step=purge_step)

    def write(self, step: int, split: str, **figures) -> None:
        line = {"step": step, "split": split, **figures}
        self.lines.append(line)
        with reraise_with_path(self.path, self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.board is None:
            return
        for name, value in figures.items():
            scalars = {name: value}
            if isinstance(value, list):
                scalars = {f"{name}/beat {beat}": x for beat, x in enumerate(value, start=1)}
            for tag, x in scalars.items():
                self.board.add_scalar(f"{split}/{tag}", x, step)
        self.board.flush()

    def draw(self, force: bool = True) -> None:
        """Write training.png, which takes a second; without force at most every 20 seconds."""
        if not force and time.monotonic() < self.drawn_at + 20:
            return
        self.drawn_at = time.monotonic()
        figure = Figure(figsize=(15, 7.5), layout="constrained")
        *axes, last = figure.subplots(2, 3).flat
        for axis, (title, label, scale, names) in zip(axes, PANELS):
            self.plot(axis, "val", names, marker="o", ms=3)
            axis.set(title=f"{title} (validation)", ylabel=label, yscale=scale, xlabel="step")
        self.plot(axes[0], "train", dict.fromkeys(TERMS), lw=0.5, color="0.6", zorder=0)
        self.plot(last, "train", SCHEDULES, by_peak=True)
        last.set(title="schedules, by their peak", xlabel="step")
        for axis in (*axes, last):
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7, ncols=2)
        save_figure(figure, self.figure_path)

    def plot(
        self, axis: Axes, split: str, names: dict, by_peak: bool = False, **style: object
    ) -> None:
        """Figures over the steps; one of several beats as a line per beat. names: {name in the
        log: label}."""
        for name, label in names.items():
            lines = [x for x in self.lines if x.get("split") == split and name in x]
            if not lines:
                continue
            values = np.array([x[name] for x in lines])
            if by_peak:
                values = values / (values.max() or 1)
            if values.ndim == 2:
                axis.set_prop_cycle(None)  # a beat has one colour
                label = [f"{label} {beat}" for beat in range(1, values.shape[1] + 1)]
                style["ls"] = "--" if "information" in name else "-"
            axis.plot([x["step"] for x in lines], values, label=label, **style)
