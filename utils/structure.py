"""Structural positions of a sequence, [bos], [dyn], [img] and padding: inputs only, with embeddings
of their own. Their ids are negative, so that no decoder's vocabulary knows them."""

from torch import Tensor, nn, where

BOS, DYN, IMG, PAD = STRUCTURE = -1, -2, -3, -4


class InputEmbedding(nn.Module):
    """A decoder's word embeddings (ids from 0), and those of structural positions (below 0)."""

    def __init__(self, words: nn.Embedding, structure: nn.Embedding):
        super().__init__()
        self.words, self.structure = words, structure

    def forward(self, ids: Tensor) -> Tensor:
        words = self.words(ids.clamp(min=0))
        structure = self.structure((-1 - ids).clamp(min=0)).to(words.dtype)
        return where(ids[..., None] < 0, structure, words)
