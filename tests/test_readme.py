"""Every command of the README is one that its script's parser takes."""

import re
import shlex

import pytest
from conftest import ROOT

import ablation
import benchmark
import CDE_score
import cli
import dataset
import generate
import picturebook
import plans
import train

PARSERS = {
    "ablation.py": ablation.parser,
    "benchmark.py": benchmark.parser,
    "CDE_score.py": CDE_score.parser,
    "dataset.py": dataset.parser,
    "generate.py": generate.parser,
    "picturebook.py": picturebook.parser,
    "plans.py": plans.parser,
    "train.py": train.parser,
    "train.sh": train.parser,
}


def commands():
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    for line in "".join(blocks).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["torchrun", "--nproc_per_node"]:
            words = ["python", *words[3:]]
        if len(words) > 1 and words[0] in ("python", "bash") and words[1] in PARSERS:
            yield pytest.param(words[1], words[2:], id=" ".join(words[1:]))


def test_the_readme_shows_every_script():
    assert {param.values[0] for param in commands()} == set(PARSERS)


@pytest.mark.parametrize("script, arguments", list(commands()))
def test_the_command_is_taken(script, arguments):
    PARSERS[script]().parse_args(arguments)


def test_a_flag_that_is_not_there_is_refused():
    for make in PARSERS.values():
        with pytest.raises(SystemExit) as stop:
            make().parse_args(["--no_such_flag", "1"])
        assert stop.value.code == 2 and isinstance(make(), cli.Parser)
