"""What a model's plans hold: a figure, what they know of a factor, whether one chooses a story.

    python -m experiments.plan_analysis                the model in output/, the newest test split
    python -m experiments.plan_analysis run0 run1 --control      several, and what their plans do

The factor is what the pictures do not show: the mood of a picture book's stories (or --factor
plot, hero …), the album's label of others.
"""

import math
import sys
from collections import Counter
from pathlib import Path
from statistics import fmean

from utils import cli
from utils.cli import BOOK, OUTPUT_DIR, UserError
from utils.files import save_figure, write_json, write_text


def parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m experiments.plan_analysis", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("checkpoints", nargs="*", default=[OUTPUT_DIR], help="checkpoints, or output_dirs")
    add("--data_path", help="split (default: the newest test split); train.json beside it")
    add("--world", default=BOOK, help="the split's picture book, if it is of one")
    add("--factor", help="a fact of the picture book, or label (default: mood of a picture book)")
    add("--beat", type=cli.positive_int, default=1, help="the beat whose plans are analysed")
    add("--control", action="store_true", help="write a picture book's stories under chosen plans")
    no_plan = "--control: models without a plan to compare with, one for each checkpoint"
    add("--no_plan", nargs="*", default=[], metavar="CHECKPOINT", help=no_plan)
    add("--albums", type=cli.positive_int, default=100, help="--control: how many albums")
    add("--num_samples", type=cli.positive_int, default=20, help="--control: stories per album")
    add("--batch_size", type=cli.positive_int, default=100, help="stories at once")
    add("--seed", type=cli.non_negative_int, default=0, help="random seed")
    add("--output", default="output/plan_figures", help="writes OUTPUT.png, .json and .md")
    return parser


def parse(arguments: list[str] | None = None):
    options = parser().parse_args(arguments)
    expected = len(options.checkpoints)
    if options.no_plan and len(options.no_plan) != expected:
        raise UserError(
            f"--no_plan: {len(options.no_plan)} checkpoints; expected {expected}, one for each"
        )
    if options.no_plan and not options.control:
        raise UserError("--no_plan: to compare with in --control; expected that too")
    return options


if __name__ == "__main__":
    cli.parse_before_imports(parse)

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor, nn

from dataset import StoryDataset
from experiments.picturebook.checker import Book
from experiments.picturebook.facts import MOODS
from experiments.plan_control import ControlledWriter, control
from experiments.plan_data import compute_plans, factor_values, first_plans, read_truth
from model import load_checkpoint
from utils.dataset_options import latest_split
from utils.gaussian import Gaussian
from utils.processes import best_device
from utils.report import Table
from utils.statistics import mean_over_seeds
from utils.stories import read_split

# ------------------------------------------------------------------------- what plans know


