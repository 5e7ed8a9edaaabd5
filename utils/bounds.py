"""The importance-weighted bound of a story's likelihood."""

import numpy as np
import torch
import torch.nn.functional as F

from utils.losses import WordLoss


@torch.no_grad()
def log_weights(model, prior, posterior, noise, hidden, words, word_beat, num_beats):
    """log p(y_t, z_t) − log r(z_t) of z ~ r from noise (samples, M, Z): (samples, M), in nats.

    They are the terms of the importance-weighted bound (Burda et al. 2016), which is taken beat
    by beat: the states that beat t follows from know the words before it, not their plans, so
    that p(y) = Π_t ∫ p(z_t) p(y_t | z_t) dz_t, and a bound of each factor is one of the whole,
    tighter than that of all plans drawn together. Every other plan is drawn from the prior, so
    that r = (q + p) / 2 and no posterior that is too sure of itself loosens the bound (a
    defensive mixture, Hesterberg 1995). Without a posterior z is the plan that is used, and the
    terms are log p(y_t).
    """
    if posterior is None:
        z = None if prior is None else prior.mean[None]
        return log_p(model, hidden, z, words, word_beat, num_beats).expand(len(noise), -1)
    z = torch.cat([posterior.sample(noise[::2]), prior.sample(noise[1::2])])
    share = torch.tensor([len(noise[::2]), len(noise[1::2])], device=z.device).log() - np.log(
        len(noise)
    )
    log_q, log_prior = posterior.log_prob(z), prior.log_prob(z)
    ratio = log_prior - torch.logaddexp(log_q + share[0], log_prior + share[1])
    return log_p(model, hidden, z, words, word_beat, num_beats) + ratio


def log_p(model, hidden, z, words, word_beat, num_beats):
    """log p(words of beat t | z_t), in nats: (samples, M) of z (samples, M, Z); (1, M) where
    that is None.

    hidden (N, D): the states that the words follow. The decoder is not asked again, nor are all
    logits held.
    """
    found = hidden.new_zeros(1 if z is None else len(z), num_beats, dtype=torch.float32)
    for part in torch.arange(len(words), device=words.device).split(WordLoss.CHUNK):
        base, said, beat = (
            model.decoder.lm_head(hidden[part]).float(),
            words[part],
            word_beat[part],
        )
        for of_sample, plans in zip(found, [None] if z is None else z):
            logits = base if plans is None else base + model.plan_bias(plans[beat]).float()
            of_sample.index_add_(0, beat, -F.cross_entropy(logits, said, reduction="none"))
    return found
