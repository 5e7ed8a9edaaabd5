"""Human references: caption metrics, baselines, leave-one-reference-out."""

from argparse import Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils import metrics
from utils.cli import PROTOCOLS, UserError
from utils.corruptions import sentences_of
from utils.meteor import Meteor
from utils.stories import SHAPES, make_story, read_stories
from utils.systems import CONSTANT, HUMAN, OTHER, System, normalize_like_training
from utils.text import split_sentences


@dataclass
class References:
    """Human stories by unit: an album, or, by the protocol "sequence", a sequence of photos."""

    path: str
    stories: list[dict]
    texts: dict[str, list[str]]  # by unit
    album_of: dict[str, str]  # {unit: album}
    album_of_story: dict[str, str]  # {story id: album}
    uses_sequences: bool

    def unit(self, story: dict) -> str | None:
        """The unit that a story belongs to, if any."""
        unit = sequence(story) if self.uses_sequences else story["album_id"]
        return unit if unit in self.texts else None

    def find_albums(self, stories: list[dict]) -> list[dict]:
        """The stories with the albums of these references, where a file names them by their ids
        alone."""
        albums = set(self.album_of.values())
        if any(story["album_id"] in albums for story in stories):
            return stories
        found = []
        for story in stories:
            album = self.album_of_story.get(story["story_id"], story["album_id"])
            found.append(story | {"album_id": album})
        return found


def sequence(story: dict) -> str | None:
    photos = story["photo_ids"]
    return "-".join(photos) if photos and None not in photos else None


def load_references(path: str, protocol: str) -> References:
    """Raises UserError where the file holds no human stories."""
    if Path(path).is_dir():
        raise UserError(
            f"--references {path}: a folder, as of VIST-Edit's machine stories; expected human "
            "stories"
        )
    file = read_stories(path)
    stories = normalize_like_training(file.stories, file.remarks)
    stories = [story for story in stories if story["beats"]]
    for remark, count in (+file.remarks).items():
        print(f"{path}: {count} references {remark}")
    if not stories:
        raise UserError(f"--references {path}: no story with words in it; expected {SHAPES}")
    uses_sequences, texts, album_of = protocol == "sequence", {}, {}
    for story in stories:
        unit = sequence(story) if uses_sequences else story["album_id"]
        texts.setdefault(unit, []).append(" ".join(sentences_of(story)))
        album_of[unit] = story["album_id"]
    if None in texts:
        raise UserError(
            f"--references {path}: tells no photos; --protocol sequence expected VIST's own JSON "
            "or a split"
        )
    album_of_story = {story["story_id"]: story["album_id"] for story in stories}
    return References(path, stories, texts, album_of, album_of_story, uses_sequences)


def match_references(system: System, references: References) -> None:
    """Fill in the system's text for each unit of the references; count what has no counterpart."""
    captions, remarks = system.captions, system.remarks
    for story in system.stories:
        unit = references.unit(story)
        if unit is None:
            remarks["without references"] += 1
        elif unit in captions:
            remarks["further of an album (captions are scored by its first)"] += 1
        else:
            captions[unit] = " ".join(sentences_of(story))
    if not captions:
        ids = f"{system.stories[0]['album_id']!r} there, {next(iter(references.texts))!r} here"
        raise UserError(
            f"--references {references.path}: of no story in {system.path} ({ids}); expected its "
            "albums"
        )
    unit = "a sequence" if references.uses_sequences else "an album"
    remarks[f"missing for {unit} of the references"] = len(references.texts) - len(captions)
    copied = sum(text in references.texts[unit] for unit, text in captions.items())
    remarks["that are among their own references"] = copied


def baseline_systems(references: References) -> list[System]:
    """The best constant story, human stories of another album, and human stories."""
    texts = references.texts
    constant = metrics.best_constant(texts)
    print(f'constant story: "{constant}"')
    captions = {CONSTANT: dict.fromkeys(texts, constant)}
    if len(set(references.album_of.values())) > 1:
        captions[OTHER] = metrics.other_album(texts, references.album_of)
    captions[HUMAN] = {unit: stories[0] for unit, stories in texts.items()}
    systems = []
    for name, by_unit in captions.items():
        stories = [
            make_story(unit, references.album_of[unit], [], split_sentences(text))
            for unit, text in by_unit.items()
        ]
        systems.append(System(name, references.path, stories, None, Counter(), captions=by_unit))
    return systems


def score_captions(
    systems: list[System], references: References, options: Namespace
) -> tuple[list[System], list[str]]:
    """Fill in the systems' caption metrics. Returns the baselines, and notes for the tables."""
    protocol, baselines, rounds = options.protocol, [], []
    notes = [
        f"BLEU, METEOR, ROUGE_L and CIDEr × 100, protocol {protocol}: {PROTOCOLS[protocol]}; "
        "spaces around a text do not count"
    ]
    for system in systems:
        match_references(system, references)
    if options.baselines:
        baselines = baseline_systems(references)
        rounds = metrics.leave_one_out(references.texts)
        if not rounds:
            baselines = [system for system in baselines if system.name != HUMAN]
            notes.append(
                f"no album in {references.path} has two stories, so that none can be held against "
                "the others"
            )
    try:
        with Meteor() as meteor:
            fill_captions(systems + baselines, references, rounds, protocol, meteor)
    except UserError as error:  # no Java, or one that cannot run the jar
        notes.append(error.line.replace("METEOR:", "METEOR is absent:", 1))
        fill_captions(systems + baselines, references, rounds, protocol, None)
    return baselines, notes


def fill_captions(
    systems: list[System],
    references: References,
    rounds: list,
    protocol: str,
    meteor: Meteor | None,
) -> None:
    """The caption metrics by all references, and by those of each round of leave_one_out."""

    def score(*rounds: tuple) -> dict:
        figures = metrics.caption_figures(*rounds, protocol=protocol, meteor=meteor)
        return {name: figure.group_by(references.album_of) for name, figure in figures.items()}

    for system in systems:
        captions = system.captions
        if system.name == HUMAN:  # a human story is among all the references
            system.leave_one_out = score(*rounds)
            continue
        system.figures |= score((captions, {unit: references.texts[unit] for unit in captions}))
        shared = []
        for _, others in rounds:
            units = [unit for unit in others if unit in captions]
            if units:
                own = {unit: captions[unit] for unit in units}
                shared.append((own, {unit: others[unit] for unit in units}))
        if shared:
            system.leave_one_out = score(*shared)
