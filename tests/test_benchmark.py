"""The benchmark measures what it says. How fast anything is, no test asserts."""

import contextlib
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

import generate
import train
from experiments.benchmark import __main__ as main
from experiments.benchmark import (
    generation,
    inputs,
    measuring,
    memory,
    quiet,
    scale,
    startup,
    tables,
    training,
)
from experiments.benchmark.reference import Reference, write_uncached
from experiments.benchmark.setup import SIZES, Setup
from model import load_checkpoint
from utils.files import write_json
from utils.train_options import TrainOptions

CPU_ROWS = [
    "training",
    *["fifth sentence"] * 4,
    *["whole story"] * 3,
    "preprocessing",
    "CDE scores",
]


@pytest.fixture
def setup():
    return Setup(SIZES["tiny"], torch.device("cpu"), False, 2, 1, 1, 0)


@pytest.fixture
def busy(monkeypatch):
    """busy(share): a machine of which other processes use so much."""

    def use(share):
        monkeypatch.setattr(quiet.Others, "share", lambda self: share)
        monkeypatch.setattr(quiet.time, "sleep", lambda seconds: None)

    return use


def positive(values):
    return all(value > 0 for value in values)


@pytest.mark.slow
@pytest.mark.pictures("figures.png")
def test_everything_is_measured_side_by_side(script, monkeypatch, tmp_path):
    for module in (inputs, generation):
        monkeypatch.setattr(module, "WORDS", 5)  # a sentence; the rehearsal is short
    output = tmp_path / "figures"
    tiny = [
        "--size",
        "tiny",
        "--repetitions",
        1,
        "--batch_size",
        2,
        "--threads",
        1,
        "--noisy",
        "--output",
        output,
    ]
    done = script("benchmark.py", "training", "generation", "preprocessing", "scoring", *tiny)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    rows = main.rows_of(found)
    assert [row["what"].split(",")[0] for row in rows] == CPU_ROWS
    for row in rows:
        assert row["goals"] and row["goals"].keys() <= row["ratios"].keys()
        for way, seconds in row["seconds"].items():
            assert len(seconds) == 1 and positive(seconds) and positive(row["rates"][way].values())
        assert all(positive(of.values()) for of in row["ratios"].values())
        assert row["what"] in done.stdout
    for goal in (
        "≥ 6 x and ≥ 0.9 of the limit",
        "≥ 8 x",
        "≥ 0.85 of the limit",
        "not measured: memory, startup",
        "on a GPU",
    ):
        assert goal in done.stdout, goal
    training = found["training"]
    assert (
        positive(of["median"] for of in training["profile"].values())
        and 0 <= training["padding"] < 1
    )
    assert positive(
        training[name] for name in ("tokens_per_second", "flops_per_second", "trained_parameters")
    )
    assert found["options"]["size"] == "tiny" and found["setup"]["batch_size"] == 2
    assert found["machine"]["torch"] == torch.__version__
    assert (tmp_path / "figures.png").stat().st_size > 5000
    assert "40,155" in script("benchmark.py", "scale", "--output", output).stdout


@pytest.mark.slow
def test_memory_is_that_of_a_training_step(setup, monkeypatch):
    monkeypatch.setattr(
        memory, "in_fresh_process", lambda function, *arguments: function(*arguments)
    )
    monkeypatch.setattr(memory, "peak_memory", lambda setup: 2**40)
    monkeypatch.setattr(memory, "VIST_STORIES", 20)
    found = memory.measure_memory(setup)
    assert [(of["batch_size"], of["beats"]) for of in found["peaks"]] == [
        (8, 5),
        (16, 5),
        (32, 5),
        (8, 10),
    ]
    assert positive(of[who] for of in found["peaks"] for who in (measuring.OURS, measuring.BARE))
    assert "32 stories of 5 beats" in tables.memory_table(found).text()
    found["peaks"][0][measuring.OURS] = None  # its process was killed
    assert "–" in tables.memory_table(found).text()


def test_a_figure_of_a_process_that_was_killed_is_missing():
    assert memory.in_fresh_process(os._exit, 9) is None
    assert memory.in_fresh_process(len, "abc") == 3


def test_the_peak_is_the_processes_own(setup):
    held = torch.ones(2**24)  # 64 MB
    peak = memory.peak_memory(setup)
    assert (
        held.nbytes < peak and held.nbytes < memory.psutil.Process().memory_info().rss <= 1.1 * peak
    )


