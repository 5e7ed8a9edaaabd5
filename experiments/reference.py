"""The public reference for this model (feizc/Latent-Dynamics) by its cost: one story at a time,
every word from a pass over all before it. The benchmark measures it."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2LMHeadModel

from dataset import StoryDataset


class Reference(nn.Module):
    """How the public reference computes, by its cost: one story, beat by beat, no cache."""

    def __init__(self, decoder: GPT2LMHeadModel, feature_size: int, image_positions: int):
        super().__init__()
        D = decoder.config.n_embd
        self.decoder, self.image_positions = decoder, image_positions
        self.project = nn.Linear(feature_size, image_positions * D)
        self.head = nn.Linear(2 * D, decoder.config.vocab_size)  # over [h; z]

    def forward(self, sentences: list, photos: torch.Tensor) -> torch.Tensor:
        """Logits (L, V) of sentences (1-D ids) after their photos (F each)."""
        parts = []
        for words, photo in zip(sentences, photos):
            images = self.project(photo).view(self.image_positions, -1)
            parts += [images, self.decoder.transformer.wte(words)]
        states = self.decoder.transformer(inputs_embeds=torch.cat(parts)[None], use_cache=False)[0]
        return self.head(torch.cat([states[0], states[0]], -1))

    def loss(self, story: tuple) -> torch.Tensor:
        """Of the last of (sentences, photos)."""
        sentences, photos = story
        logits, last = self(sentences, photos).float(), sentences[-1]
        return F.cross_entropy(logits[-len(last) : -1], last[1:])

    @torch.inference_mode()
    def write(self, sentences: list, photos, count: int, beams: int) -> list[int]:
        """`count` words after the last sentence, one hypothesis at a time."""
        hypotheses = [(0.0, [])]
        for _ in range(count):
            longer = []
            for score, words in hypotheses:
                last = torch.cat([sentences[-1], sentences[-1].new_tensor(words)])
                log_p = self([*sentences[:-1], last], photos)[-1].float().log_softmax(-1)
                best, ids = log_p.topk(beams)
                longer += [(score + s, [*words, i]) for s, i in zip(best.tolist(), ids.tolist())]
            hypotheses = sorted(longer, reverse=True)[:beams]
        return hypotheses[0][1]


def story_for_reference(stories: StoryDataset, i: int, device) -> tuple[list, torch.Tensor]:
    sentences = [[stories.eos, *words, stories.eos] for words in stories.sentences(i)]
    return [torch.tensor(x, device=device) for x in sentences], stories[i]["photos"].to(device)
