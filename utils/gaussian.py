"""Diagonal Gaussians: samples, densities, KL, mutual information."""

from dataclasses import dataclass

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
