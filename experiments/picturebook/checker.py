"""The check: how far a system's stories follow their pictures."""

from collections import defaultdict
from pathlib import Path

from experiments.picturebook.facts import BEATS, SPLIT_SIZES, WORLD_FILE
from experiments.picturebook.texts import join_words, split_words
from utils.cli import UserError
from utils.files import read_json


class Book:
    """A picture book as the check reads it: the truth by photo id, the wordings by plot, beat and
    mood."""

    def __init__(self, folder):
        folder = Path(folder)
        world_file = folder / "world.json"
        book = read_json(world_file, WORLD_FILE)
        if not isinstance(book, dict) or not {"slots", "plots", "moods"} <= set(book):
            raise UserError(f"{world_file}: something else; expected {WORLD_FILE}")
        self.slots, self.plots, self.moods = book["slots"], book["plots"], book["moods"]
        self.slot_of = {word: slot for slot, words in self.slots.items() for word in words}
        self.mood_of, self.wordings = {}, {}
        for plot, beats in self.plots.items():
            for position, beat in enumerate(beats):
                moods = {
                    self.abstract(text): mood
                    for mood, texts in beat["wordings"].items()
                    for text in texts
                }
                self.wordings[plot, position] = set(moods)
                self.mood_of |= moods
        self.photos = {}
        for split in SPLIT_SIZES:
            truth = read_json(folder / f"truth/{split}.json", "a picture book's truth")
            for story in truth.values():
                for beat, photo in enumerate(story["photo_ids"]):
                    self.photos[photo] = story, beat
        train = read_json(
            folder / "sis/train.story-in-sequence.json", "a picture book's annotations"
        )
        stories = defaultdict(dict)
        for (entry,) in train["annotations"]:
            order = entry["worker_arranged_photo_order"]
            stories[entry["story_id"]][order] = join_words(entry["text"])
        self.training = {tuple(x[beat] for beat in range(BEATS)) for x in stories.values()}

    def abstract(self, text):
        """A sentence or a wording with {slot} for each slot word, normalised."""
        return " ".join(
            f"{{{self.slot_of[word]}}}" if word in self.slot_of else word
            for word in split_words(text)
        )

    def place_story(self, story):
        """(facts, {beat: sentence}) of a story by its photos; facts is None where the book has none
        of them.

        A photo that is missing from a story stands for the beat of its position.
        """
        facts = next(
            (truth for truth, _ in filter(None, map(self.photos.get, story["photo_ids"]))), None
        )
        sentences = {}
        for beat in story["beats"]:
            _, place = self.photos.get(beat["photo_id"], (None, beat["position"]))
            sentences[place] = beat["sentence"]
        return facts, sentences

    def right_slots(self, facts, sentences):
        """{slot: whether every beat that is to name it has the right word and no other word of that
        slot}."""
        right = dict.fromkeys(self.slots, True)
        for beat, plan in enumerate(self.plots[facts["plot"]]):
            words = set(split_words(sentences.get(beat, "")))
            for slot in plan["slots"]:
                right[slot] &= words & set(self.slots[slot]) == {facts[slot]}
        return right

    def tally(self, stories):
        """{figure: [right, of]} over [(facts, {beat: sentence})]."""
        figures = {
            name: [0, len(stories)]
            for name in (*self.slots, "all five beats", "beats", "one mood", *self.moods)
        }
        figures["beats"][1] *= BEATS
        for facts, sentences in stories:
            texts = [self.abstract(sentences.get(beat, "")) for beat in range(BEATS)]
            beats = [text in self.wordings[facts["plot"], beat] for beat, text in enumerate(texts)]
            moods = set(map(self.mood_of.get, texts))
            right = {mood: moods == {mood} for mood in self.moods}
            right |= {
                "all five beats": all(beats),
                "beats": sum(beats),
                "one mood": any(right.values()),
            }
            right |= self.right_slots(facts, sentences)
            for name, count in right.items():
                figures[name][0] += count
        return figures


def next_other(all_facts):
    """For each story the facts of the next one with other pictures, round the end: what it should
    not fit."""
    others = []
    for k, facts in enumerate(all_facts):
        following = all_facts[k + 1 :] + all_facts[:k]
        strangers = (other for other in following if other["photo_ids"] != facts["photo_ids"])
        others.append(next(strangers, facts))
    return others


def check_stories(stories, world_dir):
    """How far stories follow their pictures, and the same against the pictures of another story as
    a control.

    stories: as stories.read_stories gives them; world_dir: the picture book. Returns {"stories",
    "unknown": how many have no photo of this book, "figures": {name: [right, of]}, "control":
    likewise, "distinct": different stories, "in_training": word for word in the training set}. The
    figures count stories: with the right hero wherever one is to be named (and so on for each
    slot), with five sentences that are each a wording of its beat ("beats" counts those sentences),
    with five of one mood, and with five of each mood. Raises UserError where world_dir holds no
    picture book or no story has a photo of it.
    """
    book = Book(world_dir)
    placed = [pair for pair in map(book.place_story, stories) if pair[0]]
    if not placed:
        raise UserError(
            f"--world {world_dir}: none of the {len(stories)} stories has a photo of this picture "
            "book"
        )
    others = next_other([facts for facts, _ in placed])
    texts = [
        tuple(join_words(sentences.get(beat, "")) for beat in range(BEATS))
        for _, sentences in placed
    ]
    return {
        "stories": len(stories),
        "unknown": len(stories) - len(placed),
        "figures": book.tally(placed),
        "control": book.tally(
            [(facts, sentences) for facts, (_, sentences) in zip(others, placed)]
        ),
        "distinct": len(set(texts)),
        "in_training": sum(text in book.training for text in texts),
    }


def print_check(result):
    print(
        f"{result['stories']} stories; {result['unknown']} left out, having no photo of this "
        "picture book"
    )
    print(f"{'right':24}{'of its own pictures':>24}{'of another story':>20}")
    for name, (right, of) in result["figures"].items():
        wrong, _ = result["control"][name]
        print(f"{name:24}{right:>8} / {of:<6}{100 * right / of:5.1f} %{100 * wrong / of:18.1f} %")
    print(f"{'distinct stories':24}{result['distinct']:>8}")
    print(f"{'in the training set':24}{result['in_training']:>8}   word for word")