def test_start_up_runs_what_a_user_runs(setup, monkeypatch):
    commands = []

    def run(*arguments):
        commands.append(arguments[0])
        if len(arguments) > 2 and arguments[0] == "generate.py":
            options = generate.parse(list(map(str, arguments[1:])))
            model, _ = load_checkpoint(options.checkpoint)
            assert (
                len(generate.read_folder(options.folders[0], model.image_encoder, "name")["rows"])
                == 5
            )

    monkeypatch.setattr(startup, "run_python", run)
    found = startup.measure_startup(setup)
    assert commands == 2 * ["-c", "generate.py", "generate.py"]
    assert "≤ 2" in tables.startup_table(found).text() and len(found["goals"]) == 2


def test_a_script_that_fails_is_not_timed():
    with pytest.raises(RuntimeError, match="no_such_module"):
        startup.run_python("-c", "import no_such_module")


# --------------------------------------------------------------------------------------- arithmetic


def test_ratios_are_of_the_same_round():
    rng = np.random.default_rng(0)
    seconds = {
        name: rng.uniform(1, 9, 5).tolist() for name in ("reference", "slow", "fast", "ours")
    }
    work = {"reference": 1, "slow": 4, "fast": 400, "ours": 8}
    row = measuring.row("it", "stories", seconds, work, (6, 0.9))
    ours, reference, slow = (
        work[name] / np.array(seconds[name]) for name in ("ours", "reference", "slow")
    )
    assert row["limit"] == "slow"
    for by, rate in (("reference", reference), ("limit", slow)):
        expected = [np.median(ours / rate), (ours / rate).min(), (ours / rate).max()]
        assert list(row["ratios"][by].values()) == pytest.approx(expected)
        assert row["met"][by] == (expected[0] >= row["goals"][by])


def test_ways_take_turns(setup):
    turns = []
    ways = {name: lambda turn, name=name: turns.append((turn, name)) for name in "ab"}
    seconds = measuring.interleave(ways, replace(setup, repetitions=3))
    assert turns == [(turn, name) for turn in range(4) for name in "ab"]
    # without the one to warm up
    assert {name: len(of) for name, of in seconds.items()} == {"a": 3, "b": 3}


def test_cost_model_by_hand():
    cost = scale.cost_model(
        stories=1000,
        photos=5000,
        processes=4,
        batch_size=10,
        per_story=0.5,
        per_step=2.0,
        trained_parameters=100,
        photos_per_second=25,
    )
    assert cost == {"epoch_seconds": 25 * 7.0, "photo_seconds": 50.0, "bytes_per_step": 600.0}
    alone = scale.cost_model(21, 1, 1, 10, 0.0, 1.0, 100, None)
    assert alone == {"epoch_seconds": 3.0, "photo_seconds": None, "bytes_per_step": 0.0}


# ------------------------------------------------------------------------ what is held side by side


def test_the_objective_is_that_of_a_training_by_default():
    defaults = TrainOptions()
    assert {name: getattr(defaults, name) for name in training.OBJECTIVE} == training.OBJECTIVE
    assert (training.GRAD_CLIP, training.ADAM_BETAS) == (defaults.max_grad_norm, train.ADAM_BETAS)


def test_stories_are_as_long_as_vists(setup):
    stories = inputs.RandomStories(400, setup.size, 4)
    words = [len(sentence) for i in range(400) for sentence in stories.sentences(i)]
    assert abs(np.mean(words) - inputs.WORDS) < 0.5
    assert inputs.FEWEST == min(words) and max(words) == inputs.MOST
    assert stories.lengths[7] == len(stories[7]["input_ids"]) and stories[7]["photos"].shape == (
        5,
        4,
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_the_reference_without_its_heads_writes_what_generate_writes(setup, beams):
    torch.manual_seed(0)
    size, special = setup.size, setup.size.special
    decoder = inputs.build_decoder(size).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)  # words that differ
    reference = Reference(decoder.config, 512, size.image_positions).eval()
    reference.decoder.load_state_dict(decoder.transformer.state_dict())
    photos = torch.randn(2, 512)
    told = [inputs.spoken([5, 6, 7, 8], special, "cpu")]

    def next_word(words):
        states, _, _ = reference.read([*told, torch.tensor([special.bos, *words])], photos)
        scores = decoder.lm_head(states[-1]).log_softmax(-1)
        scores[special.eos] = -torch.inf  # as by min_new_tokens
        return scores

    context = reference.embed([*told, torch.tensor([special.bos])], photos)
    settings = generation.decoding(special, beams)
    written = decoder.generate(inputs_embeds=context, generation_config=settings)[0].tolist()
    assert write_uncached(next_word, inputs.WORDS, beams) == written
    assert len(set(written)) > 2


