"""Human references: caption metrics, baselines, leave-one-reference-out."""

from dataclasses import dataclass, field
from pathlib import Path

from utils import metrics
from utils.cli import PROTOCOLS, UserError
from utils.corruptions import sentences_of
from utils.meteor import Meteor
from utils.statistics import Figure
from utils.stories import SHAPES, make_story, read_stories
from utils.systems import CONSTANT, HUMAN, OTHER, System, normalize_like_training
from utils.text import split_sentences


@dataclass
class References:
    """Human stories by unit: an album, or, by the protocol "sequence", a sequence of photos."""

    path: str
    protocol: str
    stories: list[dict]
    texts: dict[str, list[str]] = field(default_factory=dict)  # by unit
    album_of: dict[str, str] = field(default_factory=dict)  # {unit: album}

    def unit(self, story: dict) -> str | None:
        """The unit that a story belongs to, if any."""
        unit = unit_of(story, self.protocol)
        return unit if unit in self.texts else None

    def find_albums(self, stories: list[dict]) -> list[dict]:
        """The stories with the albums of these references, where a file names them by their ids
        alone."""
        albums = set(self.album_of.values())
        if any(story["album_id"] in albums for story in stories):
            return stories
        album_of = {story["story_id"]: story["album_id"] for story in self.stories}
        return [
            story | {"album_id": album_of.get(story["story_id"], story["album_id"])}
            for story in stories
        ]


def unit_of(story: dict, protocol: str) -> str | None:
    """The id of the story's album or of its sequence of photos; None where it names none."""
    if protocol != "sequence":
        return story["album_id"]
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
    references = References(path, protocol, stories)
    for story in stories:
        unit = unit_of(story, protocol)
        references.texts.setdefault(unit, []).append(" ".join(sentences_of(story)))
        references.album_of[unit] = story["album_id"]
    if None in references.texts:
        raise UserError(
            f"--references {path}: tells no photos; --protocol sequence expected VIST's own JSON "
            "or a split"
        )
    return references


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
    unit = "a sequence" if references.protocol == "sequence" else "an album"
    remarks[f"missing for {unit} of the references"] = len(references.texts) - len(captions)
    copied = sum(text in references.texts[unit] for unit, text in captions.items())
    remarks["that are among their own references"] = copied


def baseline_systems(references: References, rounds: list[tuple]) -> list[System]:
    """The best constant story, human stories of another album, and human stories where there are
    rounds of them."""
    texts, album_of = references.texts, references.album_of
    constant = metrics.best_constant(texts)
    print(f'constant story: "{constant}"')
    captions = {CONSTANT: dict.fromkeys(texts, constant)}
    captions[OTHER] = metrics.other_album(texts, album_of)
    if rounds:
        captions[HUMAN] = {unit: stories[0] for unit, stories in texts.items()}
    systems = []
    for name, by_unit in captions.items():
        stories = [
            make_story(unit, album_of[unit], [], split_sentences(text))
            for unit, text in by_unit.items()
        ]
        if stories:
            systems.append(System(name, references.path, stories, captions=by_unit))
    return systems


def score_captions(
    systems: list[System], references: References, with_baselines: bool
) -> tuple[list[System], list[str]]:
    """Fill in the systems' caption metrics. Returns the baselines, and notes for the tables."""
    protocol, baselines, rounds = references.protocol, [], []
    notes = [
        f"BLEU, METEOR, ROUGE_L and CIDEr × 100, protocol {protocol}: {PROTOCOLS[protocol]}; "
        "spaces around a text do not count"
    ]
    for system in systems:
        match_references(system, references)
    if with_baselines:
        rounds = metrics.leave_one_out(references.texts)
        baselines = baseline_systems(references, rounds)
        if not rounds:
            notes.append(
                f"no album in {references.path} has two stories, so that none can be held against "
                "the others"
            )
    shown = systems + baselines
    try:
        with Meteor() as meteor:
            fill_captions(shown, references, rounds, meteor)
    except UserError as error:  # no Java, or one that cannot run the jar
        notes.append(error.line.replace("METEOR:", "METEOR is absent:", 1))
        fill_captions(shown, references, rounds, None)
    if len(references.texts) == 1:  # every n-gram is in all documents and weighs nothing
        notes.append("CIDEr is not defined for the references of one album")
        for system in shown:
            system.figures.pop("CIDEr", None)
            system.leave_one_out.pop("CIDEr", None)
    return baselines, notes


def fill_captions(
    systems: list[System], references: References, rounds: list[tuple], meteor: Meteor | None
) -> None:
    """The caption metrics by all references, and by those of each round of leave_one_out."""

    def score(*rounds: tuple) -> dict:
        figures = metrics.caption_figures(*rounds, protocol=references.protocol, meteor=meteor)
        for name, figure in figures.items():
            albums = [references.album_of[unit] for unit in figure.units]
            figures[name] = Figure.from_rows(albums, figure.rows, figure.combine)
        return figures

    for system in systems:
        if system.name == HUMAN:  # a human story is among all the references
            system.leave_one_out = score(*rounds)
            continue
        captions, shared = system.captions, []
        system.figures |= score((captions, references.texts))
        for human, others in rounds:
            own = {unit: captions[unit] for unit in human if unit in captions}
            if own:
                shared.append((own, others))
        if shared:
            system.leave_one_out = score(*shared)
