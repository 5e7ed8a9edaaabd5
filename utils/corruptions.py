"""Stories corrupted in several ways, which a score should separate from those that people wrote."""

import random
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
    by_album, by_label = {}, {}
    for story in (*stories, *others):
        by_album.setdefault(story["album_id"], []).append(story)
    for story in stories:
        by_label.setdefault(story.get("label"), []).append(story)
    corrupted = []
    for story in stories:
        sentences = sentences_of(story)
        count, album = len(sentences), story["album_id"]

        def is_other_album(other: dict, count=count, album=album) -> bool:
            return other["album_id"] != album and len(other["beats"]) >= count

        def has_other_ending(other: dict, sentences=sentences) -> bool:
            ending = sentences_of(other)[-2:]
            return len(other["beats"]) > 2 and ending != sentences[-2:]

        def is_other_ending(other: dict, album=album, fits=has_other_ending) -> bool:
            return other["album_id"] != album and fits(other)

        source, new = None, sentences
        if kind == "shuffled" and len(set(sentences)) > 1:
            while new == sentences:
                new = rng.sample(sentences, count)
        elif kind == "repeated" and len(set(sentences)) > 1:
            new = [rng.choice(sentences)] * count
        elif kind == "other_album":
            source = choose(rng, stories, is_other_album)
            new = sentences_of(source)[:count] if source else sentences
        elif kind == "other_ending" and count > 2:
            source = choose(rng, by_label[story.get("label")], is_other_ending)
        elif kind == "same_album_ending" and count > 2:
            text = " ".join(sentences)
            sources = list(filter(has_other_ending, by_album[album]))
            likeness = [similarity(text, " ".join(sentences_of(x))) for x in sources]
            source = sources[likeness.index(min(likeness))] if sources else None
        if source and kind.endswith("ending"):
            new = [*sentences[:-2], *sentences_of(source)[-2:]]
        if new != sentences:
            corrupted.append(with_sentences(story, new))
    return corrupted


def choose(
    rng: random.Random, items: list, fits: Callable[[dict], bool], tries: int = 1000
) -> dict | None:
    """A random item that fits; None where there is none (or one in more than `tries`)."""
    return next(filter(fits, (rng.choice(items) for _ in range(tries))), None)
