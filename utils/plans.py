"""Plans as handles: sampled, kept in a file, changed, interpolated."""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.cli import UserError
from utils.files import read_json, write_story_lines


class Sample(NamedTuple):
    """One story to write about an album."""

    album: int  # its place in the list of albums
    number: int  # from 1
    plan: Tensor | None  # beats, Z: in units of the prior; None is its mean


def plan_noise(
    number: int, beats: int, plan_size: int, seed: int, temperature: float, again: bool = False
) -> Tensor:
    """A sample's plans (beats, Z) in units of their prior: a function of its number, not of its
    batch. again: others than the same seed has drawn first."""
    # manual_seed reads 32 bits
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number + again * 2**31)
    return temperature * torch.randn(beats, plan_size, generator=generator)


def check_plans(plans: Any, shape: tuple[int, int]) -> Tensor:
    """Plans of several stories (stories, beats, Z), in units of their prior, as a tensor. shape:
    (beats, Z). Raises UserError."""
    expected = f"stories x {shape[0]} x {shape[1]} numbers"
    try:
        plans = torch.stack([torch.as_tensor(plan, dtype=torch.float32) for plan in plans])
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"plans: something else; expected {expected}") from None
    if plans.shape[1:] != shape or not plans.isfinite().all():
        found = " x ".join(map(str, plans.shape))
        raise UserError(f"plans of {found}; expected {expected}")
    return plans


def slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    """Spherical interpolation of plans (beats, Z): halfway down a straight line plans would be too
    near the mean to be samples (White 2016). Linear where the angle is 0, or one of them is."""
    angle = F.cosine_similarity(one, other, dim=-1).clamp(-1, 1).acos()[:, None]
    has_angle = (angle.sin() > 1e-3) & one.any(-1, keepdim=True) & other.any(-1, keepdim=True)
    curved = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / angle.sin()
    return torch.where(has_angle, curved, (1 - share) * one + share * other)


def read_plans(path: str | Path, plan_size: int) -> dict[str, list[Tensor]]:
    """{story id: [plans (beats, Z), …]} of a file that write_plans wrote. Raises UserError."""
    expected = "a file that --save_plans has written"
    content = read_json(path, expected, unique=True)
    plans = {}
    try:
        width, stories = content["plan_size"], content["stories"]
        for story in stories if width == plan_size else ():
            plan = torch.tensor(story["plans"], dtype=torch.float32)
            if plan.shape[1:] != (plan_size,) or not (plan.abs() < 1000).all():  # nor is NaN
                raise ValueError
            plans.setdefault(str(story["story_id"]), []).append(plan)
        if not stories:
            raise ValueError
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError):
        raise UserError(f"--plans {path}: something else; expected {expected}") from None
    if width != plan_size:
        raise UserError(f"--plans {path}: plans of width {width}; this model's have {plan_size}")
    return plans


def write_plans(
    path: str | Path, stories: list[dict], samples: list[Sample], plan_size: int, checkpoint: str
) -> None:
    """The plans that stories were written under, a line per story."""
    lines = []
    for story, sample in zip(stories, samples, strict=True):
        plan = sample.plan
        if plan is None:
            plan = torch.zeros(len(story["sentences"]), plan_size)
        ids = {name: story[name] for name in ("story_id", "album_id", "sample") if name in story}
        lines.append(ids | {"plans": plan.tolist()})
    write_story_lines(path, {"checkpoint": checkpoint, "plan_size": plan_size}, lines)


def list_samples(albums: list[dict], options: Namespace, plan_size: int) -> list[Sample]:
    """What the options ask for: --num_samples of each album, or of each of its plans in --plans."""
    ids = Counter(str(album["story_id"]) for album in albums)
    name, count = ids.most_common(1)[0]
    if (options.plans or options.save_plans) and count > 1:
        flag = "--plans" if options.plans else "--save_plans"
        raise UserError(f"{flag}: two stories are named {name!r}; expected each name once")
    stored = read_plans(options.plans, plan_size) if options.plans else None
    samples = []
    for i, album in enumerate(albums):
        beats = len(album["rows"])
        kept = album_plans(stored, album, options) if stored else [None]
        plans, count = [], options.num_samples * len(kept)
        if options.interpolate:
            shares = torch.linspace(0, 1, options.num_samples)
            plans = [slerp(*kept[:2], share) for share in shares]
        for n in range(0 if options.interpolate else count):
            plan, settings = None, (options.seed, options.plan_temperature)
            if options.plan != "mean":
                number = i * count + n
                plan = plan_noise(number, beats, plan_size, *settings, again=bool(stored))
            if stored:
                new, plan = plan, kept[n // options.num_samples].clone()
                for beat in options.redraw or ():
                    plan[beat - 1] = 0 if new is None else new[beat - 1]
            plans.append(plan)
        samples += [Sample(i, number, plan) for number, plan in enumerate(plans, start=1)]
    return samples


def album_plans(stored: dict[str, list[Tensor]], album: dict, options: Namespace) -> list[Tensor]:
    """An album's stored plans. Raises UserError where they do not fit its photos and options."""
    name, beats = album["story_id"], len(album["rows"])
    plans = stored.get(str(name))
    if plans is None:
        raise UserError(f"--plans {options.plans}: none of {name!r}; it has {next(iter(stored))!r}")
    if any(len(plan) != beats for plan in plans):
        raise UserError(
            f"--plans {options.plans}: of {len(plans[0])} beats; {name!r} has {beats} photos"
        )
    if options.interpolate and len(plans) < 2:
        raise UserError(
            f"--interpolate: --plans {options.plans} has one sample of {name!r}; expected two"
        )
    if beyond := [beat for beat in options.redraw or () if beat > beats]:
        raise UserError(f"--redraw {beyond[0]}: {name!r} has {beats} photos")
    return plans
