"""The reference's way, by its cost."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2Model

from experiments.benchmark.inputs import build_decoder, build_model


class Reference(nn.Module):
    """How the public reference computes, by its cost: one story, beat by beat, with heads of its
    own."""

    def __init__(self, config, feature_size, image_positions):
        super().__init__()
        D, V = config.n_embd, config.vocab_size
        self.decoder = GPT2Model(config)
        self.dynamics = GPT2Model(
            GPT2Config(
                n_embd=D,
                n_head=config.n_head,
                n_layer=2,
                vocab_size=1,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        self.project = nn.Sequential(
            nn.Linear(feature_size, image_positions * D // 2),
            nn.Tanh(),
            nn.Linear(image_positions * D // 2, image_positions * D),
            nn.Tanh(),
        )
        self.word_head = nn.Linear(2 * D, V)  # over [h; z]
        self.bow_head = nn.Linear(D, V)

    def embed(self, sentences, photos):
        """Sentences (1-D ids, special tokens and all) after their photos (F each) -> embeddings (1,
        L, D)."""
        parts = []
        for words, photo in zip(sentences, photos):
            parts += [
                self.project(photo).view(-1, self.decoder.config.n_embd),
                self.decoder.wte(words),
            ]
        return torch.cat(parts)[None]

    def read(self, sentences, photos):
        """States (L, D), where each sentence ends, and the state foreseen for the end of the next
        (T, D)."""
        states = self.decoder(inputs_embeds=self.embed(sentences, photos), use_cache=False)[0][0]
        slots = (len(states) - sum(map(len, sentences))) // len(sentences)
        ends = list(itertools.accumulate(slots + len(words) for words in sentences))
        foreseen = self.dynamics(
            inputs_embeds=states[[end - 1 for end in ends]][None], use_cache=False
        )[0][0]
        return states, ends, foreseen

    def train_on(self, sentences, photos, optimizer, autocast):
        """A step for each beginning of the story: words of all its sentences, their bags, the
        dynamics."""
        for beats in range(2, len(sentences) + 1):
            with autocast():
                states, ends, foreseen = self.read(sentences[:beats], photos[:beats])
                loss = F.mse_loss(foreseen[:-1], states[[end - 1 for end in ends[1:]]])
                for t, words in enumerate(sentences[:beats]):
                    before = states[ends[t] - len(words) : ends[t] - 1]
                    plan = foreseen[t].expand(len(before), -1)
                    loss = loss + F.cross_entropy(
                        self.word_head(torch.cat([before, plan], -1)).float(), words[1:]
                    )
                    loss = (
                        loss - self.bow_head(foreseen[t]).float().log_softmax(-1)[words[1:]].mean()
                    )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    def next_word(self, sentences, photos):
        """Log-probabilities (V) of the word after the last sentence's."""
        states, _, foreseen = self.read(sentences, photos)
        return self.word_head(torch.cat([states[-1], foreseen[-1]])).float().log_softmax(-1)

    @torch.no_grad()
    def score(self, sentences, photos):
        """Cosines of expected and observed changes, beat by beat."""
        states, ends, foreseen = self.read(sentences, photos)
        dyn = [states[end - 1] for end in ends]
        return [
            F.cosine_similarity(dyn[t] - dyn[t - 1], foreseen[t] - dyn[t - 1], dim=0).item()
            for t in range(1, len(dyn))
        ]


@torch.inference_mode()
def write_uncached(next_word, count, beams=1):
    """`count` words, each from next_word(words so far) -> log-probabilities (V): one hypothesis at
    a time."""
    hypotheses = [(0.0, [])]
    for _ in range(count):
        longer = []
        for score, words in hypotheses:
            best, ids = next_word(words).topk(beams)
            longer += [(score + s, [*words, i]) for s, i in zip(best.tolist(), ids.tolist())]
        hypotheses = sorted(longer, reverse=True)[:beams]
    return hypotheses[0][1]


def networks(setup, training=False):
    """Ours, a bare GPT-2 and the reference's network, on the device."""
    model, decoder = build_model(setup.size), build_decoder(setup.size)
    reference = Reference(
        decoder.config, model.image_encoder.config.feature_size, setup.size.image_positions
    )
    return [network.to(setup.device).train(training) for network in (model, decoder, reference)]
