"""What a training leaves and takes up again: checkpoints, each with its model card, and the
progress in them.

`latest` is the one complete checkpoint to go on from. All else is derived from it: `best` (without
the optimizer) and the `step-<number>` of --save_total_limit are further names of its files.
"""

import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.cli import UserError
from utils.files import atomic_write, read_json, recover, remove, write_json
from utils.loading import BEST, LATEST, quiet_transformers

ADAM = {"step", "exp_avg", "exp_avg_sq"}  # what AdamW keeps of a parameter
OPTIMIZER, PROGRESS, STEP = "optimizer.safetensors", "progress.json", "step-"


def gathered(tensors, keep):
    """{name: tensor} with each that FSDP has cut over the processes whole, on the CPU; empty where
    not to `keep`.

    All processes must ask; one tensor at a time is whole on their devices.
    """
    whole = {}
    for name, tensor in tensors.items():
        tensor = tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = tensor.contiguous()
    return whole


def save_checkpoint(path, model, tokenizer, weights, optimizer_state, progress):
    """A complete directory to go on from: the model, its card, the optimizer's state and the
    progress."""
    with atomic_write(path) as directory:
        with quiet_transformers():
            model.save_pretrained(directory, state_dict=weights)
            tokenizer.save_pretrained(directory)
        (directory / "README.md").write_text(model_card(model, progress), encoding="utf-8")
        save_file(optimizer_state, directory / OPTIMIZER)
        write_json(directory / PROGRESS, progress)


def copy_checkpoint(source, target, leave_out=()):
    """Another name for a checkpoint's files, which take no more room where the disk knows hard
    links."""
    with atomic_write(target) as directory:
        directory.mkdir()
        for file in source.iterdir():
            if file.name not in leave_out:
                try:
                    os.link(file, directory / file.name)
                except OSError:
                    shutil.copy2(file, directory / file.name)


def kept_steps(directory):
    """The checkpoints that --save_total_limit has left, the oldest first."""
    steps = [
        path for path in directory.glob(f"{STEP}*") if path.name.removeprefix(STEP).isdecimal()
    ]
    return sorted(steps, key=lambda path: int(path.name.removeprefix(STEP)))


def is_of(path, progress):
    """Whether a checkpoint is of the training with this progress, and no later than it."""
    try:
        kept = read_progress(path / PROGRESS)
    except UserError:
        return False
    return kept.get("id") == progress["id"] and kept["step"] <= progress["step"]


def model_card(model, progress):
    """README.md of a checkpoint: what the model is, how to load it, how well it did, and what it
    was trained by."""
    options, made, figures = progress["options"], progress["versions"], progress.get("validation")
    chosen = {
        name: value
        for name, value in options.items()
        if name not in ("resume", "overwrite", "evaluate")
    }
    told = (
        f"Validation at step {figures['step']}, {figures['stories']} stories of "
        f"`{options['val_data_path']}`:"
        if figures
        else "It was not validated yet."
    )
    rows = [
        f"| {name} | "
        f"{[round(x, 4) for x in value] if isinstance(value, list) else round(value, 4)} |"
        for name, value in (figures or {}).items()
        if name not in ("step", "stories")
    ]
    table = (
        "\n".join(["| figure (nats per story where not said) | |", "|---|---|", *rows])
        if rows
        else ""
    )
    of_data = "\n".join(f"- {split}: {about}" for split, about in progress["data"].items())
    size = sum(p.numel() for p in model.parameters())
    return f"""---
library_name: transformers
pipeline_tag: image-to-text
tags:
- visual-storytelling
- conditional-vae
- plan-cvae
---

{CARD_TITLE}

Writes one sentence a photo, each under a plan (a latent vector) that is drawn from what was seen
and said before. A conditional VAE around GPT-2: {size / 1e6:.1f} M parameters, photos by
{model.image_encoder.config.arch}, `plan` {model.config.plan}, after {progress["step"]} steps.

## Use

With the code of plan-CVAE (its `generate.py` stands beside `model.py`):

```bash
python generate.py <folder of photos> --checkpoint <this folder>
```

```python
from model import load_checkpoint
model, tokenizer = load_checkpoint("<this folder>")
```

## Validation

{told}

{table}

## Training

{of_data}
- code {made["commit"] or "of unknown commit"}, Python {made["python"]}, torch {made["torch"]},
  transformers {made["transformers"]}, {made["date"]}

```json
{json.dumps(chosen, indent=1, ensure_ascii=False)}
```

A story is as good as the data: the model knows the world of its training stories alone.
"""


