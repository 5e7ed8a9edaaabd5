"""Stories as people read them: on the screen, as a page, as a submission to the VIST Challenge."""

import re
from collections import defaultdict

from tqdm import tqdm

from utils import cli


def readable(sentence):
    """A sentence as people write it: VIST's text is lower-case with spaces before the
    punctuation."""
    sentence = re.sub(r"\s+([.,!?;:]|n't|'\w+)", r"\1", sentence)
    sentence = re.sub(r"\bi\b", "I", sentence)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda match: match[0].upper(), sentence)


class Screen:
    """Stories on stdout, in the order asked and sentence by sentence: the one whose turn it is
    appears while it is written, the others wait."""

    def __init__(self, stories):
        self.stories, self.said = stories, [[] for _ in stories]
        self.turn = self.shown = 0

    def add(self, k, sentence):
        """The next sentence of story k; of a story that is not on the screen, nothing."""
        if k >= len(self.stories):
            return
        self.said[k].append(sentence)
        while self.turn < len(self.stories):
            story, said = self.stories[self.turn], self.said[self.turn]
            names = [cli.printable(name or "(no photo)") for name in story["photo_ids"]]
            for t in range(self.shown, len(said)):
                if t == 0:
                    telling = f", telling {story['telling']}" if "telling" in story else ""
                    self.print(
                        ("\n" if self.turn else "") + cli.printable(f"{story['album_id']}{telling}")
                    )
                self.print(
                    f"  {names[t]:<{max(map(len, names))}}  {cli.printable(readable(said[t]))}"
                )
            self.shown = len(said)
            if self.shown < len(names):
                return
            self.turn, self.shown = self.turn + 1, 0

    def print(self, line):
        with tqdm.external_write_mode():  # the bar steps aside
            cli.say(line)


def page_of(albums, asked, stories):
    """The stories as a page: HTML, the photos inside."""
    from utils.page import Album, page

    told = defaultdict(dict)
    for story, telling in zip(stories, asked, strict=True):
        told[telling.album][telling.number] = [
            readable(sentence) for sentence in story["sentences"]
        ]
    return page(
        [Album(albums[i]["album_id"], albums[i]["paths"], tellings) for i, tellings in told.items()]
    )


def vist_submission(stories):
    """Stories in the VIST Challenge's submission format."""
    return {
        "team_name": "plan-CVAE",
        "evaluation_info": {"additional_description": "written by generate.py"},
        "output_stories": [
            {
                "album_id": story["album_id"],
                "photo_sequence": story["photo_ids"],
                "story_text_normalized": " ".join(story["sentences"]),
            }
            for story in stories
        ],
    }
