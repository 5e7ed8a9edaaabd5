"""A story's words: as people type them, as VIST tokenises them, and in VIST's files."""

import re
from datetime import datetime, timedelta

from experiments.picturebook.facts import BEATS, MOODS, REFERENCES
from experiments.picturebook.plots import PLOTS


def split_words(text):
    """Lower-cased words, {slots} and punctuation marks: "A red fox." and "a red fox ." give the
    same."""
    return re.findall(r"\{\w+\}|\w+|[^\w\s]", text.lower())


def join_words(text):
    return " ".join(split_words(text))


def write_sentences(story):
    """The story's five sentences, as a person would type them."""
    beats = PLOTS[story["plot"]]
    return [
        getattr(beat, story["mood"])[wording].format(**story)
        for beat, wording in zip(beats, story["wordings"])
    ]


def make_references(stories, rng):
    """{album id: [REFERENCES texts]}, tokenised as VIST's: the book's own stories of an album, then
    others in either mood in turn."""
    albums = {}
    for story in stories:
        albums.setdefault(story["album_id"], []).append(story)
    references = {}
    for album, own in albums.items():
        versions, facts = list(own), own[-1]
        while len(versions) < REFERENCES:
            mood = next(mood for mood in MOODS if mood != versions[-1]["mood"])
            wordings = [rng.randrange(len(getattr(beat, mood))) for beat in PLOTS[facts["plot"]]]
            versions.append(facts | {"mood": mood, "wordings": wordings})
        references[album] = [" ".join(map(join_words, write_sentences(x))) for x in versions]
    return references


def annotate(stories, rng):
    """The stories as the object of a VIST story-in-sequence file, its entries in no order."""
    albums, images, annotations = {}, [], []
    for story in stories:
        album, story_id = story["album_id"], story["story_id"]
        if album not in albums:
            taken = datetime(2026, 5, 1, 10, 40, 46) + timedelta(hours=len(albums))
            albums[album] = {"id": album, "title": "a picture book", "vist_label": story["plot"]}
            for photo in story["photo_ids"]:
                images.append({"id": photo, "album_id": album, "datetaken": str(taken)})
                taken += timedelta(seconds=rng.randint(30, 600))
        for order, (photo, sentence) in enumerate(zip(story["photo_ids"], write_sentences(story))):
            annotations.append(
                [
                    {
                        "album_id": album,
                        "original_text": sentence,
                        "photo_flickr_id": photo,
                        "setting": "first-2-pick-and-tell",
                        "story_id": story_id,
                        "storylet_id": str(BEATS * int(story_id) + order),
                        "text": join_words(sentence),
                        "tier": "story-in-sequence",
                        "worker_arranged_photo_order": order,
                        "worker_id": "PICTUREBOOK",
                    }
                ]
            )
    rng.shuffle(annotations)
    return {
        "info": {"description": "a drawn world in VIST's format"},
        "type": "story-in-sequence",
        "images": images,
        "albums": list(albums.values()),
        "annotations": annotations,
    }
