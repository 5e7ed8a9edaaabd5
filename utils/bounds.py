"""The importance-weighted bound of a story's likelihood."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from utils.gaussian import Gaussian
from utils.losses import CHUNK


@torch.no_grad()
def log_weights(
    model: PreTrainedModel,
    prior: Gaussian | None,
    posterior: Gaussian | None,
    noise: Tensor,
    hidden: Tensor,
    words: Tensor,
    word_beat: Tensor,
) -> Tensor:
    """log p(y_t, z_t) − log r(z_t) of z ~ r from noise (samples, M, Z): (samples, M), in nats.

    The terms of the importance-weighted bound (Burda et al. 2016), beat by beat: no state depends
    on an earlier plan, so that p(y) = Π_t ∫ p(z_t) p(y_t | z_t) dz_t, and the bound of each factor
    is tighter than that of all plans together. Every other plan is from the prior, so that
    r = (q + p) / 2 (a defensive mixture, Hesterberg 1995). Without a posterior z is the plan that
    is used, and the terms are log p(y_t).
    """
    M = noise.shape[1]
    if posterior is None:
        z = None if prior is None else prior.mean[None]
        return log_p(model, hidden, z, words, word_beat, M).expand(len(noise), -1)
    from_posterior, from_prior = noise[::2], noise[1::2]
    z = torch.cat([posterior.sample(from_posterior), prior.sample(from_prior)])
    log_q = posterior.log_prob(z)
    log_prior = prior.log_prob(z)
    mixture = log_q + math.log(len(from_posterior) / len(noise))
    if len(from_prior):
        mixture = torch.logaddexp(mixture, log_prior + math.log(len(from_prior) / len(noise)))
    return log_p(model, hidden, z, words, word_beat, M) + log_prior - mixture


def log_p(
    model: PreTrainedModel,
    hidden: Tensor,
    z: Tensor | None,
    words: Tensor,
    word_beat: Tensor,
    num_beats: int,
) -> Tensor:
    """log p(words of beat t | z_t), in nats: (samples, M) for z (samples, M, Z), (1, M) for None.

    hidden (N, D): the decoder's states before the words, computed once for all samples.
    """
    num_samples = 1 if z is None else len(z)
    total = hidden.new_zeros(num_samples, num_beats, dtype=torch.float32)
    for part in torch.arange(len(words), device=words.device).split(CHUNK):
        decoder_logits = model.decoder.lm_head(hidden[part]).float()
        beat = word_beat[part]
        for sample in range(num_samples):
            logits = decoder_logits
            if z is not None:
                logits = logits + model.plan_bias(z[sample, beat]).float()
            total[sample].index_add_(
                0, beat, -F.cross_entropy(logits, words[part], reduction="none")
            )
    return total
