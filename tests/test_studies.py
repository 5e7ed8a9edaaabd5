"""ablation.py and plans.py: what they find out about models, on a small picture book."""

import json
import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import generate
from experiments import ablation, plan_data
from experiments import plan_analysis as plans
from experiments.picturebook.checker import Book
from experiments.picturebook.texts import join_words, write_sentences
from experiments.picturebook.writer import make_dataset
from experiments.plan_control import ControlledWriter
from utils.cli import UserError
from utils.gaussian import Gaussian
from utils.plans import Sample
from utils.statistics import mean_over_seeds

TINY = "--n_layer 1 --n_head 2 --n_embd 32 --image_positions 2 --plan_size 4".split()
TINY += "--batch_size 4 --max_steps 4".split()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """A picture book of few stories, drawn and preprocessed."""
    import dataset

    folder = tmp_path_factory.mktemp("studies")
    settings = {
        "stories": {"train": 12, "val": 4, "test": 4},
        "stories_per_album": 1,
        "seed": 0,
        "size": 32,
    }
    make_dataset(folder / "book", settings)
    dataset.main(
        [
            "--picturebook",
            str(folder / "book"),
            "--output",
            str(folder / "data"),
            "--num_workers",
            "1",
        ]
    )
    return folder


def test_over_seeds():
    mean, low, high = mean_over_seeds([1.0, 2.0, 6.0])
    assert mean == 3 and (high - mean) == pytest.approx(4.302652 * math.sqrt(7) / math.sqrt(3))
    assert low == pytest.approx(6 - high)
    assert mean_over_seeds([5.0])[0] == 5 and math.isnan(mean_over_seeds([5.0])[1])


# -------------------------------------------------------------------------------------------- plans


def of_two_kinds(distance, seed, many=1000, size=5):
    """Plans whose first coordinate tells a coin's side, `distance` deviations from the middle."""
    chance = torch.Generator().manual_seed(seed)
    side = torch.randint(0, 2, (many,), generator=chance)
    mean = torch.randn(many, size, generator=chance)
    mean[:, 0] = distance * (2.0 * side - 1)
    return Gaussian(mean, torch.zeros(many, size)), side


@pytest.mark.parametrize("distance", [0.0, 1.0, 4.0])
def test_what_plans_know_of_a_coin(distance):
    grid = torch.linspace(-12, 12, 4001)
    sides = torch.stack(
        [torch.distributions.Normal(s * distance, 1).log_prob(grid).exp() for s in (-1.0, 1.0)]
    )
    # of each side, given the coordinate
    share = (sides / sides.sum(0).clamp(min=1e-30)).clamp(min=1e-30)
    uncertain = -(0.5 * sides * share.log2()).sum() * (grid[1] - grid[0])
    found = plans.probe(of_two_kinds(distance, 0), of_two_kinds(distance, 1), seed=0)
    assert found == pytest.approx(1 - uncertain.item(), abs=0.08) and found <= 1


