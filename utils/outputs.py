"""What the model's passes return; the axes are those of model.py."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from utils.gaussian import Gaussian


@dataclass
class States:
    """What the decoder and the latent dynamic module compute from a batch of stories."""

    image_embeddings: Tensor  # B, T, K, D
    hidden: Tensor  # B, L, D: the decoder's states
    dyn: Tensor  # M, D: h_t^d, the state after sentence t, normalised
    predicted: Tensor  # M, D: h̃_t^d, its prediction before sentence t
    observed_change: Tensor  # M, D: Δh_t
    expected_change: Tensor  # M, D: Δh̃_t


@dataclass
class PlanCVAEOutput(ModelOutput):
    """The loss, and its terms as sums over the batch in nats."""

    loss: Tensor | None = None  # (nll + β·kl + the weighted auxiliary terms) / predicted tokens
    nll: Tensor | None = None  # −log p(words | z, what came before)
    kl: Tensor | None = None  # KL(posterior ‖ prior), without free bits
    bow: Tensor | None = None  # −log p(bag of words of sentence t | z_t) (Zhao et al. 2017)
    future_bow: Tensor | None = None  # −log p(bag of words of each later sentence | z_t), averaged
    photo_bow: Tensor | None = None  # −log p(bag of words of sentence t | photo t)
    state_bow: Tensor | None = None  # −log p(bag of words of sentence t | h̃_t^d)
    dynamics: Tensor | None = None  # Σ_t ‖h̃_t^d − h_t^d‖² / D
    tokens: Tensor | None = None  # predicted words, [eos] included
    kl_per_beat: Tensor | None = None  # M
    posterior: Gaussian | None = None  # M, Z, in units of the prior, detached
    cosine: Tensor | None = None  # M: cos(Δh, Δh̃)
    log_weights: Tensor | None = None  # samples, M: of the importance-weighted bound, on request
