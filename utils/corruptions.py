"""Stories corrupted in several ways, which a score should tell from those that people wrote."""

import random

from utils.text import similarity

CONTROLS = {
    "shuffled": "its sentences in another order",
    "repeated": "one of its sentences said again and again",
    "borrowed": "another album's story",
    "spliced": "the last two sentences of a story of another album, of the same label where labels "
    "are known",
    "retold": "the last two sentences of the least similar story of the same album",
}


def told(story):
    return [beat["sentence"] for beat in story["beats"]]


def with_sentences(story, sentences):
    return story | {
        "beats": [beat | {"sentence": s} for beat, s in zip(story["beats"], sentences, strict=True)]
    }


def control(stories, kind, retellings=(), seed=0):
    """The same stories and photos told wrongly, in one of CONTROLS' ways.

    retellings: further stories of the same albums, which "retold" takes sentences from too. Only
    stories for which the control can differ from the original are in the result.
    """
    rng = random.Random(f"{kind} {seed}")
    by_album, by_label = {}, {}
    for story in (*stories, *retellings):
        by_album.setdefault(story["album_id"], []).append(story)
    for story in stories:
        by_label.setdefault(story.get("label"), []).append(story)
    wrong = []
    for story in stories:
        sentences = told(story)
        other = sentences
        if kind == "shuffled" and len(set(sentences)) > 1:
            while other == sentences:
                other = rng.sample(sentences, len(sentences))
        elif kind == "repeated" and len(set(sentences)) > 1:
            other = [rng.choice(sentences)] * len(sentences)
        elif kind == "borrowed":
            lender = draw(
                rng,
                stories,
                lambda s: s["album_id"] != story["album_id"] and len(told(s)) >= len(sentences),
            )
            other = told(lender)[: len(sentences)] if lender else sentences
        elif kind == "spliced" and len(sentences) > 2:
            lender = draw(
                rng,
                by_label[story.get("label")],
                lambda s: (
                    s["album_id"] != story["album_id"]
                    and len(told(s)) > 2
                    and told(s)[-2:] != sentences[-2:]
                ),
            )
            other = [*sentences[:-2], *told(lender)[-2:]] if lender else sentences
        elif kind == "retold" and len(sentences) > 2:
            lenders = [
                s
                for s in by_album[story["album_id"]]
                if len(told(s)) > 2 and told(s)[-2:] != sentences[-2:]
            ]
            if lenders:
                text = " ".join(sentences)
                lender = min(lenders, key=lambda s: similarity(text, " ".join(told(s))))
                other = [*sentences[:-2], *told(lender)[-2:]]
        if other != sentences:
            wrong.append(with_sentences(story, other))
    return wrong


def draw(rng, items, fitting, tries=1000):
    """One of the items that fit, at random; None where there is none (or it is rarer than one in
    `tries`)."""
    return next(filter(fitting, (rng.choice(items) for _ in range(tries))), None)