@pytest.mark.parametrize(
    "apart, mood, wording", [("sentences", 1, 1), ("moods", 1, 1 - math.log(3, 6)), ("", 0, 0)]
)
def test_what_the_first_plan_knows_of_a_picture(
    apart, mood, wording, book, make_model, tokenizer, monkeypatch
):
    split = json.loads((book / "data" / "test.json").read_text())
    facts = json.loads((book / "book" / "truth" / "test.json").read_text())
    model, seen = make_model(plan_size=4), []

    def compute_plans(model, data, *_):
        """Plans of as many stories, a world apart where they are to be told apart."""
        seen.extend(tokenizer.decode(data.sentences(i)[0]) for i in range(len(data)))
        number = torch.arange(len(data)) % 6
        place = {"sentences": number, "moods": number // 3, "": 0 * number}[apart]
        mean = 100.0 * place[:, None, None] + torch.randn(len(data) // 6, 1, 4).repeat_interleave(
            6, 0
        )
        made = Gaussian(mean, torch.zeros(len(data), 1, 4))
        return made, made

    monkeypatch.setattr(plan_data, "compute_plans", compute_plans)
    the_book, options = Book(book / "book"), plans.parse([])
    found = plans.first_plan_information(model, tokenizer, split, None, the_book, facts, options)
    assert list(found.values()) == pytest.approx([mood, wording], abs=1e-6)
    assert len(seen) == 6 * len(split["stories"]) and len(set(seen)) > 6


def test_the_plane_in_which_points_vary_most():
    points = torch.randn(500, 6) * torch.tensor([0.1, 3.0, 0.1, 0.1, 7.0, 0.1]) + 5
    centre, directions = plans.principal_components(points)
    torch.testing.assert_close(centre, points.mean(0))
    assert directions[4, 0].abs() > 0.99 and directions[1, 1].abs() > 0.99


class ToldByTheBook(ControlledWriter):
    """A control whose stories are the book's own, in the moods that are asked for, some of them
    spoilt."""

    def __init__(self, book, moods, spoilt=()):
        folder = book / "book"
        self.options = plans.parse(
            ["--world", str(folder), "--data_path", str(book / "data" / "test.json")]
        )
        self.book, self.moods, self.spoilt = Book(folder), moods, spoilt
        self.truth = json.loads((folder / "truth" / "test.json").read_text())

    def write(self, *arguments, samples=None):
        asked, stories = [], []
        for i, facts in enumerate(self.truth.values()):
            for n, mood in enumerate(self.moods):
                said = list(map(join_words, write_sentences(facts | {"mood": mood})))
                if n in self.spoilt:
                    said[2] = "something else ."
                asked.append(Sample(i, n + 1, None))
                ids = {"story_id": str(i), "album_id": str(i), "photo_ids": facts["photo_ids"]}
                stories.append(ids | {"sentences": said})
        return asked, stories


def test_figures_of_stories_that_the_book_tells(book, monkeypatch):
    both = ToldByTheBook(book, ("cheerful", "gloomy", "gloomy", "gloomy"), spoilt=[2])
    asked, stories = both.write()
    found = both.check(stories)
    assert found["one mood"] == found["all five beats"] == 0.75 and found["cheerful"] == 0.25
    assert found["distinct stories per album"] == 3 and found["slots right (the worst slot)"] < 1
    assert list(map(both.mood, stories[:4])) == ["cheerful", "gloomy", None, "gloomy"]
    # Of a reranker that keeps the spoilt story of one album of four, the gain is none: 3 of 4 are
    # whole anyway.
    for kept, gain in (([0, 1, 3, 2], 0.0), ([0, 1, 3, 1], 1.0)):
        scores = [float(k != kept[album]) for album in range(4) for k in range(4)]
        score = lambda *_, scores=scores: {"CDE": scores}
        monkeypatch.setattr(generate.StoryWriter, "score", score)
        both.writer = generate.StoryWriter(None, None)
        both.model = SimpleNamespace(config=SimpleNamespace(state_bow=True))
        both.albums = list(both.truth)
        reranked = both.rerank()
        assert (
            reranked["CDE: share of the possible gain"] == gain
            and reranked["the best possible choice"] == 1
        )


@pytest.mark.parametrize(
    "control",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.pictures("plan_figures.png")])],
)
def test_plans_of_a_model(control, book, script, tmp_path):
    data = book / "data"
    for plan in ("cvae", "none"):
        out = ["--output_dir", tmp_path / plan, "--plan", plan, *TINY]
        done = script("train.py", "--train_data_path", data / "train.json", *out)
        assert done.returncode == 0, done.stderr
    world = ["--data_path", data / "test.json", "--world", book / "book"]
    same = ["plan_analysis.py", tmp_path / "cvae", *world]
    few = ["--albums", 3, "--num_samples", 2]
    few += ["--control", "--no_plan", tmp_path / "none"] if control else []
    done = script(*same, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "output"
    (found,) = json.loads((output / "plan_figures.json").read_text())["figures"]
    assert "plan 1 and its prior know of the mood, at least" in found
    assert "plan 1 knows of the mood, given the picture" in found
    assert control == ((output / "plan_figures.png").stat().st_size > 10_000)
    table = (output / "plan_figures.md").read_text()
    assert ("sampled plans: one mood" in table) == ("the best possible choice" in found) == control
    if control:
        assert (
            "word sampling without a plan: top_p" in found
            and found["mean plan: all five beats"] == 0
        )
        assert 1 <= found["sampled plans: distinct stories per album"] <= 2
        done = script(*same, "--factor", "plot", "--beat", 2, cwd=tmp_path)
        assert "plan 2 and its prior know of the plot" in done.stdout
    for wrong, message in (
        (["--factor", "weather"], "--factor weather: fewer than two values of it"),
        (["--beat", "6"], "test.json have 5 beats at most"),
        (["--no_plan", "a", "b"], "--no_plan: 2 checkpoints; expected 1"),
        (["--no_plan", "a"], "--no_plan: to compare with in --control"),
        (["--control", "--no_plan", tmp_path / "cvae"], "trained with --plan cvae; expected none"),
    ):
        done = script(*same, *wrong, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    done = script("plan_analysis.py", tmp_path / "none", *world, cwd=tmp_path)
    assert done.returncode == 2 and "trained with --plan none; expected cvae" in done.stderr


# ----------------------------------------------------------------------------------------- ablation


@pytest.mark.parametrize(
    "variants, seeds",
    [
        (["plan=cvae,free_bits=0.5"], [0]),
        pytest.param(
            ["plan=none", "plan=cvae,free_bits=0.5"],
            [0, 1],
            marks=[pytest.mark.slow, pytest.mark.pictures("frontier.png")],
        ),
    ],
)
def test_an_ablation(variants, seeds, book, script, monkeypatch, tmp_path):
    calls = []

    def here(name, *arguments):
        calls.append(name)
        done = script(name, *arguments)
        if done.returncode:
            raise UserError(done.stderr.strip())

    class InTurn(ThreadPoolExecutor):  # scripts here set signal handlers, which threads may not
        def submit(self, work, *arguments):
            done = Future()
            done.set_result(work(*arguments))
            return done

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the ablation sets it
    monkeypatch.setattr(ablation, "run_script", here)
    monkeypatch.setattr(ablation, "ThreadPoolExecutor", InTurn)
    output = tmp_path / "a"
    options = ["--train_data_path", book / "data" / "train.json", "--output_dir", output]
    options += ["--train", " ".join(TINY), "--world", book / "book", "--seeds", *seeds]
    monkeypatch.setattr("sys.argv", ["ablation.py", *variants, *map(str, options)])
    ablation.main()
    runs = len(variants) * len(seeds)
    assert calls == ["train.py", "train.py", "generate.py", "CDE_score.py"] * runs
    figures = json.loads((output / "table.json").read_text())["figures"]
    assert list(figures) == variants
    assert all(len(of_variant) == len(seeds) for of_variant in figures.values())
    cvae = figures["plan=cvae,free_bits=0.5"]
    assert cvae[0]["KL"] > 0 and "its stories: all five beats, %" in cvae[0]
    for none in figures.get("plan=none", ()):
        elbo, bound = none["−ELBO: nats per story"], none["bound, 100 samples: nats per story"]
        assert none["KL"] == 0 and elbo == pytest.approx(bound, rel=1e-4)
    last = output / variants[-1] / str(seeds[-1]) / "latest" / "progress.json"
    trained = json.loads(last.read_text())["options"]
    assert trained["seed"] == seeds[-1] and trained["free_bits"] == 0.5
    table = (output / "table.md").read_text()
    mean, low, high = mean_over_seeds([of_seed["KL"] for of_seed in cvae])
    shown = f"{mean:.4g} [{low:.4g}, {high:.4g}]" if len(seeds) > 1 else f"{mean:.4g}"
    assert shown in table
    assert (len(seeds) > 1) == ((output / "frontier.png").stat().st_size > 10_000)
    again = []
    monkeypatch.setattr(ablation, "run_script", lambda *words: again.append(words))
    ablation.main()  # train.py is asked to go on from what is there: nothing is trained again
    assert len(again) == 4 * runs
    assert all("--resume" in words for words in again if "--seed" in words)
    assert (output / "table.md").read_text() == table


def test_switches_are_varied_by_true_and_false():
    given = "plan=none,train_encoder=false"
    assert ablation.as_options(given) == ["--plan=none", "--no-train_encoder"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["plan"], "plan: expected NAME=VALUE"),
        (["plan=cvae,seed=1"], "plan=cvae,seed=1: --seed is ablation.py's to set"),
        (["--train", "--text 'original"], "No closing quotation"),
        ([], "--train_data_path: not named, and dataset/preprocessed/ holds no training split"),
        (["--train", "--seed 3"], "--train: --seed is ablation.py's to set"),
        (["--train_data_path", "nowhere.json"], "--train_data_path: nowhere.json is not there"),
        (
            ["beat=1", "--train_data_path", "DATA"],
            "beat=1, seed 0: train.py: unrecognized arguments: --beat=1",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, book, script, tmp_path):
    arguments = [book / "data" / "train.json" if word == "DATA" else word for word in arguments]
    done = script("ablation.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(Path(tmp_path).glob("**/table.json"))
