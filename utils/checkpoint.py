"""What a training saves and resumes from: checkpoints, each with its model card.

`latest` is the one complete checkpoint to resume from. All else is derived from it: `best` (without
the optimizer) and the `step-<number>` of save_total_limit are further names of its files.
"""

import json
import math
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from utils.cli import UserError
from utils.files import atomic_write, read_json, recover, remove, write_json
from utils.loading import BEST, LATEST
from utils.quiet import quiet_transformers
from utils.train_log import SUMS

OPTIMIZER, PROGRESS, STEP = "optimizer.safetensors", "progress.json", "step-"
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)  # whole tensors, also under FSDP


def save_checkpoint(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    progress: dict,
    main: bool,
) -> None:
    """A complete directory to resume from, written by the main process; all processes take part."""
    weights = get_model_state_dict(model, options=FULL)
    state = {}
    if optimizer.state:  # before the first step torch would make one, which counts
        state = get_optimizer_state_dict(model, optimizer, options=FULL).get("state", {})
    if not main:
        return
    # tied weights once
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    weights = {name: tensor.contiguous() for name, tensor in weights.items() if name in names}
    with atomic_write(path) as directory:
        with quiet_transformers():
            model.save_pretrained(directory, state_dict=weights)
            tokenizer.save_pretrained(directory)
            model.generation_config.save_pretrained(directory)
        model_card(model, progress).save(directory / "README.md")
        save_file(flatten(state), directory / OPTIMIZER)
        write_json(directory / PROGRESS, progress)


def flatten(state: dict[str, dict]) -> dict[str, Tensor]:
    """An optimizer's tensors by "parameter:name"."""
    return {f"{name}:{key}": x for name, entry in state.items() for key, x in entry.items()}


def load_optimizer(model: PreTrainedModel, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Restore the optimizer's state. Raises UserError where it is of other parameters."""
    tensors = load_file(path)
    if not tensors:  # saved before the first step
        return
    options = StateDictOptions(full_state_dict=True)  # in all processes
    state = get_optimizer_state_dict(model, optimizer, options=options)
    expected = flatten(state["state"])
    shapes, expected_shapes = ({key: x.shape for key, x in y.items()} for y in (tensors, expected))
    if shapes != expected_shapes or not all(x.isfinite().all() for x in tensors.values()):
        raise UserError(f"{path}: does not fit the model; expected the training's own state")
    for key, tensor in tensors.items():
        name, entry = key.rsplit(":", 1)
        state["state"][name][entry] = tensor
    set_optimizer_state_dict(model, optimizer, state, options=options)


def copy_checkpoint(source: Path, target: Path, without: tuple = ()) -> None:
    """Another name for a checkpoint's files, hard links where the disk has them."""
    with atomic_write(target) as directory:
        directory.mkdir()
        for file in source.iterdir():
            if file.name in without:
                continue
            try:
                os.link(file, directory / file.name)
            except OSError:
                shutil.copy2(file, directory / file.name)


def kept_steps(directory: Path) -> list[Path]:
    """The checkpoints of save_total_limit, the oldest first."""
    steps = [path.name.removeprefix(STEP) for path in directory.glob(f"{STEP}*")]
    steps = sorted(filter(str.isdecimal, steps), key=int)
    return [directory / f"{STEP}{step}" for step in steps]


def belongs_to(path: Path, progress: dict) -> bool:
    """Whether a checkpoint is of the training with this progress, and no later than it."""
    try:
        own = read_progress(path / PROGRESS)
    except UserError:
        return False
    return own.get("id") == progress["id"] and own["step"] <= progress["step"]


def update_derived(directory: Path, progress: dict, save_total_limit: int) -> None:
    """Bring the derived checkpoints up to the latest: the best, and the newest to keep.

    Those of an overwritten training go, and those later than the checkpoint that was resumed. A
    resumed training does this first: it may have been killed before it came to it.
    """
    latest, best = directory / LATEST, directory / BEST
    recover(best)
    if progress["best_step"] == progress["step"]:
        copy_checkpoint(latest, best, without=(OPTIMIZER, PROGRESS))
    elif progress["best_step"] is None and best.exists():
        remove(best)
    if save_total_limit and progress["validation"].get("step") == progress["step"]:
        copy_checkpoint(latest, directory / f"{STEP}{progress['step']}")
    kept = kept_steps(directory)
    own = [path for path in kept if belongs_to(path, progress)]
    for path in kept:
        if path not in own[-save_total_limit:]:  # with a limit of 0 all that are its own stay
            remove(path)


def model_card(model: PreTrainedModel, progress: dict) -> ModelCard:
    """README.md of a checkpoint."""
    about = ModelCardData(
        library_name="transformers", tags=["visual-storytelling", "conditional-vae", "plan-cvae"]
    )
    lines = [f"- {name}: {x}" for name, x in (progress["data"] | progress["versions"]).items()]
    template = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    card = template.format(
        about=about.to_yaml(),
        config=model.config,
        millions=sum(p.numel() for p in model.parameters()) / 1e6,
        progress=progress,
        figures=json.dumps(progress["validation"], indent=1),
        versions="\n".join(lines),
        options=json.dumps(progress["options"], indent=1, ensure_ascii=False),
    )
    return ModelCard(card)


def versions() -> dict[str, str | None]:
    """What the training runs with."""
    commit = None
    if shutil.which("git"):
        command = ["git", "describe", "--always", "--dirty"]
        folder = Path(__file__).parent
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        commit = done.stdout.strip() or None
    return {
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def read_progress(path: Path) -> dict:
    """The progress in a checkpoint. Raises UserError where it is something else."""
    expected = "the progress of a training, as train.py writes it beside a model"
    match read_json(path, expected):
        case {
            "step": int(step),
            "worse": int(),
            "best": int() | float(),
            "options": dict(),
            "data": dict(),
            "validation": dict(),
            "window": list(window),
        } as progress:
            are_sums = all(isinstance(x, float) and math.isfinite(x) for x in window)
            if step >= 0 and are_sums and len(window) == len(SUMS):
                return progress
    raise UserError(f"{path}: something else; expected {expected}")
