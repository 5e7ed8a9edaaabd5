"""Figures of a model over a whole split."""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedModel

from utils.batches import Shard
from utils.gaussian import Gaussian, Noise, select_beats
from utils.processes import over_processes
from utils.train_log import BAGS, TERMS, WITHIN
from utils.train_options import TrainOptions

MAX_PLANS = 4096  # stories between which mutual information is computed, evenly spread
VALIDATION = 2**32  # in place of the step in the seed of the noise


class PlanFigures:
    """What posteriors hold, in units of the prior, summed over batches."""

    def __init__(self, num_stories: int, beats: int, plan_size: int):
        self.every = -(-num_stories // MAX_PLANS)
        # of posterior means: count, sum, sum of squares
        self.moments = torch.zeros(3, beats, plan_size, dtype=torch.float64)
        self.kl = torch.zeros(beats, dtype=torch.float64)
        self.within = dict.fromkeys(WITHIN, 0.0)
        self.plans = []  # of some stories: index; posterior mean and log-variance, noise (T, Z)

    def add(self, posterior: Gaussian, kl: Tensor, place: Tensor, batch: dict) -> None:
        """posterior (M, Z), kl (M), place (M): the beats' places in their stories."""
        place = place.cpu()
        noise = select_beats(batch["noise"].plans, batch["beats"]).cpu()
        q = Gaussian(posterior.mean.cpu(), posterior.log_var.cpu())
        for power, sums in enumerate(self.moments):
            sums.index_add_(0, place, q.mean.double() ** power)
        self.kl.index_add_(0, place, kl.cpu().double())
        for name, (kind, bound, _) in WITHIN.items():
            values = q.mean if kind == "means" else q.sample(noise)
            self.within[name] += (values.abs() < bound).double().mean(1).sum().item()
        num_beats = batch["beat_mask"].sum(1).tolist()
        # copies: what is sent to other processes of a view is all that it is a view of
        parts = ([x.clone() for x in y.split(num_beats)] for y in (q.mean, q.log_var, noise))
        for plan in zip(batch["index"].tolist(), *parts):
            if plan[0] % self.every == 0:
                self.plans.append(plan)

    def compute(self, accelerator: Accelerator) -> dict[str, list[float]]:
        """Active units (Burda et al. 2016): dimensions whose posterior mean has a variance over
        stories above 0.01."""
        count, total, squares = over_processes(accelerator, self.moments)
        count = count.clamp(min=1)
        variance = squares / count - (total / count) ** 2
        kl = over_processes(accelerator, self.kl) / count[:, 0]
        return {
            "kl_per_beat": kl.tolist(),
            "active_units_per_beat": (variance > 0.01).sum(1).tolist(),
            "information_per_beat": information_per_beat(gather_object(self.plans), len(kl)),
        }


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
    KL, mutual information with the story (nats), active units; shares of posterior means and
    samples in the prior's middle 50 and 90 %; the perplexity of a sentence's bag of words given
    its plan.
    """
    model.eval()
    T, Z = int(dataset.beats.max()), model.config.plan_size
    weights = {f"{name}_weight" for name in BAGS if getattr(options, f"{name}_weight")}
    samples = options.iwae_samples
    names = (*TERMS, "tokens", "stories", "beats", "cosine", "transitions", "log_bound")
    sums, plans = dict.fromkeys(names, 0.0), PlanFigures(len(dataset), T, Z)
    for batch in tqdm(loader, "validation", leave=False, disable=not accelerator.is_main_process):
        noise = batch["index"], batch["beat_mask"], Z, [options.seed, VALIDATION]
        batch["noise"] = Noise.sample(*noise)
        if samples:
            batch["iwae_noise"] = Noise.sample(*noise, samples=(samples,)).plans
        counts = Shard.counts(batch)
        batch = send_to_device(batch, accelerator.device)
        with accelerator.autocast():
            out = model(**batch, **dict.fromkeys(weights, 1.0))
        if not counts:
            continue
        place = batch["beats"] % batch["beat_mask"].shape[1]  # M
        for name in (*TERMS, "tokens"):
            sums[name] += out[name].item()
        sums["stories"] += len(batch["index"])
        sums["beats"] += len(place)
        sums["cosine"] += out.cosine[place > 0].sum().item()
        sums["transitions"] += (place > 0).sum().item()
        if samples:
            bound = out.log_weights.logsumexp(0) - math.log(samples)
            sums["log_bound"] += bound.sum().item()
        if out.posterior is not None:
            plans.add(out.posterior, out.kl_per_beat, place, batch)
    model.train()
    sums |= plans.within
    totals = over_processes(accelerator, torch.tensor(list(sums.values()), dtype=torch.float64))
    sums = dict(zip(sums, totals.tolist()))
    terms = {name: sums[name] / sums["stories"] for name in TERMS}
    of_plans = plans.compute(accelerator)
    information = of_plans.pop("information_per_beat")
    figures = {
        "elbo_loss": terms["nll"] + terms["kl"],
        "perplexity": perplexity(sums["nll"] + sums["kl"], sums["tokens"]),
        **terms,
        "cosine": sums["cosine"] / max(1, sums["transitions"]),
        **of_plans,
        "tokens": int(sums["tokens"]),
        "stories": int(sums["stories"]),
    }
    if model.config.plan == "cvae":
        figures["information_per_beat"] = information
        figures |= {name: sums[name] / sums["beats"] for name in WITHIN}
        if "bow_weight" in weights:
            figures["bow_perplexity"] = perplexity(sums["bow"], sums["tokens"] - sums["beats"])
    if samples:
        figures["iwae_loss"] = -sums["log_bound"] / sums["stories"]
        figures["iwae_perplexity"] = perplexity(-sums["log_bound"], sums["tokens"])
    return figures


def perplexity(nats: float, tokens: float) -> float:
    return math.exp(min(700, nats / max(1, tokens)))


def information_per_beat(plans: list[tuple], beats: int) -> list[float]:
    """Mutual information of story and plan per beat, in nats. plans: (index, mean, log-variance,
    noise), each (T, Z)."""
    plans = sorted(plans, key=lambda plan: plan[0])  # whichever process has read them
    information = []
    for t in range(beats):
        of_beat = [[x[t] for x in tensors] for _, *tensors in plans if len(tensors[0]) > t]
        if not of_beat:  # only stories that were passed over are so long
            information.append(0.0)
            continue
        mean, log_var, noise = (torch.stack(x)[:, None] for x in zip(*of_beat))
        information += Gaussian(mean, log_var).information(noise).tolist()
    return information
