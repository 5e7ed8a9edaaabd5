"""Stories as people read them: on the screen, as a page, as a submission to the VIST Challenge."""

import re
import sys
from argparse import Namespace
from pathlib import Path

from tqdm import tqdm

from utils import cli
from utils.files import to_json, write_json, write_text
from utils.plans import Sample, write_plans


def readable(sentence: str) -> str:
    """A sentence as people write it: VIST's text is lower-case with spaces before punctuation."""
    sentence = re.sub(r"\s+([.,!?;:]|n't|'\w+)", r"\1", sentence)
    sentence = re.sub(r"\bi\b", "I", sentence)
    return re.sub(r"(^|[.!?]\s+)([a-z])", lambda match: match[0].upper(), sentence)


class Screen:
    """Stories on stdout, in order and sentence by sentence: the current one appears while it is
    written, the others wait."""

    def __init__(self, stories: list[dict]):
        self.stories, self.sentences = stories, [[] for _ in stories]
        self.current = self.num_shown = 0

    def add(self, k: int, sentence: str) -> None:
        """The next sentence of story k, which may be none of the screen's."""
        if k >= len(self.stories):
            return
        self.sentences[k].append(sentence)
        while self.current < len(self.stories):
            story, sentences = self.stories[self.current], self.sentences[self.current]
            names = [cli.printable(name or "(no photo)") for name in story["photo_ids"]]
            width = max(map(len, names))
            for t in range(self.num_shown, len(sentences)):
                if t == 0:
                    self.print_heading(story)
                text = cli.printable(readable(sentences[t]))
                self.print(f"  {names[t]:<{width}}  {text}")
            self.num_shown = len(sentences)
            if self.num_shown < len(names):
                return
            self.current, self.num_shown = self.current + 1, 0

    def print_heading(self, story: dict) -> None:
        heading = story["album_id"]
        if "sample" in story:
            heading += f", sample {story['sample']}"
        self.print(("\n" if self.current else "") + cli.printable(heading))

    def print(self, line: str) -> None:
        with tqdm.external_write_mode():  # the progress bar steps aside
            cli.say(line)


def story_page(albums: list[dict], samples: list[Sample], stories: list[dict]) -> str:
    """The stories as a page: HTML, the photos inside."""
    from utils.page import Album, render_page

    pages = {}
    for story, sample in zip(stories, samples, strict=True):
        album = albums[sample.album]
        page = pages.setdefault(sample.album, Album(album["album_id"], album["paths"], {}))
        page.samples[sample.number] = [readable(sentence) for sentence in story["sentences"]]
    return render_page(list(pages.values()))


def vist_submission(stories: list[dict]) -> tuple[dict, int]:
    """Stories in the VIST Challenge's submission format, the first of each sequence of photos; and
    how many are left out: its evaluator takes one story per sequence."""
    first = {}
    for story in stories:
        ids = story["photo_ids"]
        if "folder" in story:  # names of files; VIST's ids have no suffix
            ids = [name and Path(name).stem for name in ids]
        entry = {
            "album_id": story["album_id"],
            "photo_sequence": ids,
            "story_text_normalized": " ".join(story["sentences"]),
        }
        # without the photos' names no two are known to be of the same
        key = tuple(map(str, ids)) if None not in ids else len(first)
        first.setdefault(key, entry)
    submission = {
        "team_name": "plan-CVAE",
        "evaluation_info": {"additional_description": "written by generate.py"},
        "output_stories": list(first.values()),
    }
    return submission, len(stories) - len(first)


def save_outputs(
    options: Namespace,
    albums: list[dict],
    samples: list[Sample],
    stories: list[dict],
    num_shown: int,
    plan_size: int,
) -> None:
    """Write the files that the options name, and print in the --format."""
    output = {"checkpoint": options.checkpoint, "settings": vars(options), "stories": stories}
    write_json(options.output, output)  # first: nothing that goes wrong after it loses them
    submission, num_more = vist_submission(stories)
    page = None
    if options.html or options.format == "html":
        page = story_page(albums, samples, stories)
    if options.format != "text" and sys.stdout:
        sys.stdout.reconfigure(encoding="utf-8")  # like the files, whatever the terminal's
        objects = {"json": output, "vist": submission}
        cli.say(page if options.format == "html" else to_json(objects[options.format]))

    def note(what: str, path: str) -> None:
        print(f"{what} -> {cli.printable(path)}", file=sys.stderr)

    what = f"{len(stories)} {'story' if len(stories) == 1 else 'stories'}"
    if options.format == "text" and len(stories) > num_shown:
        what += f", {len(stories) - num_shown} of them not shown"
    note(what, options.output)
    if options.html:
        write_text(options.html, page)
        note("as a page", options.html)
    if num_more and options.format == "vist" and not options.vist_output:
        print(f"without {num_more} more stories of the same photos", file=sys.stderr)
    if options.vist_output:
        write_json(options.vist_output, submission)
        what = "in the VIST Challenge's format"
        if num_more:
            what += f", without {num_more} more of the same photos"
        note(what, options.vist_output)
    if options.save_plans:
        write_plans(options.save_plans, stories, samples, plan_size, options.checkpoint)
        note("the plans", options.save_plans)
