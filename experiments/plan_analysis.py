"""What a model's plans carry: a picture, what they know of a factor, whether one chooses a story.

    python -m experiments.plan_analysis                the model in output/, the newest test split
    python -m experiments.plan_analysis run0 run1 --control      several, and what their plans do

The factor is what the pictures do not tell: of a picture book's stories their mood (or --factor
plot, hero …), of others their album's label.
"""

import math
import sys
from collections import Counter
from pathlib import Path

from utils import cli
from utils.cli import BOOK, OUTPUT_DIR, UserError
from utils.files import atomic_write, write_json, write_text


def parser():
    parser = cli.Parser(
        prog="python -m experiments.plan_analysis", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "checkpoints",
        nargs="*",
        default=[OUTPUT_DIR],
        help="checkpoints, or train.py's output_dirs",
    )
    parser.add_argument(
        "--data_path",
        help="preprocessed split (default: the newest test split); train.json beside it",
    )
    parser.add_argument(
        "--world", default=BOOK, help="the picture book that the split was made of, if it was"
    )
    parser.add_argument(
        "--factor", help="a name in the book's truth, or label (default: mood of a picture book)"
    )
    parser.add_argument(
        "--beat",
        type=cli.positive_int,
        default=1,
        help="the beat whose plans are drawn, and probed",
    )
    parser.add_argument(
        "--control", action="store_true", help="write a picture book's stories under chosen plans"
    )
    parser.add_argument(
        "--no_plan",
        nargs="*",
        default=[],
        metavar="CHECKPOINT",
        help="--control: models without a plan, one for each, to compare with",
    )
    parser.add_argument(
        "--albums", type=cli.positive_int, default=100, help="--control: how many albums"
    )
    parser.add_argument(
        "--num_samples", type=cli.positive_int, default=20, help="--control: stories of each album"
    )
    parser.add_argument("--batch_size", type=cli.positive_int, default=100, help="stories at once")
    parser.add_argument("--seed", type=cli.non_negative_int, default=0, help="of everything random")
    parser.add_argument(
        "--output",
        default="output/plan_figures",
        help="where the picture (.png) and the figures (.json, .md) go",
    )
    return parser


def parse(arguments=None):
    options = parser().parse_args(arguments)
    if options.no_plan and len(options.no_plan) != len(options.checkpoints):
        many = len(options.checkpoints)
        raise UserError(
            f"--no_plan: {len(options.no_plan)} checkpoints; expected {many}, one for each"
        )
    if options.no_plan and not options.control:
        raise UserError("--no_plan: to compare with in --control; expected that too")
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import nn

from dataset import StoryDataset
from experiments.picturebook.checker import Book
from experiments.picturebook.facts import MOODS
from experiments.plan_control import Control, control
from experiments.plan_data import as_written, factors_of, plans_of, truth_of
from model import load_checkpoint
from utils.dataset_options import latest_split
from utils.gaussian import Gaussian
from utils.processes import best_device
from utils.report import Table
from utils.statistics import mean_over_seeds
from utils.stories import read_split

# -------------------------------------------------------------------------------- plans and factors


