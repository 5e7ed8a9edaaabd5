"""What it is measured on: networks with random weights, random stories and random photos."""

import numpy as np
import torch
from PIL import Image
from transformers import GPT2Config, GPT2LMHeadModel

from dataset import StoryDataset
from model import PlanCVAE, PlanCVAEConfig
from utils.image_encoder import ImageEncoderConfig
from utils.token_table import Text

BEATS = 5
# VIST's sentences: mean words, and the lengths that random ones keep between
WORDS, FEWEST, MOST = (13, 4, 30)


def build_decoder(size):
    """A GPT2LMHeadModel with random weights. Without dropout, which is train.py's default too."""
    ids = {
        "bos_token_id": size.special.bos,
        "eos_token_id": size.special.eos,
        "pad_token_id": size.special.pad,
    }
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(**size.decoder, **ids, **dropout))


def build_model(size):
    return PlanCVAE(
        PlanCVAEConfig(
            decoder=build_decoder(size).config.to_dict(),
            image_encoder=ImageEncoderConfig(
                arch=size.encoder, image_size=size.image_size
            ).to_dict(),
            image_positions=size.image_positions,
            state_bow=True,
            eos_token_id=size.special.eos,
        )
    )


class RandomStories(StoryDataset):
    """Stories of random words and photo features, as long as VIST's."""

    def __init__(self, count, size, feature_size, beats=BEATS, seed=0):
        rng = np.random.default_rng(seed)
        lengths = np.clip(rng.poisson(rng.gamma(6, WORDS / 6, count * beats)), FEWEST, MOST)
        words = rng.integers(0, min(size.special), lengths.sum(), dtype=np.int32)
        starts = np.concatenate([[0], np.cumsum(lengths)]), np.arange(0, count * beats + 1, beats)
        photos = torch.randn(
            count * beats, feature_size, generator=torch.Generator().manual_seed(seed)
        )
        text = Text(words, *starts, np.arange(count * beats))
        super().__init__(
            None,
            photos,
            size.special,
            size.image_positions,
            beats * (size.image_positions + MOST + 3),
            text,
        )

    def as_read(self, i, device):
        """What the reference reads of a story: ids of each sentence, special tokens and all, and
        photos (T, F)."""
        sentences = [spoken(words, self.special, device) for words in self.sentences(i)]
        return sentences, self[i]["photos"].to(device)


def spoken(words, special, device):
    return torch.tensor([special.bos, *words, special.eos, special.dyn], device=device)


def draw_photos(folder, count, seed):
    """JPEG files of VIST's usual size, {id: path}: smooth noise, with some grain."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (20, 25, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) + rng.normal(
            0, 6, (375, 500, 3)
        )
        Image.fromarray(smooth.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
    return {str(i): folder / f"{i}.jpg" for i in range(count)}