def probe(train: tuple, test: tuple, seed: int) -> float:
    """A lower bound of what plans know of a factor, as a share of its entropy.

    train, test: (Gaussian (N, Z), factor (N)). (Entropy − cross-entropy) / entropy, with the
    cross-entropy of a small network, trained on samples of the training split's posteriors, on
    samples of the test split's (Barber and Agakov 2003).
    """
    torch.manual_seed(seed)
    (plans, factor), (test_plans, test_factor) = train, test
    centre = plans.mean.mean(0)
    scale = (plans.mean.var(0) + plans.log_var.exp().mean(0)).sqrt()

    def sample(plans: Gaussian) -> Tensor:
        return (plans.sample(torch.randn_like(plans.mean)) - centre) / scale

    classes = int(max(factor.max(), test_factor.max())) + 1
    Z, width, epochs = len(centre), 256, 30
    network = nn.Sequential(
        nn.Linear(Z, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, classes)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        z = sample(plans)
        for part in torch.randperm(len(z)).split(128):
            loss = F.cross_entropy(network(z[part]), factor[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(network(sample(test_plans)), test_factor) for _ in range(20)]
    cross_entropy = torch.stack(losses).mean().item()
    share = test_factor.bincount() / len(test_factor)
    entropy = torch.special.entr(share).sum().item()
    return (entropy - cross_entropy) / entropy


@torch.no_grad()
def first_plan_information(model, tokenizer, split, photos, book, facts, options) -> dict:
    """What the first plan knows of mood and wording given the picture, as shares of their entropy.

    Exact but for sampling: the book has a few first sentences for a picture, all equally likely,
    and q(z | picture, sentence) of each gives its probability under a plan z.
    """
    sentences = []
    for story in split["stories"]:
        story_facts = facts[story["story_id"]]
        wordings = book.plots[story_facts["plot"]][0]["wordings"]
        moods = [mood for mood in MOODS for _ in wordings[mood]]
        texts = [text.format(**story_facts) for mood in MOODS for text in wordings[mood]]
        sentences.append(texts)
    _, plans = first_plans(model, tokenizer, split, photos, sentences, options.batch_size)
    plans = Gaussian(plans.mean.double(), plans.log_var.double())  # pictures, sentences, Z
    by_sentence = Gaussian(plans.mean[:, None], plans.log_var[:, None])
    is_mood = torch.tensor([[mood == name for name in MOODS] for mood in moods]).double()
    generator = torch.Generator().manual_seed(options.seed)
    entropies = {"mood": [], "wording": []}
    for _ in range(50):
        noise = torch.randn(plans.mean.shape, generator=generator, dtype=torch.float64)
        z = plans.sample(noise)
        # of each sentence, by a plan of each: pictures, plans, sentences
        p_sentence = by_sentence.log_prob(z[:, :, None]).softmax(-1)
        for name, p in (("mood", p_sentence @ is_mood), ("wording", p_sentence)):
            entropy = torch.special.entr(p).sum(-1).mean().item()
            entropies[name].append(entropy / math.log(p.shape[-1]))
    return {
        f"plan 1 knows of the {name}, given the picture": 1 - fmean(unknown)
        for name, unknown in entropies.items()
    }


def principal_components(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (Z) and the two directions (Z, 2) in which points (N, Z) vary most."""
    centre = points.mean(0)
    directions = torch.linalg.svd(points - centre, full_matrices=False).Vh[:2].T
    return centre, F.pad(directions, (0, 2 - directions.shape[1]))  # where plans have one dimension


def draw_plans(prior: Gaussian, posterior: Gaussian, values: np.ndarray, options) -> None:
    """Posterior means of a beat in two dimensions, as they are and in units of the prior, and the
    first story's plans."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = options.beat - 1
    for axis, means in ((left, posterior.mean), (right, posterior.relative_to(prior).mean)):
        centre, directions = principal_components(means[:, at])
        points = (means - centre) @ directions  # stories, beats, 2
        for name, _ in Counter(values).most_common(10):
            label = f"posterior mean, {name}"
            axis.scatter(*points[values == name, at].T, s=9, alpha=0.7, label=label)
        axis.plot(*points[0].T, "k.-", lw=1)
        for t, point in enumerate(points[0].tolist(), start=1):
            axis.annotate(str(t), point, fontsize=11, weight="bold")
        if axis is left:
            prior_means = (prior.mean[:, at] - centre) @ directions
            axis.scatter(*prior_means.T, s=9, marker="x", c="0.5", label="prior mean", zorder=0)
        else:
            origin = (-centre @ directions).tolist()
            for share in (50, 90):  # of a normal distribution in two dimensions
                radius = math.sqrt(-2 * math.log(1 - share / 100))
                label = f"{share} % of the prior"
                axis.add_patch(Circle(origin, radius, fill=False, ls=":", ec="0.4", label=label))
        axis.set(xlabel="1st component", ylabel="2nd component")
        axis.legend(fontsize=8, title=options.factor)
    left.set_title(f"plans of beat {options.beat}, and the first story's plans")
    right.set_title("the same in units of the prior")
    save_figure(figure, f"{options.output}.png")


# --------------------------------------------------------------------------------------------- main


def load(checkpoint: str, plan: str):
    """A model trained with --plan `plan`, and its tokenizer."""
    with cli.flag("--checkpoint"):
        model, tokenizer = load_checkpoint(checkpoint)
    if model.config.plan != plan:
        raise UserError(f"{checkpoint}: trained with --plan {model.config.plan}; expected {plan}")
    return model.to(best_device()), tokenizer


def plans_and_values(path: Path, split: dict, options, model, tokenizer):
    """Photos, prior, posterior and factor of the split's stories that have the beat and the
    factor."""
    positions = model.config.image_positions, model.max_length
    dataset = StoryDataset.load(path, tokenizer, *positions, model.image_encoder)
    longest = int(dataset.beats.max())
    if longest < options.beat:
        raise UserError(
            f"--beat {options.beat}: the stories of {path} have {longest} beats at most"
        )
    values = np.array(factor_values(path, split, options), dtype=object)
    known = np.not_equal(values, None) & (dataset.beats >= options.beat)
    if not known.all():
        cli.warn(f"{path}: {(~known).sum()} stories without factor or beat are skipped")
    plans = compute_plans(model, dataset, options.batch_size)
    prior, posterior = (Gaussian(x.mean[known], x.log_var[known]) for x in plans)
    return dataset.photos, prior, posterior, values[known]


def analyse(k: int, split: dict, training: dict, book: Book | None, options) -> dict[str, float]:
    """The figures of checkpoint k, and of the first its figure."""
    model, tokenizer = load(options.checkpoints[k], "cvae")
    path, at = Path(options.data_path), options.beat - 1
    shared = options, model, tokenizer
    test = plans_and_values(path, split, *shared)
    train = plans_and_values(path.with_name("train.json"), training, *shared)
    names = sorted({*train[-1], *test[-1]})
    pairs = []
    for _, _, posterior, values in (train, test):
        factor = torch.tensor([names.index(value) for value in values])
        pairs.append((Gaussian(posterior.mean[:, at], posterior.log_var[:, at]), factor))
    label = f"plan {options.beat} and its prior know of the {options.factor}, at least"
    figures = {label: probe(*pairs, options.seed)}
    photos, *plans_and_factor = test
    if book:
        facts = read_truth(path, options.world)
        figures |= first_plan_information(model, tokenizer, split, photos, book, facts, options)
    if k == 0:
        draw_plans(*plans_and_factor, options)
    if options.control:
        no_plan = None
        if options.no_plan:
            no_plan = ControlledWriter(*load(options.no_plan[k], "none"), book, options)
        figures |= control(ControlledWriter(model, tokenizer, book, options), no_plan, split)
    return figures


def main() -> None:
    options = parse()
    options.data_path = options.data_path or str(latest_split("test") or "")
    if not options.data_path:
        raise UserError(
            "--data_path: not named, and dataset/preprocessed/ holds no test split; run python "
            "dataset.py"
        )
    path = Path(options.data_path)
    split, training = read_split(path), read_split(path.with_name("train.json"))
    is_book = split.get("source") == "picturebook"
    options.factor = options.factor or ("mood" if is_book else "label")
    book = Book(options.world) if is_book and Path(options.world).is_dir() else None
    if options.control and not book:
        raise UserError(
            f"--control: {path}, --world {options.world}: expected a picture book's split, and the "
            "book's folder"
        )
    for checkpoint in options.no_plan:  # before hours are spent on the others
        load(checkpoint, "none")
    figures = []
    for k, checkpoint in enumerate(options.checkpoints):
        figures.append(analyse(k, split, training, book, options))
        progress = f"{k + 1} of {len(options.checkpoints)}: {checkpoint}"
        print(progress, file=sys.stderr, flush=True)
    table = make_table(figures, options)
    print(table.text())
    write_json(f"{options.output}.json", {"settings": vars(options), "figures": figures})
    write_text(f"{options.output}.md", table.markdown())
    print(f"\n-> {options.output}.png (of {options.checkpoints[0]}), .json, .md")


def format_value(name: str, value: float) -> str:
    is_share = "distinct" not in name and "top_p" not in name
    return f"{100 * value:.1f} %" if is_share else f"{value:.2f}"


def make_table(figures: list[dict], options) -> Table:
    columns = {
        checkpoint: {name: format_value(name, x) for name, x in found.items()}
        for checkpoint, found in zip(options.checkpoints, figures)
    }
    caption = (
        "What a plan knows: shares of the factor's entropy; at least: by a probe trained on "
        "train.json; given the picture: exact, but for sampling."
    )
    if len(figures) > 1:
        columns["mean"] = {}
        for name in figures[0]:
            interval = mean_over_seeds([found[name] for found in figures])
            mean, low, high = (format_value(name, x) for x in interval)
            columns["mean"][name] = f"{mean} [{low}, {high}]"
        caption += " Mean and 95 % t-interval over the models."
    return Table.from_columns(f"Plans on {options.data_path}", columns, caption)


if __name__ == "__main__":
    cli.run(main)
