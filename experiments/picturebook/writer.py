"""The dataset: which stories each split tells, and its files."""

import json
import multiprocessing
import random
import signal
from functools import partial
from itertools import product
from pathlib import Path

from tqdm import tqdm

from experiments.picturebook.facts import BEATS, MOODS, SLOTS, WORLD_FILE
from experiments.picturebook.page import draw_picture
from experiments.picturebook.plots import PLOTS
from experiments.picturebook.texts import annotate, make_references
from utils.cli import UserError
from utils.files import atomic_write, read_json, write_json


def world(settings):
    """What world.json holds: the vocabularies, the plots with their wordings, and the settings
    drawn with."""
    plots = {
        name: [
            {"slots": beat.slots, "wordings": {mood: getattr(beat, mood) for mood in MOODS}}
            for beat in beats
        ]
        for name, beats in PLOTS.items()
    }
    return json.loads(
        json.dumps({"settings": settings, "slots": SLOTS, "moods": MOODS, "plots": plots})
    )


def share_combinations(albums, seed):
    """{split: a (hero, colour, place, object, plot) for each album} of {split: albums}; no two
    splits share one.

    Where more albums are asked for than there are combinations, each split repeats a share of its
    own.
    """
    combinations = list(product(*SLOTS.values(), PLOTS))
    random.Random(f"{seed}/combinations").shuffle(combinations)
    total, spare = sum(albums.values()), len(combinations) - len(albums)
    shares, start = {}, 0
    for split, count in albums.items():
        share = count if total <= len(combinations) else max(1, spare * count // total)
        shares[split] = [combinations[start + k % share] for k in range(count)]
        start += share
    return shares


def plan_stories(settings):
    """{split: [story]}: the facts of truth/*.json and where each story's pictures go, in the order
    of the story ids."""
    per_album, seed = settings["stories_per_album"], settings["seed"]
    albums = {split: -(-count // per_album) for split, count in settings["stories"].items()}
    shares = share_combinations(albums, seed)
    stories, first_album, first_story = {}, 70000, 400000
    for split, count in settings["stories"].items():
        rng = random.Random(f"{seed}/{split}/words")
        moods = [MOODS[k % len(MOODS)] for k in range(count)]
        rng.shuffle(moods)
        stories[split] = []
        for k, mood in enumerate(moods):
            album = first_album + k // per_album
            facts = dict(zip((*SLOTS, "plot"), shares[split][k // per_album]))
            wordings = [rng.randrange(len(getattr(beat, mood))) for beat in PLOTS[facts["plot"]]]
            photos = [str(BEATS * album + beat) for beat in range(BEATS)]
            stories[split].append(
                {
                    "story_id": str(first_story + k),
                    "album_id": str(album),
                    "split": split,
                    **facts,
                    "mood": mood,
                    "wordings": wordings,
                    "photo_ids": photos,
                }
            )
        first_album, first_story = first_album + albums[split], first_story + count
    return stories


def draw_album(story, folder, size, seed):
    """Save a story's five pictures. Each has random numbers of its own, so the order of the work
    cannot change it."""
    for beat, photo in enumerate(story["photo_ids"]):
        picture = draw_picture(story, beat, size, random.Random(f"{seed}/{photo}"))
        picture.save(folder / "images" / story["split"] / f"{photo}.jpg", quality=90)


def draw_albums(albums, folder, size, seed, workers):
    draw = partial(draw_album, folder=folder, size=size, seed=seed)
    # Ctrl-C is for the parent to answer
    with multiprocessing.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        drawn = pool.imap_unordered(draw, albums, chunksize=8)
        for _ in tqdm(drawn, "drawing", len(albums), unit="album"):
            pass


def write_dataset(folder, settings, workers):
    """Write the dataset into `folder`, which does not exist yet: sis/, images/, references/, truth/
    and world.json."""
    splits = plan_stories(settings)
    for name in ("sis", "references", "truth", *(f"images/{split}" for split in splits)):
        (folder / name).mkdir(parents=True)
    albums = {story["album_id"]: story for stories in splits.values() for story in stories}
    draw_albums(list(albums.values()), folder, settings["size"], settings["seed"], workers)
    for split, stories in splits.items():
        rng = random.Random(f"{settings['seed']}/{split}/files")
        write_json(folder / "sis" / f"{split}.story-in-sequence.json", annotate(stories, rng))
        rng = random.Random(f"{settings['seed']}/{split}/references")
        write_json(folder / "references" / f"{split}.json", make_references(stories, rng))
        facts = (*SLOTS, "plot", "mood", "wordings", "photo_ids")
        truth = {story["story_id"]: {name: story[name] for name in facts} for story in stories}
        write_json(folder / "truth" / f"{split}.json", truth)
    write_json(folder / "world.json", world(settings))


def make_dataset(output, settings, workers=1, overwrite=False):
    """Draw the dataset at `output`, whole or not at all. Returns False where it stands there
    already.

    settings: {"stories": {split: number}, "stories_per_album", "seed", "size" in pixels}. Raises
    UserError where `output` holds anything else; only a picture book of other settings can be
    overwritten.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; expected a folder to write")
    if output.is_dir() and any(output.iterdir()):
        if not (output / "world.json").is_file():
            raise UserError(
                f"--output {output}: holds something that is not a picture book; expected a new "
                "folder"
            )
        if read_json(output / "world.json", WORLD_FILE) == world(settings):
            return False
        if not overwrite:
            raise UserError(
                f"--output {output}: holds a picture book of other settings; --overwrite replaces "
                "it"
            )
    with atomic_write(output) as folder:
        write_dataset(folder, settings, workers)
    return True
