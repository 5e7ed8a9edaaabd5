"""Data sets that tests make in their publishers' own formats: VIST-Edit and stories of one's
own."""

import json
import random

from PIL import Image

# Of the published 14,960 edits so many have 1, 2, … 5 sentences; 574 have six to thirteen.
EDITS_BY_SENTENCES = {1: 351, 2: 1153, 3: 2143, 4: 2897, 5: 7842, 6: 400, 8: 120, 11: 40, 13: 14}
EDIT_SPLITS = {"train": 0.8, "dev": 0.1, "test": 0.1}
COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 90, 210), "grey": (128,) * 3}
THINGS = "boat dog kite church parade beach family train garden market bridge band".split()
OPENINGS = "we saw|there was|everyone loved|then came|she took a picture of|he waited for".split(
    "|"
)
ENDINGS = "in the morning|with our friends|by the sea|all day long|and we laughed|at last".split(
    "|"
)


def sentence(chance, colour, thing):
    return f"{chance.choice(OPENINGS)} the {colour} {thing} {chance.choice(ENDINGS)} ."


def rewritten(chance, sentences, count):
    """The sentences as an edit of `count` of them, in their order: some left out, or more put
    in."""
    kept = sorted(chance.sample(range(len(sentences)), min(count, len(sentences))))
    kept = sorted([*kept, *chance.choices(kept, k=count - len(kept))])
    return [sentences[i].replace("the", chance.choice(("the", "a", "our"))) for i in kept]


def write_vist_edit(folder, files, edits=5, seed=0):
    """VIST-Edit's folder of `files` machine stories with `edits` edits each, and VIST's photos
    beside it: folder/VIST-Edit/{AREL,GLAC}/{train,dev,test}/*.json, folder/VIST/images/*/*.jpg."""
    chance, photo_id = random.Random(seed), 1000
    lengths, weights = zip(*EDITS_BY_SENTENCES.items())
    for split, share in EDIT_SPLITS.items():
        images = folder / "VIST" / "images" / split.replace("dev", "val")
        images.mkdir(parents=True)
        for number in range(max(2, round(share * files))):
            system = ("AREL", "GLAC")[number % 2]
            photos, machine = [], []
            for _ in range(5):
                colour, thing = chance.choice(list(COLOURS)), chance.choice(THINGS)
                photos.append(str(photo_id := photo_id + 1))
                machine.append(sentence(chance, colour, thing))
                photo = Image.new("RGB", (24, 20), COLOURS[colour])
                photo.putpixel((THINGS.index(thing), 5), (255, 255, 255))
                photo.save(images / f"{photos[-1]}.jpg")
            edited = [
                rewritten(chance, machine, chance.choices(lengths, weights)[0])
                for _ in range(edits)
            ]
            story = {
                "photo_sequence_id": "-".join(photos),
                "photo_sequence_ids": photos,
                "photo_sequence_urls": [f"http://photos.invalid/{photo}.jpg" for photo in photos],
                "album_id": f"7215{number}",
                "data_split": split,
                "model": system,
                "note": "",
                "auto_story_text_normalized": " ".join(machine),
                "edited_stories": [
                    {
                        "worker_id": f"W{k}",
                        "edited_story_text": " ".join(sentences),
                        "normalized_edited_story_text_sent": sentences,
                    }
                    for k, sentences in enumerate(edited)
                ],
            }
            path = folder / "VIST-Edit" / system / split / f"{story['photo_sequence_id']}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(story))


def write_vist(folder, stories, lengths, seed=0):
    """VIST's folder (sis/, images/) of so many stories a split, each of as many photos as one of
    `lengths`: a sentence names its photo's colour."""
    chance, photo_id = random.Random(seed), 0
    (folder / "sis").mkdir(parents=True)
    for split, count in stories.items():
        images, annotations = folder / "images" / split, []
        images.mkdir(parents=True)
        for story_id in range(count):
            for place in range(chance.choice(lengths)):
                photo_id += 1
                colour, thing = chance.choice(list(COLOURS)), chance.choice(THINGS)
                Image.new("RGB", (24, 20), COLOURS[colour]).save(images / f"{photo_id}.jpg")
                annotations.append(
                    {
                        "story_id": f"{split}{story_id}",
                        "album_id": f"{split}{story_id}",
                        "photo_flickr_id": str(photo_id),
                        "worker_arranged_photo_order": place,
                        "text": sentence(chance, colour, thing),
                    }
                )
        path = folder / "sis" / f"{split}.story-in-sequence.json"
        path.write_text(json.dumps({"annotations": [[entry] for entry in annotations]}))
