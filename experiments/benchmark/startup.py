"""Start-up: what a user waits for before a small story is there."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from experiments.benchmark.inputs import BEATS, build_model, draw_photos
from experiments.benchmark.measuring import interleave, spread
from experiments.benchmark.setup import Size
from utils.loading import quiet_transformers
from utils.tokenizer import special_ids, train_tokenizer

# goals: generate.py --help; a small story beyond the libraries' import
HELP_SECONDS, GENERATE_SECONDS = (1.0, 2.0)


def run_python(*arguments):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stderr.strip()[-500:]}")


def measure_startup(setup):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "photos").mkdir()
        draw_photos(folder / "photos", BEATS, setup.seed)
        tokenizer = train_tokenizer(["we saw a fox and a bear in a boat ."], vocab_size=300)
        small = Size(
            {"vocab_size": len(tokenizer), "n_layer": 3, "n_embd": 256, "n_head": 4},
            special_ids(tokenizer),
            "resnet18",
            64,
            4,
            0,
            0,
            0,
        )
        for item in (build_model(small), tokenizer):
            with quiet_transformers():
                item.save_pretrained(folder / "checkpoint")
        command = ["generate.py", folder / "photos", "--checkpoint", folder / "checkpoint"]
        ways = {
            "import of torch, torchvision, transformers": (
                "-c",
                "import torch, torchvision, transformers",
            ),
            "generate.py --help": ("generate.py", "--help"),
            "generate.py, five photos": (*command, "--output", folder / "stories.json"),
        }
        seconds = interleave(
            {name: lambda _, way=way: run_python(*way) for name, way in ways.items()}, setup
        )
    imports, help, generate = map(np.array, seconds.values())
    goals = {
        "generate.py --help": (help, HELP_SECONDS),
        "a story, beyond the import": (generate - imports, GENERATE_SECONDS),
    }
    goals = {
        name: spread(of) | {"goal": goal, "met": bool(np.median(of) <= goal)}
        for name, (of, goal) in goals.items()
    }
    return {"rows": [], "seconds": seconds, "goals": goals}