def optimizer_tensors(model, optimizer):
    """An optimizer's state as tensors by the names of its parameters: {"<parameter>:<what>":
    tensor}."""
    names, state = (
        {id(p): name for name, p in model.named_parameters()},
        optimizer.state_dict()["state"],
    )
    names = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{names[i]}:{what}": value for i, entry in state.items() for what, value in entry.items()
    }


def load_optimizer(model, optimizer, path):
    """Put back the state that `optimizer_tensors` gave, cut over the processes as its parameters
    are.

    Raises UserError where it is of other parameters.
    """
    state, parameters, expected = (
        optimizer.state_dict(),
        dict(model.named_parameters()),
        "the state of this training",
    )
    order = {
        id(p): i
        for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }
    state["state"] = {}
    for key, tensor in load_file(path).items():
        name, what = key.rsplit(":", 1) if ":" in key else (key, "")
        p = parameters.get(name)
        fitting = (
            id(p) in order and what in ADAM and tensor.shape == (() if what == "step" else p.shape)
        )
        if not fitting or not tensor.isfinite().all():
            raise UserError(f"{path}: {key!r} does not fit the model; expected {expected}")
        if isinstance(p, DTensor) and what != "step":
            tensor = distribute_tensor(tensor.to(p.device), p.device_mesh, p.placements)
        state["state"].setdefault(order[id(p)], {})[what] = tensor
    if lacking := [kept for kept in state["state"].values() if kept.keys() != ADAM]:
        raise UserError(
            f"{path}: lacks {sorted(ADAM - lacking[0].keys())[0]} of a parameter; expected "
            f"{expected}"
        )
    optimizer.load_state_dict(state)


def versions():
    """What the training ran with; it opens the log."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except OSError:  # no git here
        commit = ""
    return {
        "commit": commit or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def is_numbers(values):
    """Whether these are a list of numbers that a float can hold."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    return numbers and all(-1e300 < value < 1e300 for value in values)


def read_progress(path):
    """The progress in a checkpoint. Raises UserError where it is something else."""
    expected = "the progress of a training, as train.py writes it beside a model"
    progress = read_json(path, expected)
    numbers = {"step": int, "worse": int, "best": (int, float), "options": dict}
    fitting = isinstance(progress, dict) and all(
        isinstance(progress.get(name), kind) and not isinstance(progress[name], bool)
        for name, kind in numbers.items()
    )
    if fitting:
        data, figures, window = (
            progress.get(name, kind())
            for name, kind in (("data", dict), ("validation", dict), ("window", list))
        )
        fitting = isinstance(data, dict) and isinstance(figures, dict) and is_numbers(window)
        values = figures.values() if fitting else ()
        fitting = fitting and (
            not figures or isinstance(figures.get("step"), int) and "stories" in figures
        )
        fitting = fitting and all(
            is_numbers(value if isinstance(value, list) else [value]) for value in values
        )
    if not fitting or progress["step"] < 0 or progress["worse"] < 0:
        raise UserError(f"{path}: something else; expected {expected}")
    return progress


CARD_TITLE = "# plan-CVAE for visual storytelling"  # of the README.md in a checkpoint


def derive(directory, progress, keep):
    """The checkpoints derived from the latest: the best, and the newest to keep.

    Those of a training that was overwritten go, and those that are ahead of one that was taken
    up from an older step. A training that is taken up does this first: it may have been killed
    before it came to it.
    """
    latest, best = directory / LATEST, directory / BEST
    recover(best)
    if progress["best_step"] == progress["step"]:
        copy_checkpoint(latest, best, leave_out=(OPTIMIZER, PROGRESS))
    elif progress["best_step"] is None and best.exists():
        remove(best)
    # not where it stopped
    if keep and progress.get("validation", {}).get("step") == progress["step"]:
        copy_checkpoint(latest, directory / f"{STEP}{progress['step']}")
    kept = [path for path in kept_steps(directory) if is_of(path, progress)]
    for path in kept_steps(directory):
        if path not in kept[-keep:]:  # with --save_total_limit 0 all that are its own stay
            remove(path)
