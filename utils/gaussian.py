"""Diagonal Gaussians: samples, densities, KL, mutual information."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# A plan's log-variances stay within ±10, so that exp of their differences is finite.
LOG_VAR_LIMIT = 10.0


@dataclass
class Gaussian:
    """A diagonal Gaussian per beat: mean and log-variance (M, Z)."""

    mean: Tensor
    log_var: Tensor

    @classmethod
    def from_output(cls, output: Tensor) -> "Gaussian":
        """From an MLP's output (..., 2 Z); log-variances beyond the limit have no gradient."""
        mean, log_var = output.float().chunk(2, dim=-1)
        return cls(mean, log_var.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT))

    def sample(self, noise: Tensor) -> Tensor:
        """A sample from standard normal noise (..., M, Z)."""
        return self.mean + noise * (0.5 * self.log_var).exp()

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z (..., M, Z), summed over Z."""
        squared = (z - self.mean) ** 2 / self.log_var.exp()
        return -0.5 * (math.log(2 * math.pi) + self.log_var + squared).sum(-1)

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other) per dimension (M, Z), in nats."""
        ratio = (self.log_var.exp() + (self.mean - other.mean) ** 2) / other.log_var.exp()
        return 0.5 * (other.log_var - self.log_var + ratio - 1)

    def detach(self) -> "Gaussian":
        return Gaussian(self.mean.detach(), self.log_var.detach())

    def relative_to(self, other: "Gaussian") -> "Gaussian":
        """The distribution of (z − μ) / σ, with μ and σ of `other`."""
        mean = (self.mean - other.mean) * (-0.5 * other.log_var).exp()
        return Gaussian(mean, self.log_var - other.log_var)

    def information(self, noise: Tensor) -> Tensor:
        """Mutual information (T), in nats, of the story's index and its plan z_t, for N stories.

        For Gaussians (N, T, Z) and noise (N, T, Z), one sample each: the mean over n of
        log q(z|n) − log mean_m q(z|m) (Hoffman and Johnson 2016). At most log N.
        """
        information = []
        per_beat = (x.double().unbind(1) for x in (self.sample(noise), self.mean, self.log_var))
        for z, mean, log_var in zip(*per_beat):
            precision = (-log_var).exp()
            constant = (mean.square() * precision + log_var).sum(1)
            squared = z.square() @ precision.T - 2 * z @ (mean * precision).T + constant
            log_q = -0.5 * squared  # of z (N) under each story's posterior (N)
            log_ratio = log_q.diagonal() - log_q.logsumexp(1)
            information.append(log_ratio.mean() + math.log(len(z)))
        return torch.stack(information)


def sample_plans(
    prior: Gaussian | None, posterior: Gaussian | None, noise: Tensor
) -> Tensor | None:
    """z (M, Z): of the posterior by noise (M, Z), else the prior's mean; None without a plan."""
    if posterior is not None:
        return posterior.sample(noise)
    return None if prior is None else prior.mean


class Noise(NamedTuple):
    """Everything random in the objective of a batch of stories."""

    plans: Tensor  # B, T, Z (or samples, B, T, Z): standard normal
    beats: Tensor  # B, T: uniform
    stories: Tensor  # B, 1: uniform

    @classmethod
    def draw(cls, beat_mask: Tensor, plan_size: int) -> "Noise":
        """By torch's generator, on the mask's device."""
        (B, T), device = beat_mask.shape, beat_mask.device
        plans = torch.randn(B, T, plan_size, device=device)
        return cls(plans, torch.rand(B, T, device=device), torch.rand(B, 1, device=device))

    @classmethod
    def sample(
        cls,
        indices: Tensor,
        beat_mask: Tensor,
        plan_size: int,
        seed: list[int],
        samples: tuple = (),
    ) -> "Noise":
        """A function of (seed, story, its number of beats) alone: neither the batch nor the
        process changes it. indices: the stories' (B); samples: () or (number,)."""
        B, T = beat_mask.shape
        plans = np.zeros((*samples, B, T, plan_size), np.float32)
        beats = np.zeros((B, T), np.float32)
        stories = np.zeros((B, 1), np.float32)
        for b, (index, num_beats) in enumerate(zip(indices.tolist(), beat_mask.sum(1).tolist())):
            rng = np.random.default_rng([*seed, abs(index)])
            stories[b] = rng.random()
            beats[b, :num_beats] = rng.random(num_beats)
            size = (*samples, num_beats, plan_size)
            plans[..., b, :num_beats, :] = rng.standard_normal(size, dtype=np.float32)
        return cls(*map(torch.from_numpy, (plans, beats, stories)))


def select_beats(values: Tensor, beats: Tensor) -> Tensor:
    """values (B, T, …) -> (M, …): those of the beats that exist."""
    return values.flatten(0, 1).index_select(0, beats)
