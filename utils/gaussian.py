"""Diagonal Gaussians: samples, densities, KL, mutual information."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

# a plan's log-variances stay within ±10: exp of their differences is finite, also in sums
LOG_VAR_LIMIT = 10.0


@dataclass
class Gaussian:
    """A diagonal Gaussian per beat: mean and log-variance (M, Z)."""

    mean: torch.Tensor
    log_var: torch.Tensor

    @classmethod
    def from_output(cls, output):
        """The Gaussian of an MLP's output (..., 2 Z), its log-variances held within
        ±LOG_VAR_LIMIT (beyond, they have no gradient)."""
        mean, log_var = output.float().chunk(2, dim=-1)
        return cls(mean, log_var.clamp(-LOG_VAR_LIMIT, LOG_VAR_LIMIT))

    def sample(self, noise):
        """A sample, from standard normal noise of the mean's shape (or with more dimensions in
        front)."""
        return self.mean + noise * (0.5 * self.log_var).exp()

    def log_prob(self, z):
        """Log-density of z (..., M, Z), summed over Z."""
        log_2pi = 1.8378770664093453
        return -0.5 * (log_2pi + self.log_var + (z - self.mean) ** 2 / self.log_var.exp()).sum(-1)

    def kl(self, other):
        """KL(self ‖ other) per dimension (M, Z), in nats."""
        ratio = (self.log_var.exp() + (self.mean - other.mean) ** 2) / other.log_var.exp()
        return 0.5 * (other.log_var - self.log_var + ratio - 1)

    def detach(self):
        return Gaussian(self.mean.detach(), self.log_var.detach())

    def relative_to(self, other):
        """This Gaussian of z as one of (z − μ) / σ, μ and σ those of `other`: in its units."""
        return Gaussian(
            (self.mean - other.mean) * (-0.5 * other.log_var).exp(), self.log_var - other.log_var
        )

    def information(self, noise):
        """Mutual information (T), in nats, of z_t and which of N stories it is the plan of, all
        equally likely.

        Of Gaussians (N, T, Z), by one sample each, from noise (N, T, Z): the mean over n of log
        q(z|n) minus the log of the mean of q(z|m) over all m (Hoffman and Johnson 2016). It cannot
        tell more than log N.
        """
        found = []
        of_beats = (x.double().unbind(1) for x in (self.sample(noise), self.mean, self.log_var))
        for z, mean, log_var in zip(*of_beats):
            precision = (-log_var).exp()
            constant = (mean.square() * precision + log_var).sum(1)
            # N of z, N of m
            pairs = -0.5 * (z.square() @ precision.T - 2 * z @ (mean * precision).T + constant)
            found.append((pairs.diagonal() - pairs.logsumexp(1)).mean() + np.log(len(z)))
        return torch.stack(found)


class Noise(NamedTuple):
    """Everything random in the objective of a batch of stories."""

    plans: torch.Tensor  # B, T, Z (or samples, B, T, Z): standard normal
    beats: torch.Tensor  # B, T: even between 0 and 1
    stories: torch.Tensor  # B, 1: even between 0 and 1

    @classmethod
    def of(cls, numbers, beat_mask, plan_size, seed, samples=()):
        """Those of stories by number (B), each a function of (seed, number, its own beats) alone.

        So they depend neither on the batch a story is in, nor on its place there, nor on the
        process that trains it. seed: whole numbers; samples: () or (how many,), in front of the
        plans' shape.
        """
        B, T = beat_mask.shape
        plans, of_beats, of_stories = (
            np.zeros(x, np.float32) for x in ((*samples, B, T, plan_size), (B, T), (B, 1))
        )
        for b, (number, beats) in enumerate(
            zip(numbers.tolist(), beat_mask.sum(1).tolist(), strict=True)
        ):
            chance = np.random.default_rng([*seed, abs(number)])
            of_stories[b], of_beats[b, :beats] = chance.random(), chance.random(beats)
            plans[..., b, :beats, :] = chance.standard_normal(
                (*samples, beats, plan_size), dtype=np.float32
            )
        return cls(*map(torch.from_numpy, (plans, of_beats, of_stories)))


def select_beats(values, beats):
    """values (B, T, …) -> (M, …): those of the beats there are."""
    return values.flatten(0, 1).index_select(0, beats)
