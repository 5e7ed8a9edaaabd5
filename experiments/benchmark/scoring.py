"""Scoring of stories by CDE."""

import torch
from accelerate.utils import send_to_device

import CDE_score
from dataset import collate
from experiments.benchmark.inputs import RandomStories
from experiments.benchmark.measuring import BARE, GOALS, OURS, REFERENCE, interleave, row
from experiments.benchmark.reference import networks
from experiments.benchmark.training import bare_logits
from utils.batches import BucketBatches


def measure_scoring(setup):
    size, batch_size = setup.size, CDE_score.parser().get_default("batch_size")
    model, decoder, reference = networks(setup)
    feature_size = model.image_encoder.config.feature_size
    stories = RandomStories(
        size.scored * (16 if setup.on_gpu else 1), size, feature_size, seed=setup.seed
    )
    numbers = BucketBatches(stories.lengths, batch_size, shuffle=False)
    batches = [
        send_to_device(collate([stories[i] for i in of], size.special.pad), setup.device)
        for of in numbers
    ]
    few = len(stories) // 4

    @torch.inference_mode()
    def limit(_):
        for batch in batches:
            bare_logits(decoder, batch)

    def one_by_one(_):
        for i in range(few):
            reference.score(*stories.as_read(i, setup.device))

    def ours(_):
        CDE_score.traces(model, stories, size.special.pad, batch_size)

    ways = {REFERENCE: one_by_one, BARE: limit, OURS: ours}
    work = dict.fromkeys(ways, len(stories)) | {REFERENCE: few}
    with setup.autocast():
        seconds = interleave(ways, setup)
    return {
        "rows": [row(f"CDE scores, batch {batch_size}", "stories", seconds, work, GOALS["scoring"])]
    }
