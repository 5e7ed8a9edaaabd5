"""Plans as handles: drawn, kept in a file, changed, interpolated."""

from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F

from utils.cli import UserError
from utils.files import read_json, write_story_lines


class Sample(NamedTuple):
    """What is to be told of an album."""

    album: int  # its place in the list of albums
    number: int  # of the telling, from 1
    plan: torch.Tensor | None  # beats, Z: in units of the prior; None is its mean


def plan_noise(number, beats, plan_size, seed, temperature, again=False):
    """A telling's plans (beats, Z) in units of their prior: a function of its number, not of its
    batch.

    again: other plans than those that the same seed has drawn first.
    """
    # it reads 32 bits
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number + again * 2**31)
    return temperature * torch.randn(beats, plan_size, generator=generator)


def slerp(one, other, share):
    """From plans (beats, Z) to others: along the great circle, since halfway down the chord plans
    would be too near the mean to be samples (White 2016); where there is no circle, along the
    chord."""
    angle = F.cosine_similarity(one, other, dim=-1).clamp(-1, 1).acos()[:, None]
    weights = torch.sin((1 - share) * angle) / angle.sin(), torch.sin(share * angle) / angle.sin()
    curved = (
        (angle.sin() > 1e-3)
        & (one * one).any(-1, keepdim=True)
        & (other * other).any(-1, keepdim=True)
    )
    weights = [torch.where(curved, x, straight) for x, straight in zip(weights, (1 - share, share))]
    return weights[0] * one + weights[1] * other


def read_plans(path, plan_size):
    """{story id: [plans (beats, Z), …]} of a file that write_plans has written. Raises UserError of
    any other."""
    expected = "a file that --save_plans has written"
    found = read_json(path, expected, unique=True)
    plans = {}
    try:
        if found["plan_size"] != plan_size:
            raise UserError(
                f"--plans {path}: plans of width {found['plan_size']}; this model's have "
                f"{plan_size}"
            )
        for story in found["stories"]:
            plan = torch.tensor(story["plans"], dtype=torch.float32)
            if plan.shape[1:] != (plan_size,) or not (plan.abs() < 1000).all():  # nor is NaN
                raise ValueError
            plans.setdefault(str(story["story_id"]), []).append(plan)
        if not plans:
            raise ValueError
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError):
        raise UserError(f"--plans {path}: something else; expected {expected}") from None
    return plans


def write_plans(path, stories, asked, plan_size, checkpoint):
    """The plans that stories were told by, a line a story."""
    lines = []
    for story, telling in zip(stories, asked, strict=True):
        plan = (
            torch.zeros(len(story["sentences"]), plan_size)
            if telling.plan is None
            else telling.plan
        )
        ids = {name: story[name] for name in ("story_id", "album_id", "telling") if name in story}
        lines.append(ids | {"plans": plan.tolist()})
    write_story_lines(path, {"checkpoint": checkpoint, "plan_size": plan_size}, lines)


def list_samples(albums, options, plan_size):
    """What is to be told, as the options ask for."""
    stored, asked = read_plans(options.plans, plan_size) if options.plans else None, []
    ids = Counter(str(album["story_id"]) for album in albums)
    if (options.plans or options.save_plans) and max(ids.values()) > 1:
        flag = "--plans" if options.plans else "--save_plans"
        raise UserError(
            f"{flag}: two stories are named {ids.most_common(1)[0][0]!r}; expected each name once"
        )
    for i, album in enumerate(albums):
        beats, many = len(album["rows"]), options.num_samples
        kept = stored_plans(stored, album, beats, options) if options.plans else [None]

        def drawn(n):
            number = i * many * len(kept) + n
            how = (plan_size, options.seed, options.plan_temperature, stored is not None)
            return None if options.plan == "mean" else plan_noise(number, beats, *how)

        if options.interpolate:
            plans = [slerp(*kept[:2], share) for share in torch.linspace(0, 1, many)]
        else:
            plans = [drawn(n) for n in range(many * len(kept))]
        if options.plans and not options.interpolate:
            plans = [
                redrawn(kept[n // many], new, options.redraw or ()) for n, new in enumerate(plans)
            ]
        asked += [Sample(i, number, plan) for number, plan in enumerate(plans, start=1)]
    return asked


def stored_plans(stored, album, beats, options):
    """An album's plans, which must fit its photos and the options."""
    kept, where = stored.get(str(album["story_id"])), repr(album["story_id"])
    if kept is None:
        raise UserError(f"--plans {options.plans}: none of {where}; it has {next(iter(stored))!r}")
    if len(kept[0]) != beats or len({len(plan) for plan in kept}) > 1:
        raise UserError(
            f"--plans {options.plans}: of {len(kept[0])} beats; {where} has {beats} photos"
        )
    if options.interpolate and len(kept) < 2:
        raise UserError(
            f"--interpolate: --plans {options.plans} has one telling of {where}; expected two"
        )
    if beyond := [beat for beat in options.redraw or () if beat > beats]:
        raise UserError(f"--redraw {beyond[0]}: {where} has {beats} photos")
    return kept


def redrawn(plan, new, beats):
    """The plan with that of `beats` (from 1) replaced; new None is the prior's mean."""
    plan = plan.clone()
    for beat in beats:
        plan[beat - 1] = 0 if new is None else new[beat - 1]
    return plan
