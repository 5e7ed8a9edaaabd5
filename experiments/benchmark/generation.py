"""Generation: the last sentence or a whole story, greedy and by beams, one story or many."""

import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig

from experiments.benchmark.inputs import BEATS, WORDS, RandomStories, spoken
from experiments.benchmark.measuring import GOALS, OURS, REFERENCE, interleave, row
from experiments.benchmark.reference import networks, write_uncached
from generate import tell

# What is written: from which beat on, beams (1: greedy), stories at once.
TELLINGS = ((5, 1, 1), (5, 5, 1), (5, 1, 16), (5, 5, 16), (1, 1, 1), (1, 5, 1), (1, 1, 16))


def decoding(special, beams):
    """Greedy or beam search of sentences of WORDS words, no more and no fewer, so that all write
    equally much."""
    return GenerationConfig(
        num_beams=beams,
        do_sample=False,
        min_new_tokens=WORDS,
        max_new_tokens=WORDS,
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
    )


def context(sentences, special, image_positions):
    """Ids of a story up to the [bos] of its next sentence."""
    slots, ids = [special.img] * image_positions, []
    for words in sentences:
        ids += [*slots, special.bos, *words, special.eos, special.dyn]
    return [*ids, *slots, special.bos]


@torch.inference_mode()
def bare_stories(decoder, told, settings, setup):
    """The limit: transformers' generate() goes on with each story up to BEATS sentences, its cache
    kept if greedy."""
    special, K = setup.size.special, setup.size.image_positions
    cache = DynamicCache(config=decoder.config)
    stories = [list(story) for story in told]
    for _ in range(BEATS - len(told[0])):
        ids = [torch.tensor(context(story, special, K)[::-1]) for story in stories]
        # on the left
        ids = nn.utils.rnn.pad_sequence(ids, True, special.pad).flip(1).to(setup.device)
        kept = {"cache": cache} if settings.num_beams == 1 else {}
        out = decoder.generate(
            ids, attention_mask=(ids != special.pad).long(), generation_config=settings, **kept
        )
        for story, words in zip(stories, out[:, ids.shape[1] :].tolist(), strict=True):
            story.append(words)
    return stories


def measure_generation(setup):
    size, many = setup.size, max(batch for _, _, batch in TELLINGS)
    model, decoder, reference = networks(setup)
    stories = RandomStories(many, size, model.image_encoder.config.feature_size, seed=setup.seed)
    photos = stories.photos.view(many, BEATS, -1).to(setup.device)

    def checked(sentences):
        counts = {len(words) for story in sentences for words in story[BEATS - unwritten :]}
        if counts != {WORDS} or {len(story) for story in sentences} != {BEATS}:
            raise RuntimeError(f"sentences of {counts} words; expected {WORDS} in each")

    def ours(_):
        mask = torch.ones(batch, BEATS, dtype=torch.bool, device=setup.device)
        checked(tell(model, size.special, photos[:batch], mask, settings, told=told)[0])

    def bare(_):
        checked(bare_stories(decoder, told, settings, setup))

    def word_by_word(_):
        story = list(told[0])
        while len(story) < BEATS:
            before = [spoken(words, size.special, setup.device) for words in story]

            def next_word(words):
                last = torch.tensor([size.special.bos, *words], device=setup.device)
                return reference.next_word([*before, last], photos[0])

            story.append(write_uncached(next_word, WORDS, beams))
        checked([story])

    rows = []
    for first, beams, batch in TELLINGS:
        settings, unwritten = decoding(size.special, beams), BEATS - first + 1
        told = [stories.sentences(i)[: first - 1] for i in range(batch)]
        ways = {REFERENCE: word_by_word, "generate() of a bare GPT-2": bare, OURS: ours}
        # it writes one at a time, and a whole story by beams for minutes
        if batch > 1 or (first, beams) == (1, 5):
            ways.pop(REFERENCE)
        how, extent = (
            ("greedy" if beams == 1 else "beam"),
            ("fifth sentence" if first > 1 else "whole story"),
        )
        work = dict.fromkeys(ways, batch * unwritten)
        with setup.autocast():
            seconds = interleave(ways, setup)
        what = f"{extent}, {how}{f' {beams}' if beams > 1 else ''}, batch {batch}"
        rows.append(row(what, "sentences", seconds, work, GOALS[how if batch == 1 else "many"]))
    return {"rows": rows}