@pytest.mark.parametrize("beams", [1, 2])
def test_the_limit_of_generation_reads_each_story_as_it_is(setup, beams):
    torch.manual_seed(0)
    size, special = setup.size, setup.size.special
    decoder = inputs.build_decoder(size).eval()
    settings = generation.decoding(special, beams)
    stories = inputs.RandomStories(2, size, 1)
    told = [stories.sentences(i)[:2] for i in range(2)]
    together = generation.bare_stories(decoder, told, settings, setup)
    assert together == [
        generation.bare_stories(decoder, [story], settings, setup)[0] for story in told
    ]
    assert [len(words) for words in together[0][2:]] == [inputs.WORDS] * 3 and together[0][
        :2
    ] == told[0]
    assert isinstance(decoder, GPT2LMHeadModel)


def test_the_reference_takes_a_step_for_each_beginning(setup):
    size = setup.size
    decoder = inputs.build_decoder(size)
    reference = Reference(decoder.config, 8, size.image_positions)
    before = {name: p.clone() for name, p in reference.named_parameters()}
    optimizer, steps = training.adamw(reference), []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    sentences = [inputs.spoken(words, size.special, "cpu") for words in ([1, 2], [3], [4, 5, 6])]
    reference.train_on(sentences, torch.randn(3, 8), optimizer, contextlib.nullcontext)
    assert len(steps) == 2
    still = [name for name, p in reference.named_parameters() if torch.equal(p, before[name])]
    assert still == ["dynamics.wte.weight"]  # it reads states, not words
    assert len(reference.score(sentences, torch.randn(3, 8))) == 2


# ---------------------------------------------------------------------------------- a quiet machine


def test_others_are_all_but_this_process(monkeypatch):
    clock = iter([(100.0, 50.0, 10.0), (110.0, 62.0, 15.0)])
    monkeypatch.setattr(quiet.Others, "now", staticmethod(lambda: next(clock)))
    monkeypatch.setattr(quiet.psutil, "cpu_count", lambda: 2)
    assert quiet.Others().share() == pytest.approx((12 - 5) / 20)


def test_busy_are_the_processors_that_do_not_rest(monkeypatch):
    times = {"user": 5.0, "system": 2.0, "idle": 90.0, "iowait": 3.0, "steal": 1.0, "guest": 4.0}
    monkeypatch.setattr(quiet.psutil, "cpu_times", lambda: SimpleNamespace(_asdict=lambda: times))
    assert quiet.Others.now()[1] == 8.0


def test_a_busy_machine_is_refused(script, busy, tmp_path):
    busy(0.5)
    done = script("benchmark.py", "scoring", "--size", "tiny", "--output", tmp_path / "figures")
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert "other processes use 50% of this machine" in done.stderr and "--noisy" in done.stderr


def test_a_busy_machine_is_told_of(busy, setup, monkeypatch, capsys):
    monkeypatch.setitem(main.MEASURES, "scoring", lambda setup: {"rows": []})
    busy(0.5)
    assert main.measure("scoring", setup, noisy=True)["others"] == 0.5
    assert capsys.readouterr().err.count("50%") == 2  # before and meanwhile
    busy(0.0)
    main.measure("scoring", setup, noisy=False)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------------------- users' mistakes


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["speed"], "speed: unknown part; expected training, "),
        (["--output", "{}"], "--output {}: a folder; expected the name of the files to write"),
        (["--encoder", "vgg"], "argument --encoder: invalid choice: 'vgg'"),
        (
            ["--output", "{}/none", "scale"],
            "{}/none.json: no such file; expected what python -m experiments.benchmark training",
        ),
    ],
)
def test_mistakes_are_one_line(script, tmp_path, arguments, said):
    done = script("benchmark.py", *(argument.format(tmp_path) for argument in arguments))
    assert (
        done.returncode == 2
        and said.format(tmp_path) in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_scale_needs_a_training(script, tmp_path):
    write_json(tmp_path / "figures.json", {"startup": {"rows": []}})
    done = script("benchmark.py", "scale", "--output", tmp_path / "figures")
    assert done.returncode == 2 and "scale: no figures of training" in done.stderr