def probed(train, test, seed):
    """What plans know of a factor, at least, as a share of its entropy: (entropy − cross-entropy) /
    entropy.

    train, test: (Gaussian (N, Z), numbers of the factor (N)). The cross-entropy is that of a small
    network that has read samples of the training split's posteriors, on samples of the test
    split's: a lower bound (Barber and Agakov 2003).
    """
    torch.manual_seed(seed)
    (plans, of), (test_plans, test_of) = train, test
    classes = int(max(of.max(), test_of.max())) + 1
    centre, scale = plans.mean.mean(0), (plans.mean.var(0) + plans.log_var.exp().mean(0)).sqrt()
    draw = lambda q: (q.sample(torch.randn_like(q.mean)) - centre) / scale
    Z, width, epochs = plans.mean.shape[1], 256, 30
    network = nn.Sequential(
        nn.Linear(Z, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, classes)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        z = draw(plans)
        for part in torch.randperm(len(z)).split(128):
            loss = F.cross_entropy(network(z[part]), of[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        uncertain = (
            sum(F.cross_entropy(network(draw(test_plans)), test_of).item() for _ in range(20)) / 20
        )
    share = test_of.bincount().double() / len(test_of)
    entropy = -(share * share.clamp(min=1e-12).log()).sum().item()
    return (entropy - uncertain) / entropy


@torch.no_grad()
def first_plan_knows(model, tokenizer, split, photos, book, facts, options):
    """What the plan of beat 1 knows, given the picture, of the mood and of the wording, as shares
    of their entropies.

    No probe is needed: the book has a few first sentences for a picture, all equally likely, and
    q(z | picture, sentence) of each says how likely it is by a plan z.
    """
    told = []
    for story in split["stories"]:
        of = facts[story["story_id"]]
        wordings = book.plots[of["plot"]][0]["wordings"]
        moods = [mood for mood in wordings for _ in wordings[mood]]
        for text in (text for mood in wordings for text in wordings[mood]):
            told.append(
                {"beats": [story["beats"][0] | {"sentence": as_written(split, text.format(**of))}]}
            )
    data = StoryDataset(told, photos, tokenizer, model.config.image_positions, model.max_length)
    _, posterior = plans_of(model, data, tokenizer.pad_token_id, options.batch_size)
    many = len(moods)
    plans = Gaussian(
        *(x[:, 0].double().view(-1, many, x.shape[-1]) for x in (posterior.mean, posterior.log_var))
    )
    every = Gaussian(plans.mean[:, None], plans.log_var[:, None])  # pictures, 1, sentences, Z
    cheerful, unsure, unsure_of_mood = torch.tensor([mood == MOODS[0] for mood in moods]), 0, 0
    chance, entropy = (
        torch.Generator().manual_seed(options.seed),
        lambda p: -(p * p.clamp(min=1e-30).log()),
    )
    for _ in range(50):
        z = plans.sample(torch.randn(plans.mean.shape, generator=chance, dtype=torch.float64))
        said = every.log_prob(z[:, :, None]).softmax(-1)  # pictures, z of a sentence, sentences
        mood = said[..., cheerful].sum(-1)
        unsure += entropy(said).sum(-1).mean().item() / 50
        unsure_of_mood += (entropy(mood) + entropy(1 - mood)).mean().item() / 50
    return {
        "plan 1 knows of the mood, given the picture": 1 - unsure_of_mood / math.log(2),
        "plan 1 knows of the wording, given the picture": 1 - unsure / math.log(many),
    }


def principal(points):
    """Centre (Z) and the two directions (Z, 2) in which points (N, Z) vary most."""
    centre = points.mean(0)
    directions = torch.linalg.svd(points - centre, full_matrices=False).Vh[:2].T
    return centre, F.pad(directions, (0, 2 - directions.shape[1]))  # of plans with one dimension


def draw_plans(prior, posterior, values, beat, path, factor, story):
    """Posterior and prior means of a beat, in two dimensions and two ways, and one story's way
    through its beats."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(1, 2)
    relative = posterior.relative_to(prior)
    names = [name for name, _ in Counter(values).most_common(10)]  # the rest stay without a colour
    colours = {name: f"C{i}" for i, name in enumerate(names)}
    for axis, of in zip(axes, (posterior.mean, relative.mean)):
        title = "plans" if of is posterior.mean else "plans in units of the prior"
        centre, directions = principal(of[:, beat - 1])
        flat = lambda x: ((x - centre) @ directions).numpy()  # noqa: B023
        points = flat(of[:, beat - 1])
        for name in names:
            here = [value == name for value in values]
            axis.scatter(
                *points[here].T, s=9, alpha=0.7, c=colours[name], label=f"posterior mean, {name}"
            )
        if of is posterior.mean:
            axis.scatter(
                *flat(prior.mean[:, beat - 1]).T,
                s=9,
                marker="x",
                c="0.5",
                lw=0.6,
                label="prior mean",
                zorder=0,
            )
        else:
            for share in (50, 90):  # of a normal distribution in two dimensions
                radius = math.sqrt(-2 * math.log(1 - share / 100))
                axis.add_patch(
                    Circle(
                        flat(torch.zeros(1, of.shape[2]))[0], radius, fill=False, ls=":", ec="0.4"
                    )
                )
                axis.plot([], [], ":", c="0.4", label=f"{share} % of the prior")
            axis.legend(fontsize=8)
        way = flat(of[story])
        axis.plot(*way.T, "k-", lw=1)
        for t, point in enumerate(way, start=1):
            axis.annotate(
                str(t),
                point,
                fontsize=9,
                ha="center",
                va="center",
                bbox={"boxstyle": "circle,pad=0.15", "fc": "w", "ec": "k", "lw": 0.8},
            )
        axis.set(
            title=f"{title}: beat {beat}, and one story's beats",
            xlabel="1st component",
            ylabel="2nd component",
        )
    axes[0].legend(fontsize=8, title=factor)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


# --------------------------------------------------------------------------------------------- main


def loaded(checkpoint, kinds):
    """A model and its tokenizer; its plan must be one of `kinds`."""
    with cli.flag("--checkpoint"):
        model, tokenizer = load_checkpoint(checkpoint)
    if model.config.plan not in kinds:
        raise UserError(
            f"{checkpoint}: trained with --plan {model.config.plan}; expected {' or '.join(kinds)}"
        )
    return model.to(best_device()), tokenizer


def plans_and_values(path, split, options, model, tokenizer):
    """A split's StoryDataset; prior and posterior of the stories that have the beat and the factor;
    their values."""
    K, most = model.config.image_positions, model.max_length
    data = StoryDataset.load(path, tokenizer, K, most, model.image_encoder)
    values = factors_of(path, split, options)[1]
    if int(data.beats.max()) < options.beat:
        raise UserError(
            f"--beat {options.beat}: the stories of {path} have {data.beats.max()} beats at most"
        )
    known = [
        i for i, value in enumerate(values) if value is not None and data.beats[i] >= options.beat
    ]
    if len(known) < len(values):
        cli.warn(
            f"{path}: {len(values) - len(known)} stories lack the factor or the beat and are left "
            "aside"
        )
    gaussians = plans_of(model, data, tokenizer.pad_token_id, options.batch_size)
    return (
        data,
        *(Gaussian(of.mean[known], of.log_var[known]) for of in gaussians),
        [values[i] for i in known],
    )


def main():
    options = parse()
    options.data_path = options.data_path or str(latest_split("test") or "")
    if not options.data_path:
        raise UserError(
            "--data_path: not named, and dataset/preprocessed/ holds no test split; run python "
            "dataset.py"
        )
    path, train_path = Path(options.data_path), Path(options.data_path).with_name("train.json")
    split, training = read_split(path), read_split(train_path)
    of_book = split.get("source") == "picturebook" and Path(options.world).is_dir()
    if options.control and not of_book:
        found = f"--control: {path}, --world {options.world}"
        raise UserError(f"{found}: expected a picture book's split, and the book's folder")
    book = Book(options.world) if of_book else None
    for checkpoints, kind in ((options.checkpoints, "cvae"), (options.no_plan, "none")):
        for checkpoint in checkpoints:  # before hours are spent on the first
            loaded(checkpoint, [kind])
    factor, figures = factors_of(path, split, options)[0], []
    for k, checkpoint in enumerate(options.checkpoints):
        model, tokenizer = loaded(checkpoint, ["cvae"])
        data, prior, posterior, values = plans_and_values(path, split, options, model, tokenizer)
        _, _, known, train_values = plans_and_values(
            train_path, training, options, model, tokenizer
        )
        number = {name: i for i, name in enumerate(sorted({*values, *train_values}))}
        at_beat = []
        for of, names in ((known, train_values), (posterior, values)):
            plan = Gaussian(of.mean[:, options.beat - 1], of.log_var[:, options.beat - 1])
            at_beat.append((plan, torch.tensor([number[name] for name in names])))
        found = {
            f"plan {options.beat} and its prior know of the {factor}, at least": probed(
                *at_beat, options.seed
            )
        }
        if of_book:
            facts = truth_of(path, options)
            found |= first_plan_knows(model, tokenizer, split, data.photos, book, facts, options)
        if k == 0:
            draw_plans(
                prior, posterior, values, options.beat, f"{options.output}.png", factor, story=0
            )
        if options.control:
            no_plan = (
                Control(*loaded(options.no_plan[k], ["none"]), book, options)
                if options.no_plan
                else None
            )
            found |= control(Control(model, tokenizer, book, options), no_plan, split)
        figures.append(found)
        print(f"{k + 1} of {len(options.checkpoints)}: {checkpoint}", file=sys.stderr, flush=True)
    table = table_of(figures, options)
    print(table.text())
    write_json(f"{options.output}.json", {"settings": vars(options), "figures": figures})
    write_text(f"{options.output}.md", table.markdown())
    print(
        f"\nthe picture of {options.checkpoints[0]}, the figures -> {options.output}.png, .json, "
        ".md"
    )


def table_of(figures, options):
    shown = lambda name, x: (
        f"{x:.2f}" if "distinct" in name or "top_p" in name else f"{100 * x:.1f} %"
    )
    rows = []
    for name in figures[0]:
        values = [found[name] for found in figures]
        cells = [shown(name, value) for value in values]
        if len(values) > 1:
            mean, low, high = mean_over_seeds(values)
            cells.append(f"{shown(name, mean)} [{shown(name, low)}, {shown(name, high)}]")
        rows.append([name, *cells])
    columns = ["", *options.checkpoints, *(["mean"] if len(figures) > 1 else [])]
    caption = (
        "What a plan knows: shares of the factor's entropy; at least: by a probe that was trained "
        "on train.json; given "
        "the picture: exact, but for sampling."
    )
    if len(figures) > 1:
        caption += " Mean and 95 % t-interval over the models."
    return Table(f"Plans on {options.data_path}", columns, rows, caption)


if __name__ == "__main__":
    cli.run(main)
