"""Stories corrupted in several ways, which a score should separate from those that people wrote."""

import random
from collections import defaultdict
from collections.abc import Iterable

from utils.text import similarity

CORRUPTIONS = {
    "shuffled": "its sentences in another order",
    "repeated": "one of its sentences again and again",
    "other_album": "another album's story",
    "other_ending": "the last two sentences of another album's story, of the same label if known",
    "same_album_ending": "the last two sentences of the least similar story of the same album",
}


def sentences_of(story: dict) -> list[str]:
    return [beat["sentence"] for beat in story["beats"]]


def with_sentences(story: dict, sentences: Iterable[str]) -> dict:
    beats = zip(story["beats"], sentences, strict=True)
    return story | {"beats": [beat | {"sentence": sentence} for beat, sentence in beats]}


def corrupt(stories: list[dict], kind: str, others: tuple = (), seed: int = 0) -> list[dict]:
    """The stories with the same photos and other sentences, one of CORRUPTIONS.

    others: further stories of the same albums, for "same_album_ending". A story that cannot differ
    from the original is left out.
    """
    rng = random.Random(f"{kind} {seed}")
    group = {"other_ending": "label", "same_album_ending": "album_id"}.get(kind)
    lenders = defaultdict(list)
    for story in (*stories, *others) if kind == "same_album_ending" else stories:
        lenders[story.get(group)].append(story)

    def new_sentences(story: dict) -> list[str]:
        """The old ones where the story cannot differ."""
        old = new = sentences_of(story)

        def can_lend(other: dict) -> bool:
            sentences, is_same = sentences_of(other), other["album_id"] == story["album_id"]
            if kind == "other_album":
                return not is_same and len(sentences) >= len(old)
            is_new = len(sentences) > 2 and sentences[-2:] != old[-2:]
            return is_new and is_same == (kind == "same_album_ending")

        if kind in ("shuffled", "repeated"):
            if len(set(old)) < 2:
                return old
            if kind == "repeated":
                return [rng.choice(old)] * len(old)
            while new == old:
                new = rng.sample(old, len(old))
            return new
        if kind != "other_album" and len(old) < 3:
            return old
        candidates = lenders[story.get(group)]
        if kind == "same_album_ending":
            likeness = lambda other: similarity(" ".join(old), " ".join(sentences_of(other)))
            lender = min(filter(can_lend, candidates), key=likeness, default=None)
        else:  # None where less than one in 1000 can
            draws = (rng.choice(candidates) for _ in range(1000))
            lender = next(filter(can_lend, draws), None)
        if lender is None:
            return old
        if kind == "other_album":
            return sentences_of(lender)[: len(old)]
        return old[:-2] + sentences_of(lender)[-2:]

    corrupted = []
    for story in stories:
        sentences = new_sentences(story)
        if sentences != sentences_of(story):
            corrupted.append(with_sentences(story, sentences))
    return corrupted
