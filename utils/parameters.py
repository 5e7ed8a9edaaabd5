"""Which parameters of a model are trained, and how."""

from torch import nn
from transformers import PreTrainedModel

from utils.train_options import TrainOptions


def freeze_unused(model: PreTrainedModel, options: TrainOptions) -> None:
    """Freeze what gets no gradient: with several processes DDP would wait for it. (A model that
    was loaded has forgotten what is frozen.)"""
    has_plan = options.plan != "none"
    model.initial_state.requires_grad_(has_plan)
    model.image_encoder.requires_grad_(model.config.train_encoder)
    model.photo_bow_head.requires_grad_(options.photo_bow_weight > 0)
    if has_plan:
        model.bow_bias.requires_grad_(options.bow_weight > 0)
        model.future_bow_mlp.requires_grad_(options.future_bow_weight > 0)
    elif not (options.dynamics_weight or options.state_bow_weight):
        model.dynamics.requires_grad_(False)
        model.dynamics_head.requires_grad_(False)


def parameter_groups(
    model: PreTrainedModel, weight_decay: float, new_lr_multiplier: float
) -> list[dict]:
    """Matrices decay; biases, gains, embeddings and single vectors do not. What is new beside the
    decoder, and beside an image encoder with weights, learns at new_lr_multiplier times their
    rate."""
    old = ("decoder.", "image_encoder.") if model.image_encoder.config.pretrained else ("decoder.",)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    embeddings.add(id(model.no_photo))
    groups = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        decays = p.dim() >= 2 and id(p) not in embeddings
        settings = {
            "weight_decay": weight_decay if decays else 0.0,
            "lr_multiplier": 1.0 if name.startswith(old) else new_lr_multiplier,
        }
        group = groups.setdefault(tuple(settings.values()), settings | {"params": []})
        group["params"].append(p)
    return list(groups.values())
