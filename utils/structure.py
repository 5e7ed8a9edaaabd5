"""Structural positions of a sequence, [bos], [dyn], [img] and padding: inputs only, with embeddings
of their own. Their ids are negative, so that no decoder's vocabulary knows them."""

import torch.nn.functional as F
from torch import Tensor, nn, where

BOS, DYN, IMG, PAD = STRUCTURE = -1, -2, -3, -4


def embed_ids(ids: Tensor, words: nn.Module, structure: nn.Embedding) -> Tensor:
    """A decoder's word embeddings (ids from 0), and those of structural positions (below 0)."""
    word = words(ids.clamp(min=0))
    return where(ids[..., None] < 0, structure((-1 - ids).clamp(min=0)).to(word.dtype), word)


class InputEmbedding(nn.Module):
    """`embed_ids` in place of a decoder's own embeddings."""

    def __init__(self, words: nn.Module, structure: nn.Embedding):
        super().__init__()
        self.words, self.structure = words, structure

    def forward(self, ids: Tensor) -> Tensor:
        return embed_ids(ids, self.words, self.structure)


def normalise_states(states: Tensor) -> Tensor:
    """States (..., D) with mean 0 and variance 1 over D: no weight depends on the decoder's
    scale."""
    return F.layer_norm(states, states.shape[-1:])
