"""Schedules as functions of the step, and which parameters decay."""

import math

import torch


def parameter_groups(model, weight_decay):
    """Matrices decay; biases, gains, embeddings and single vectors do not. Every trained parameter
    is in one group."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    trained = [p for p in model.parameters() if p.requires_grad]
    decay = [
        p for p in trained if p.dim() >= 2 and id(p) not in embeddings and p is not model.no_photo
    ]
    chosen = {id(p) for p in decay}
    rest = [p for p in trained if id(p) not in chosen]
    assert len(decay) + len(rest) == len(trained), "a parameter is missing or doubled"
    return [{"params": decay, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def get_lr(step, total_steps, options):
    """Learning rate at `step`: a linear rise over the warm-up, then half a cosine down to a
    hundredth of the peak."""
    warm = max(1, round(options.warmup_steps * total_steps))
    if step < warm:
        return options.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total_steps - warm)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def get_beta(step, total_steps, options):
    """Weight of the KL at `step`: constant, a rise from 0 (Bowman et al. 2016), or several (Fu et
    al. 2019)."""
    if options.beta_schedule == "constant":
        return options.beta
    cycles = options.beta_cycles if options.beta_schedule == "cyclical" else 1
    place = step / total_steps * cycles % 1  # within the cycle
    return options.beta * min(
        1.0, place / options.beta_warmup_steps if options.beta_warmup_steps else 1.0
    )


def get_bow_scale(step, total_steps, options):
    """Share of the plan's bag-of-words weights at `step`: all of it for half of the steps, then a
    fall to bags_end.

    The bags make the plan tell the sentence; once the words listen to it, what they would go on to
    say is noise.
    """
    done = min(1.0, max(0.0, (step / total_steps - 0.5) / 0.3))
    # at 0 the terms would go, and DDP wait for their gradients
    return max(1e-6, 1 - done * (1 - options.bow_final_scale))
