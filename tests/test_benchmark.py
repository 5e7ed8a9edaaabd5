"""The benchmark measures what it says. How fast anything is, no test asserts."""

import json

import numpy as np
import pytest
import torch

from experiments import benchmark
from experiments.benchmark import Benchmark, Reference, interleave, make_row, parse

TINY = ["--size", "tiny", "--repetitions", "1", "--batch_size", "2", "--threads", "1"]


@pytest.fixture
def setup():
    return Benchmark(parse(TINY))


@pytest.mark.slow
@pytest.mark.pictures("figures.png")
def test_everything_is_measured_side_by_side(script, tmp_path):
    done = script("benchmark.py", *TINY, "--output", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert len(found["rows"]) == 7
    for row in found["rows"]:
        assert row["what"] in done.stdout
        for seconds in row["seconds"].values():
            assert len(seconds) == 1 and seconds[0] > 0
        assert all(value > 0 for speed in row["speeds"].values() for value in speed)
    assert found["figures"]["tokens per second"] > 0
    assert 0 <= found["figures"]["padding"] < 1
    assert "GiB, batch 32, ours" in done.stdout and "generate.py, five photos" in done.stdout
    assert found["machine"]["torch"] == torch.__version__
    assert (tmp_path / "figures.png").stat().st_size > 5000


def test_training_and_scoring_are_measured(script, tmp_path):
    done = script("benchmark.py", "training", "scoring", *TINY, "--output", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert "training, batch 2 (stories/s)" in done.stdout and "scores, batch 32" in done.stdout


def test_a_script_that_fails_is_not_timed():
    with pytest.raises(RuntimeError, match="no_such_module"):
        benchmark.run_python("-c", "import no_such_module")


def test_ratios_are_of_the_same_turn():
    rng = np.random.default_rng(0)
    seconds = {name: rng.uniform(1, 9, 5).tolist() for name in ("reference", "limit", "ours")}
    work = {"reference": 1, "limit": 4, "ours": 8}
    row = make_row("it", seconds, work)
    rates = {name: work[name] / np.array(seconds[name]) for name in work}
    for name in ("reference", "limit"):
        ratio = rates["ours"] / rates[name]
        found = row["speeds"][f"ours / {name}"]
        assert found == pytest.approx([np.median(ratio), ratio.min(), ratio.max()])


def test_functions_take_turns():
    turns = []
    functions = {name: lambda name=name: turns.append(name) for name in "ab"}
    seconds = interleave(functions, repetitions=3)
    assert turns == list("abababab")
    assert {name: len(x) for name, x in seconds.items()} == {"a": 3, "b": 3}  # without the first


def test_stories_are_as_long_as_vists(setup):
    stories = setup.stories(400)
    words = [len(sentence) for i in range(400) for sentence in stories.sentences(i)]
    assert abs(np.mean(words) - benchmark.WORDS) < 0.5 and min(words) == 4 and max(words) == 30
    assert stories.lengths[7] == len(stories[7]["input_ids"]) and not stories.shortened


@pytest.mark.parametrize("beams", [1, 3])
def test_the_reference_writes_what_generate_writes_without_a_cache(setup, beams):
    """With its head set to the decoder's own."""
    torch.manual_seed(0)
    decoder = setup.build_decoder().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)  # words that differ
    D = decoder.config.n_embd
    reference = Reference(decoder, 512, setup.image_positions).eval()
    with torch.no_grad():
        reference.head.weight[:, :D] = decoder.lm_head.weight
        reference.head.weight[:, D:] = 0
        reference.head.bias.zero_()
    photo, words = torch.randn(1, 512), torch.tensor([5, 6, 7])
    images = reference.project(photo[0]).view(setup.image_positions, D)
    context = torch.cat([images, decoder.transformer.wte(words)])[None]
    written = decoder.generate(
        inputs_embeds=context,
        num_beams=beams,
        do_sample=False,
        max_new_tokens=6,
        min_new_tokens=6,
        pad_token_id=0,
    )[0].tolist()
    assert reference.write([words], photo, 6, beams) == written and len(set(written)) > 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["speed"], "speed: unknown part; expected training, "),
        (["--output", "{}"], "--output {}: a folder; expected the name of the files to write"),
        (["--encoder", "vgg"], "argument --encoder: invalid choice: 'vgg'"),
    ],
)
def test_mistakes_are_one_line(script, tmp_path, arguments, message):
    done = script("benchmark.py", *(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2 and message.format(tmp_path) in done.stderr
    assert done.stderr.count("\n") == 1
