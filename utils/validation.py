"""Figures of a model over a whole split."""

import math
from collections import Counter

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from utils.batches import Shard
from utils.gaussian import Gaussian, Noise, select_beats
from utils.processes import sum_over_processes
from utils.train_log import BAGS, TERMS, WITHIN
from utils.train_options import TrainOptions

MAX_PLANS = 4096  # stories between which mutual information is computed, evenly spread
VALIDATION = 2**32  # in place of the step in the seed of the noise


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    dataset: Dataset,
    loader: DataLoader,
    accelerator: Accelerator,
    options: TrainOptions,
) -> dict:
    """Token-weighted figures over a split, with z drawn from the posterior.

    −ELBO and each term in nats per story, perplexity (exp of −ELBO per token), mean cosine of
    expected and observed change, on request the importance-weighted bound. Of the plans, per beat:
    KL, mutual information with the story (nats), active units (Burda et al. 2016): dimensions
    whose posterior mean has a variance over stories above 0.01; shares of posterior means and
    samples in the prior's middle 50 and 90 %; the perplexity of a sentence's bag of words given
    its plan.
    """
    model.eval()
    T, Z = int(dataset.beats.max()), model.config.plan_size
    weights = {f"{name}_weight": 1.0 for name in BAGS if getattr(options, f"{name}_weight")}
    samples = options.iwae_samples
    plan_every = math.ceil(len(dataset) / MAX_PLANS)
    sums, plans = Counter(), []
    for batch in tqdm(loader, "validation", leave=False, disable=not accelerator.is_main_process):
        noise = batch["index"], batch["beat_mask"], Z, [options.seed, VALIDATION]
        batch["noise"] = Noise.sample(*noise)
        if samples:
            batch["iwae_noise"] = Noise.sample(*noise, samples=(samples,)).plans
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            out = model(**batch, **weights)
        if Shard.counts(batch):
            sums.update(sum_terms(out, batch))
            if out.posterior is not None:
                plan_sums, batch_plans = sum_plans(out, batch, T, plan_every)
                sums.update(plan_sums)
                plans.append(batch_plans)
    model.train()

    sums, plans = sum_over_processes(sums), gather_object(plans)
    stories, tokens, beats = (int(sums[name]) for name in ("stories", "tokens", "beats"))
    terms = {name: sums[name] / stories for name in TERMS}
    figures = {
        "elbo_loss": terms["nll"] + terms["kl"],
        "perplexity": perplexity(sums["nll"] + sums["kl"], tokens),
        **terms,
        "cosine": sums["cosine"] / max(1, beats - stories),  # first beats do not count
        "kl_per_beat": [0.0] * T,
        "active_units_per_beat": [0] * T,
        "tokens": tokens,
        "stories": stories,
    }
    if plans:
        count = sums["beats_per_place"].clamp(min=1)  # T
        mean, mean_square = (sums[name] / count[:, None] for name in ("means", "squares"))  # T, Z
        figures["kl_per_beat"] = (sums["kl_per_beat"] / count).tolist()
        figures["active_units_per_beat"] = (mean_square - mean**2 > 0.01).sum(1).tolist()
        figures["information_per_beat"] = information_per_beat(torch.cat(plans), T)
        figures |= {name: sums[name] / beats for name in WITHIN}
        if "bow_weight" in weights:
            figures["bow_perplexity"] = perplexity(sums["bow"], tokens - beats)
    if samples:
        figures["iwae_loss"] = -sums["log_bound"] / stories
        figures["iwae_perplexity"] = perplexity(-sums["log_bound"], tokens)
    return figures


def sum_terms(out: ModelOutput, batch: dict) -> dict[str, float]:
    """Sums over a batch by name: the terms of the loss, and what goes with them."""
    sums = {name: out[name].item() for name in (*TERMS, "tokens")}
    sums |= {"stories": len(batch["index"]), "beats": len(batch["beats"])}
    is_first = batch["beats"] % batch["beat_mask"].shape[1] == 0
    sums["cosine"] = out.cosine[~is_first].sum().item()
    if out.log_weights is not None:
        bound = out.log_weights.logsumexp(0) - math.log(len(out.log_weights))
        sums["log_bound"] = bound.sum().item()
    return sums


def sum_plans(out: ModelOutput, batch: dict, num_places: int, every: int) -> tuple[dict, Tensor]:
    """What the posteriors of a batch hold, in units of the prior: sums over its beats by name;
    and of one in `every` stories, a row per beat: its place, mean, log-variance, noise."""
    T = batch["beat_mask"].shape[1]
    noise = select_beats(batch["noise"].plans, batch["beats"])
    beats, index, noise = (x.cpu() for x in (batch["beats"], batch["index"], noise))
    place = beats % T  # M: of a beat in its story
    q = Gaussian(out.posterior.mean.cpu(), out.posterior.log_var.cpu())
    at_place = F.one_hot(place, num_places).T.double()  # places, M
    mean = q.mean.double()
    sums = {
        "beats_per_place": at_place.sum(1),
        "kl_per_beat": at_place @ out.kl_per_beat.cpu().double(),
        "means": at_place @ mean,
        "squares": at_place @ mean**2,
    }
    values = {"means": q.mean, "samples": q.sample(noise)}
    for name, (kind, bound) in WITHIN.items():
        sums[name] = (values[kind].abs() < bound).double().mean(1).sum().item()
    rows = torch.column_stack([place, q.mean, q.log_var, noise])
    return sums, rows[index[beats // T] % every == 0]


def perplexity(nats: float, tokens: float) -> float:
    return math.exp(min(700, nats / max(1, tokens)))


def information_per_beat(rows: Tensor, num_places: int) -> list[float]:
    """Mutual information of story and plan per beat, in nats. rows: those of sum_plans."""
    information = []
    for place in range(num_places):
        of_place = rows[rows[:, 0] == place, None, 1:]  # N, 1, 3 Z
        if not len(of_place):  # only stories that were passed over are so long
            information.append(0.0)
            continue
        mean, log_var, noise = of_place.chunk(3, dim=-1)
        information += Gaussian(mean, log_var).information(noise).tolist()
    return information
