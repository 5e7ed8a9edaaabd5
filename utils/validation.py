"""Figures of a model over a whole split."""

import math

import torch
from accelerate.utils import gather_object, send_to_device
from tqdm import tqdm

from utils.batches import Shard
from utils.gaussian import Gaussian, Noise, select_beats
from utils.processes import over_processes
from utils.train_log import BAGS, TERMS, WITHIN

MOST_PLANS = 4096  # stories whose plans are held against each other at validation, evenly spread


VALIDATION = 2**32  # stands for the step in the seed of validation: its draws are those of no step


@torch.no_grad()
def evaluate(model, dataset, data, accelerator, options):
    """Token-weighted figures over a whole split, a StoryDataset and the loader of its batches, with
    z drawn from the posterior.

    Returns a dict: −ELBO and each term in nats per story, perplexity (exp of −ELBO per token), mean
    cosine of expected and observed change, and, on request, the importance-weighted bound. Of the
    plans, in units of their prior: KL and mutual information with the story (nats) and active units
    (Burda et al. 2016: where the variance over stories of the posterior mean exceeds 0.01) of each
    beat; the shares of posterior means and samples in the prior's middle 50 and 90 %, which are 0.5
    and 0.9 of the samples of a prior that foresees them rightly; and the perplexity of a sentence's
    words, in no order, given its plan alone.
    """
    model.eval()
    T, Z = int(dataset.beats.max()), model.config.plan_size
    # a weight of 0 has trained nothing
    bags = [name for name in BAGS if getattr(options, f"{name}_weight")]
    iwae_samples, every = options.iwae_samples, -(-len(dataset) // MOST_PLANS)
    names = (*TERMS, "tokens", "stories", "beats", "cosine", "transitions", "log_bound", *WITHIN)
    sums = dict.fromkeys(names, 0.0)
    # of posterior means: count, sum, sum of squares
    moments = torch.zeros(3, T, Z, dtype=torch.float64)
    kl = torch.zeros(T, dtype=torch.float64)
    plans = []  # of some stories: number; posterior mean and log-variance, noise (T, Z)
    for batch in tqdm(data, "validation", leave=False, disable=not accelerator.is_main_process):
        chance = batch["index"], batch["beat_mask"], Z, [options.seed, VALIDATION]
        batch["noise"] = Noise.sample(*chance)
        if iwae_samples:
            batch["iwae_noise"] = Noise.sample(*chance, samples=(iwae_samples,)).plans
        counts = Shard.counts(batch)
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            out = model(**batch, **{f"{name}_weight": 1.0 for name in bags})
        if not counts:
            continue
        if iwae_samples:
            sums["log_bound"] += (
                (out.log_weights.logsumexp(0) - math.log(iwae_samples)).sum().item()
            )
        place = batch["beats"] % batch["beat_mask"].shape[1]  # M: which beat of its story each is
        for name in (*TERMS, "tokens"):
            sums[name] += getattr(out, name).item()
        sums["stories"] += len(batch["index"])
        sums["beats"] += len(place)
        sums["cosine"] += out.cosine[place > 0].sum().item()
        sums["transitions"] += (place > 0).sum().item()
        if out.posterior is not None:
            place = place.cpu()
            noise = select_beats(batch["noise"].plans, batch["beats"]).cpu()
            q = Gaussian(out.posterior.mean.cpu(), out.posterior.log_var.cpu())
            for power, of_power in enumerate(moments):
                of_power.index_add_(0, place, q.mean.double() ** power)
            kl.index_add_(0, place, out.kl_per_beat.cpu().double())
            for name, (of, bound) in WITHIN.items():
                values = q.mean if of == "means" else q.sample(noise)
                sums[name] += (values.abs() < bound).double().mean(1).sum().item()
            beats = batch["beat_mask"].sum(1).tolist()
            # Copies: what is sent to other processes of a view is all that it is a view of.
            parts = ([part.clone() for part in x.split(beats)] for x in (q.mean, q.log_var, noise))
            by_story = zip(batch["index"].tolist(), *parts)
            plans += [story for story in by_story if story[0] % every == 0]
    model.train()
    flat = over_processes(accelerator, torch.tensor(list(sums.values()), dtype=torch.float64))
    sums = dict(zip(sums, flat.tolist()))
    count, total, squares = over_processes(accelerator, moments)
    count = count.clamp(min=1)
    variance = squares / count - (total / count) ** 2
    per_story = {name: sums[name] / sums["stories"] for name in TERMS}
    figures = {
        "elbo_loss": per_story["nll"] + per_story["kl"],
        "perplexity": perplexity(sums["nll"] + sums["kl"], sums["tokens"]),
        **per_story,
        "cosine": sums["cosine"] / max(1, sums["transitions"]),
        "kl_per_beat": (over_processes(accelerator, kl) / count[:, 0]).tolist(),
        "active_units_per_beat": (variance > 0.01).sum(1).tolist(),
        "tokens": int(sums["tokens"]),
        "stories": int(sums["stories"]),
    }
    if model.config.plan == "cvae":
        figures["information_per_beat"] = information_per_beat(gather_object(plans), T)
        figures |= {name: sums[name] / sums["beats"] for name in WITHIN}
        if "bow" in bags:
            figures["bow_perplexity"] = perplexity(sums["bow"], sums["tokens"] - sums["beats"])
    if iwae_samples:
        figures["iwae_loss"] = -sums["log_bound"] / sums["stories"]
        figures["iwae_perplexity"] = perplexity(-sums["log_bound"], sums["tokens"])
    return figures


def perplexity(nats, tokens):
    return math.exp(min(700, nats / max(1, tokens)))


def information_per_beat(plans, beats):
    """Mutual information of story and plan, in nats, of each beat: of plans (number, mean,
    log-variance, noise)."""
    # so that it does not depend on who has read them
    plans = sorted(plans, key=lambda plan: plan[0])
    found = []
    for t in range(beats):
        of_beat = [
            (mean[t], log_var[t], noise[t]) for _, mean, log_var, noise in plans if len(mean) > t
        ]
        if not of_beat:  # only stories that were passed over are so long
            found.append(0.0)
            continue
        mean, log_var, noise = (torch.stack(x)[:, None] for x in zip(*of_beat))
        found += Gaussian(mean, log_var).information(noise).tolist()
    return found
