"""Human references: caption metrics, baselines, leave-one-reference-out."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from utils import metrics
from utils.cli import PROTOCOLS, UserError
from utils.corruptions import told
from utils.meteor import Meteor
from utils.stories import SHAPES, paired, read_stories
from utils.systems import CONSTANT, HUMAN, OTHER, System, normalize_like_training
from utils.text import split_sentences


@dataclass
class References:
    path: str
    stories: list
    texts: (
        dict  # {unit: [texts]}: of an album, or of a sequence of photos by the protocol "sequence"
    )
    album_of: dict  # {unit: album}
    album_of_story: dict  # {story id: album}
    sequences: bool

    def unit(self, story):
        """What of these references a story is held against; None where there is nothing."""
        unit = sequence(story) if self.sequences else story["album_id"]
        return unit if unit in self.texts else None

    def find_albums(self, stories):
        """The stories with the albums of these references, where their file names a story by its id
        alone."""
        known = set(self.album_of.values())
        if any(story["album_id"] in known for story in stories):
            return stories
        return [
            story | {"album_id": self.album_of_story.get(story["story_id"], story["album_id"])}
            for story in stories
        ]


def sequence(story):
    photos = story["photo_ids"]
    return "-".join(photos) if photos and None not in photos else None


def load_references(path, protocol):
    if Path(path).is_dir():
        raise UserError(
            f"--references {path}: a folder, as of VIST-Edit's machine stories; expected human "
            "stories"
        )
    file = read_stories(path)
    stories = [
        story for story in normalize_like_training(file.stories, file.remarks) if story["beats"]
    ]
    for remark, count in (+file.remarks).items():
        print(f"{path}: {count} references {remark}")
    sequences, texts, album_of = protocol == "sequence", {}, {}
    for story in stories:
        unit = sequence(story) if sequences else story["album_id"]
        texts.setdefault(unit, []).append(" ".join(told(story)))
        album_of[unit] = story["album_id"]
    if sequences and None in texts:
        raise UserError(
            f"--references {path}: tells no photos; --protocol sequence expected VIST's own JSON "
            "or a split"
        )
    if not stories:
        raise UserError(f"--references {path}: no story with words in it; expected {SHAPES}")
    album_of_story = {story["story_id"]: story["album_id"] for story in stories}
    return References(path, stories, texts, album_of, album_of_story, sequences)


def match(system, references):
    """Fill in which text of a system stands for which unit of the references; what has no
    counterpart is counted."""
    for story in system.stories:
        unit = references.unit(story)
        system.remarks["without references"] += unit is None
        if unit is not None and unit in system.matched:
            system.remarks["further of an album (captions are scored by its first)"] += 1
        elif unit is not None:
            system.matched[unit] = " ".join(told(story))
    if not system.matched:
        ids = f"{system.stories[0]['album_id']!r} there, {next(iter(references.texts))!r} here"
        raise UserError(
            f"--references {references.path}: of no story in {system.path} ({ids}); expected its "
            "albums"
        )
    unit = "a sequence" if references.sequences else "an album"
    system.remarks[f"missing for {unit} of the references"] = len(references.texts) - len(
        system.matched
    )
    among = sum(text in references.texts[unit] for unit, text in system.matched.items())
    system.remarks["that are among their own references"] = among


def baseline_systems(references):
    """Systems that say nothing of the photos: the best constant story, and human stories of another
    album."""
    texts = references.texts
    constant = metrics.best_constant(texts)
    print(f'constant story: "{constant}"')
    matched = {CONSTANT: dict.fromkeys(texts, constant)}
    if len(set(references.album_of.values())) > 1:
        matched[OTHER] = metrics.other_album(texts, references.album_of)
    return [baseline_system(name, references, told) for name, told in matched.items()]


def baseline_system(name, references, matched):
    stories = [
        paired(unit, references.album_of[unit], [], split_sentences(text))
        for unit, text in matched.items()
    ]
    return System(name, references.path, stories, None, Counter(), matched=matched)


def score_by_references(systems, references, options):
    """Fill in the systems' caption metrics. Returns the anchors, and what the tables have to say of
    it all."""
    protocol = options.protocol
    notes = [
        f"BLEU, METEOR, ROUGE_L and CIDEr × 100, protocol {protocol}: {PROTOCOLS[protocol]}; "
        "spaces around a "
        f"text do not count"
    ]
    for system in systems:
        match(system, references)
    rounds = metrics.leave_one_out(references.texts) if options.baselines else []
    anchors = baseline_systems(references) if options.baselines else []
    if rounds:
        anchors.append(
            baseline_system(
                HUMAN, references, {unit: texts[0] for unit, texts in references.texts.items()}
            )
        )
    elif options.baselines:
        notes.append(
            f"no album in {references.path} has two stories, so that none can be held against the "
            "others"
        )
    try:
        with Meteor() as meteor:
            fill_captions(systems, anchors, references, rounds, protocol, meteor)
    except UserError as error:  # no Java, or one that cannot run the jar
        notes.append(error.line.replace("METEOR:", "METEOR is absent:", 1))
        fill_captions(systems, anchors, references, rounds, protocol, None)
    return anchors, notes


def fill_captions(systems, anchors, references, rounds, protocol, meteor):
    """The caption metrics of all references; with rounds of human stories (leave_one_out) on equal
    terms too."""

    def score(*rounds):
        figures = metrics.caption_figures(*rounds, protocol=protocol, meteor=meteor)
        return {name: figure.by(references.album_of) for name, figure in figures.items()}

    for system in systems + anchors:
        if system.name == HUMAN:  # a human story is among all the references
            system.equal_terms = score(*rounds)
            continue
        system.figures |= score(
            (system.matched, {unit: references.texts[unit] for unit in system.matched})
        )
        shares = [
            ({unit: system.matched[unit] for unit in human if unit in system.matched}, others)
            for human, others in rounds
        ]
        shares = [
            (share, {unit: others[unit] for unit in share}) for share, others in shares if share
        ]
        system.equal_terms = score(*shares) if shares else {}
