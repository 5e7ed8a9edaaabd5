"""Stories corrupted in several ways, which a score should separate from those that people wrote."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable

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
    by_album, by_label = defaultdict(list), defaultdict(list)
    for story in (*stories, *others):
        by_album[story["album_id"]].append(story)
    for story in stories:
        by_label[story.get("label")].append(story)

    def choose(fits: Callable[[dict], bool], items: list[dict]) -> list[str]:
        """Sentences of a random story that fits; none where less than one in 1000 does."""
        draws = (rng.choice(items) for _ in range(1000))
        return next(map(sentences_of, filter(fits, draws)), [])

    def corrupt_sentences(story: dict) -> list[str]:
        """The story's new sentences; the old ones where it cannot differ."""
        old, album = sentences_of(story), story["album_id"]
        count, new = len(old), old

        def is_longer(other: dict) -> bool:
            return other["album_id"] != album and len(other["beats"]) >= count

        def ends_otherwise(other: dict) -> bool:
            return len(other["beats"]) > 2 and sentences_of(other)[-2:] != old[-2:]

        def is_other_ending(other: dict) -> bool:
            return other["album_id"] != album and ends_otherwise(other)

        if kind in ("shuffled", "repeated") and len(set(old)) < 2:
            return old
        if kind == "shuffled":
            while new == old:
                new = rng.sample(old, count)
            return new
        if kind == "repeated":
            return [rng.choice(old)] * count
        if kind == "other_album":
            return choose(is_longer, stories)[:count] or old
        if count < 3:
            return old
        if kind == "other_ending":
            ending = choose(is_other_ending, by_label[story.get("label")])
        else:
            texts = map(sentences_of, filter(ends_otherwise, by_album[album]))
            likeness = lambda text: similarity(" ".join(old), " ".join(text))
            ending = min(texts, key=likeness, default=[])
        return [*old[:-2], *ending[-2:]] if ending else old

    corrupted = []
    for story in stories:
        new = corrupt_sentences(story)
        if new != sentences_of(story):
            corrupted.append(with_sentences(story, new))
    return corrupted
