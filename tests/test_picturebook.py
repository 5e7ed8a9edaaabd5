"""The picture book: a world that can be counted, VIST files that can be read, a check that tells
wrong from right."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from experiments.picturebook import writer
from experiments.picturebook.checker import check_stories
from experiments.picturebook.facts import MOODS, SLOTS
from experiments.picturebook.page import OBJECTS, THINGS, draw_picture
from experiments.picturebook.places import PLACES
from experiments.picturebook.plots import PLOTS, Beat
from experiments.picturebook.texts import write_sentences
from experiments.picturebook.writer import make_dataset, plan_stories
from utils.cli import UserError
from utils.stories import make_story, read_stories

FACTS = (*SLOTS, "plot")
BEATS_OF = [(plot, beat) for plot in PLOTS for beat in range(5)]


def settings(train=24, val=8, test=10, stories_per_album=1, seed=3, size=16):
    stories = {"train": train, "val": val, "test": test}
    return {"stories": stories, "stories_per_album": stories_per_album, "seed": seed, "size": size}


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book") / "picturebook"
    assert make_dataset(folder, settings(), workers=2)
    return folder


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def check(stories, book):
    """check_stories of [{"photo_ids", "sentences"}]."""
    return check_stories(
        [make_story("", "", story["photo_ids"], story["sentences"]) for story in stories], book
    )


def human_stories(split="test", **changes):
    return [
        {"photo_ids": story["photo_ids"], "sentences": write_sentences(story)}
        for story in plan_stories(settings(**changes))[split]
    ]


def random_facts(rng):
    return {slot: rng.choice(values) for slot, values in SLOTS.items()} | {
        "plot": rng.choice(list(PLOTS))
    }


# The stories


@pytest.mark.parametrize(
    "asked",
    [
        dict(train=4000, val=400, test=400),
        dict(train=5390, val=5, test=5),
        dict(train=9000, val=700, test=1),
        dict(train=100, val=30, test=41, stories_per_album=3),
    ],
)
def test_splits_share_no_combination(asked):
    plan = plan_stories(settings(**asked))
    combinations = {
        split: {tuple(story[fact] for fact in FACTS) for story in stories}
        for split, stories in plan.items()
    }
    assert sum(map(len, combinations.values())) == len(set.union(*combinations.values()))
    for split, stories in plan.items():
        assert len(stories) == asked[split]
        assert abs(sum(1 if story["mood"] == MOODS[0] else -1 for story in stories)) <= 1
        albums = [story["album_id"] for story in stories]
        assert max(map(albums.count, albums[:50])) <= asked.get("stories_per_album", 1)
    ids = [story["story_id"] for stories in plan.values() for story in stories]
    assert len(set(ids)) == len(ids) and all(map(str.isdigit, ids))


def test_all_combinations_are_told_once_where_they_are_asked_for():
    plan = plan_stories(settings(train=5000, val=200, test=200))
    assert (
        len(
            {tuple(story[fact] for fact in FACTS) for stories in plan.values() for story in stories}
        )
        == 5400
    )


def test_stories_of_an_album_share_its_photos_but_not_its_words():
    stories = plan_stories(settings(train=300, stories_per_album=3))["train"]
    albums = [stories[k : k + 3] for k in range(0, 300, 3)]
    for album in albums:
        assert (
            len(
                {
                    (story["album_id"], *story["photo_ids"], *(story[fact] for fact in FACTS))
                    for story in album
                }
            )
            == 1
        )
    assert sum(len({tuple(write_sentences(story)) for story in album}) for album in albums) > 290
    # some agree in mood, some do not
    assert len({len({story["mood"] for story in album}) for album in albums}) == 2


@pytest.mark.parametrize("plot", PLOTS)
def test_every_wording_names_the_slots_of_its_beat_and_no_other_word_of_the_world(plot):
    beats, world_words = PLOTS[plot], {word for words in SLOTS.values() for word in words}
    named = [set(beat.slots) for beat in beats]
    assert len(beats) == 5 and {"hero", "colour"} <= named[0] and set.union(*named) == set(SLOTS)
    assert len(set(map(frozenset, named))) > 1
    for beat, slots in zip(beats, named):
        for wording in (*beat.cheerful, *beat.gloomy):
            assert set(re.findall(r"{(\w+)}", wording)) == slots, wording
            words = re.findall(r"[\w{}]+", wording)
            assert 7 <= len(words) <= 16, wording
            assert not world_words & set(
                wording.lower().replace(".", " ").replace(",", " ").split()
            ), wording
            assert (
                wording[0].isupper()
                and wording[-1] in ".!"
                and len(re.findall(r"{hero}", wording)) <= 1
            )
        assert min(len(beat.cheerful), len(beat.gloomy)) >= 3


def test_wordings_are_all_different_and_need_no_an():
    wordings = [
        wording
        for beats in PLOTS.values()
        for beat in beats
        for wording in (*beat.cheerful, *beat.gloomy)
    ]
    assert len(wordings) >= 180 and len(set(wordings)) == len(wordings)
    assert not [word for words in SLOTS.values() for word in words if word[0] in "aeiou"]


# The pictures


def pixels(facts, beat, seed, size=64):
    return np.asarray(draw_picture(facts, beat, size, random.Random(seed)), dtype=int)


def test_the_mood_is_nowhere_in_the_pictures():
    rng = random.Random(1)
    for plot, beat in BEATS_OF:
        facts = random_facts(rng) | {"plot": plot}
        told = [
            facts | {"mood": mood, "wordings": [rng.randrange(3) for _ in range(5)]}
            for mood in MOODS
        ]
        assert (pixels(told[0], beat, beat) == pixels(told[1], beat, beat)).all()


@pytest.mark.parametrize("slot", SLOTS)
def test_what_a_beat_names_can_be_seen_in_its_picture(slot):
    rng = random.Random(slot)
    for plot, beat in BEATS_OF:
        if slot in PLOTS[plot][beat].slots:
            facts = random_facts(rng) | {"plot": plot}
            other = facts | {
                slot: rng.choice([value for value in SLOTS[slot] if value != facts[slot]])
            }
            changed = np.abs(pixels(facts, beat, 5) - pixels(other, beat, 5)).max(axis=2) > 24
            assert changed.mean() > 0.02, (plot, beat, facts, other)


def test_no_two_drawings_of_a_beat_are_alike():
    facts = random_facts(random.Random(2))
    drawings = {pixels(facts, 0, seed).tobytes() for seed in range(12)}
    assert len(drawings) == 12


def test_everything_in_a_scene_can_be_drawn():
    used = {thing[0] for beats in PLOTS.values() for beat in beats for thing in beat.things}
    assert used == set(THINGS)
    assert set(OBJECTS) == set(SLOTS["object"]) and set(PLACES) == set(SLOTS["place"])


# The files


def test_the_seed_gives_the_same_bytes_with_any_number_of_workers(book, tmp_path):
    make_dataset(tmp_path / "one", settings(), workers=1)
    make_dataset(tmp_path / "other", settings(seed=4), workers=2)
    one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
    assert one == contents(book)
    photos = [path for path in one if path.suffix == ".jpg"]
    assert len(photos) == 5 * 42 and not any(one[path] == other[path] for path in photos)


def test_annotations_are_vist(book):
    seen = set()
    for split, count in settings()["stories"].items():
        sis = json.loads((book / "sis" / f"{split}.story-in-sequence.json").read_text())
        assert set(sis) == {"info", "type", "images", "albums", "annotations"}
        truth = json.loads((book / "truth" / f"{split}.json").read_text())
        assert all(isinstance(entry, list) and len(entry) == 1 for entry in sis["annotations"])
        entries = [entry for (entry,) in sis["annotations"]]
        places = [(entry["story_id"], entry["worker_arranged_photo_order"]) for entry in entries]
        assert places != sorted(places) and len(set(places)) == len(places) == 5 * count
        taken = {image["id"]: image["datetaken"] for image in sis["images"]}
        albums = {album["id"] for album in sis["albums"]}
        ids = albums | set(taken) | {entry["storylet_id"] for entry in entries} | set(truth)
        assert all(map(str.isdigit, ids)) and len(ids) == count * (1 + 5 + 5 + 1) and not ids & seen
        seen |= ids
        for story_id, facts in truth.items():
            told = sorted(
                (entry for entry in entries if entry["story_id"] == story_id),
                key=lambda entry: entry["worker_arranged_photo_order"],
            )
            assert [entry["photo_flickr_id"] for entry in told] == facts["photo_ids"]
            times = [taken[photo] for photo in facts["photo_ids"]]
            assert times == sorted(set(times)) and re.fullmatch(
                r"2026-\d\d-\d\d \d\d:\d\d:\d\d", times[0]
            )
            for beat, entry in enumerate(told):
                wording = getattr(PLOTS[facts["plot"]][beat], facts["mood"])[
                    facts["wordings"][beat]
                ]
                for slot in SLOTS:
                    wording = wording.replace(f"{{{slot}}}", facts[slot])
                assert entry["original_text"] == wording and entry["album_id"] in albums
                for mark in ",.!":
                    wording = wording.replace(mark, f" {mark}")
                assert entry["text"] == wording.lower()
                with Image.open(
                    book / "images" / split / f"{entry['photo_flickr_id']}.jpg"
                ) as photo:
                    assert (photo.size, photo.format) == ((16, 16), "JPEG")


def test_world_file_holds_the_plan_and_the_settings(book):
    world = json.loads((book / "world.json").read_text())
    assert world["settings"] == settings() and world["slots"] == {
        slot: list(values) for slot, values in SLOTS.items()
    }
    beat = world["plots"]["camp"][2]
    assert beat["slots"] == ["hero", "place"] and beat["wordings"]["gloomy"] == list(
        PLOTS["camp"][2].gloomy
    )


def test_a_book_that_is_there_is_left_alone_and_overwritten_only_when_told(tmp_path):
    folder, small = tmp_path / "book", dict(train=2, val=1, test=1)
    make_dataset(folder, settings(**small))
    before = contents(folder)
    assert not make_dataset(folder, settings(**small))
    with pytest.raises(UserError, match="overwrite"):
        make_dataset(folder, settings(**small, seed=9))
    assert contents(folder) == before
    assert make_dataset(folder, settings(**small, seed=9), overwrite=True)
    assert contents(folder) != before and [path.name for path in tmp_path.iterdir()] == ["book"]


def test_nothing_is_left_where_drawing_fails(tmp_path, monkeypatch):
    def fail(albums, folder, *rest):
        assert folder.is_dir()
        raise OSError("the disk is full")

    monkeypatch.setattr(writer, "draw_albums", fail)
    with pytest.raises(OSError):
        make_dataset(tmp_path / "book", settings())
    assert not list(tmp_path.iterdir())


# The check


def all_right(figures, stories):
    return all(
        figures[name] == [stories, stories] for name in (*SLOTS, "all five beats", "one mood")
    ) and (figures["beats"] == [5 * stories, 5 * stories])


def test_human_stories_are_right_and_do_not_fit_other_pictures(book):
    result = check(human_stories(), book)
    assert all_right(result["figures"], 10) and result["unknown"] == 0
    assert result["figures"]["cheerful"] == result["figures"]["gloomy"] == [5, 10]
    assert result["distinct"] == 10 and result["in_training"] == 0
    truth = plan_stories(settings())["test"]
    same_hero = sum(
        one["hero"] == other["hero"] for one, other in zip(truth, truth[1:] + truth[:1])
    )
    assert (
        result["control"]["all five beats"][0] < 10
        and result["control"]["hero"][0] <= same_hero < 10
    )


def test_the_control_takes_other_pictures_even_where_an_album_has_many_stories(tmp_path):
    make_dataset(tmp_path / "book", settings(train=2, val=1, test=20, stories_per_album=5))
    result = check(human_stories(train=2, val=1, test=20, stories_per_album=5), tmp_path / "book")
    assert all_right(result["figures"], 20)
    assert sum(result["control"][slot][0] for slot in SLOTS) < 80


def test_spacing_case_order_and_missing_photos_do_not_matter(book):
    stories = human_stories()
    for story in stories:
        story["sentences"] = [
            sentence.upper().replace(",", "  , ") for sentence in story["sentences"]
        ]
    stories[0]["photo_ids"] = [None, *stories[0]["photo_ids"][1:]]
    stories[1]["photo_ids"] = [stories[1]["photo_ids"][0], None, "404", None, None]
    # a story in another order than its pictures' is known by its photos
    for side in ("photo_ids", "sentences"):
        stories[2][side] = stories[2][side][::-1]
    random.Random(0).shuffle(stories)
    assert all_right(check(stories, book)["figures"], 10)


def test_wrong_words_are_counted(book):
    stories, truth = human_stories(), plan_stories(settings())["test"]
    wrong = 4
    for story, facts in zip(stories[:wrong], truth):
        other = next(hero for hero in SLOTS["hero"] if hero != facts["hero"])
        last = max(beat for beat in range(5) if "hero" in PLOTS[facts["plot"]][beat].slots)
        story["sentences"][last] = story["sentences"][last].replace(facts["hero"], other)
    figures = check(stories, book)["figures"]
    assert figures["hero"] == [10 - wrong, 10]
    assert (
        figures["colour"]
        == figures["place"]
        == figures["object"]
        == figures["all five beats"]
        == [10, 10]
    )


def test_a_second_word_of_a_slot_is_wrong(book):
    stories, truth = human_stories(), plan_stories(settings())["test"]
    other = next(colour for colour in SLOTS["colour"] if colour != truth[0]["colour"])
    stories[0]["sentences"][0] += f" And {other}!"
    figures = check(stories, book)["figures"]
    assert (
        figures["colour"] == [9, 10]
        and figures["hero"] == [10, 10]
        and figures["beats"] == [49, 50]
    )


def test_swapped_and_missing_sentences_are_counted(book):
    stories = human_stories()
    swapped = stories[3]["sentences"]
    swapped[1], swapped[2] = swapped[2], swapped[1]
    stories[5] = {side: values[:4] for side, values in stories[5].items()}
    figures = check(stories, book)["figures"]
    assert figures["beats"] == [47, 50] and figures["all five beats"] == [8, 10]
    # the swapped story keeps its mood, the short one has no fifth sentence
    assert figures["one mood"] == [9, 10]


def test_mixed_moods_are_counted(book):
    stories, truth = human_stories(), plan_stories(settings())["test"]
    for k in (0, 7):
        turned = truth[k] | {"mood": next(mood for mood in MOODS if mood != truth[k]["mood"])}
        stories[k]["sentences"][4] = write_sentences(turned)[4]
    figures = check(stories, book)["figures"]
    assert figures["one mood"] == [8, 10] and figures["all five beats"] == [10, 10]
    assert figures["cheerful"][0] + figures["gloomy"][0] == 8
    assert figures["cheerful"][0] == 5 - sum(truth[k]["mood"] == "cheerful" for k in (0, 7))


def test_copies_and_strangers_are_counted(book):
    stories = human_stories() + human_stories("train")[:3] * 2
    stories[0] = stories[0] | {"photo_ids": ["1", "2", None, "4", "5"]}
    result = check(stories, book)
    assert (result["stories"], result["unknown"], result["distinct"], result["in_training"]) == (
        16,
        1,
        12,
        6,
    )


def test_the_command_reads_stories_and_preprocessed_splits_alike(book, tmp_path):
    stories = [story | {"story_id": "1", "album_id": "2"} for story in human_stories()]
    split = [
        {
            "story_id": "1",
            "beats": [
                {"photo_id": photo, "sentence": sentence, "photo": 0}
                for photo, sentence in zip(story["photo_ids"], story["sentences"])
            ],
        }
        for story in stories
    ]
    results = []
    for name, told in (("stories", stories), ("split", split)):
        about = {"format": 1, "photos": {"file": "x", "kind": "pixels"}} if name == "split" else {}
        (tmp_path / name).write_text(json.dumps(about | {"stories": told}))
        done = command(
            "--check", tmp_path / name, "--world", book, "--json", tmp_path / "figures.json"
        )
        assert done.returncode == 0 and re.search(r"hero +10 / 10 +100\.0 %", done.stdout)
        results.append(json.loads((tmp_path / "figures.json").read_text()))
    assert results[0] == results[1] == check(human_stories(), book)


def test_references_are_five_right_stories_of_both_moods(tmp_path):
    folder = tmp_path / "book"
    make_dataset(folder, settings(train=2, val=1, test=12))
    references = json.loads((folder / "references" / "test.json").read_text())
    truth = json.loads((folder / "truth" / "test.json").read_text())
    told = read_stories(folder / "references" / "test.json").stories
    photos = {
        entry["album_id"]: truth[entry["story_id"]]["photo_ids"]
        for [entry] in json.loads((folder / "sis/test.story-in-sequence.json").read_text())[
            "annotations"
        ]
    }
    assert references.keys() == photos.keys() and all(
        len(texts) == 5 for texts in references.values()
    )
    sentences = [[beat["sentence"] for beat in story["beats"]] for story in told]
    stories = [
        {"photo_ids": photos[story["album_id"]], "sentences": text}
        for story, text in zip(told, sentences)
    ]
    result = check(stories, folder)
    assert all_right(result["figures"], 60)
    for i in range(0, 60, 5):  # the book's own first, then the moods in turn
        moods = [
            check(stories[k : k + 1], folder)["figures"]["cheerful"][0] for k in range(i, i + 5)
        ]
        assert moods in ([0, 1, 0, 1, 0], [1, 0, 1, 0, 1])


def command(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "experiments.picturebook", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment)


def test_the_command_draws_and_says_what_comes_next(tmp_path):
    arguments = (
        "--output",
        tmp_path / "book",
        "--train",
        3,
        "--val",
        1,
        "--test",
        2,
        "--size",
        16,
        "--num_workers",
        1,
    )
    done = command(*arguments)
    assert (
        done.returncode == 0
        and "6 stories, 30 pictures" in done.stdout
        and "python dataset.py" in done.stdout
    )
    assert "nothing to do" in command(*arguments).stdout


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--train", "0"], "--train"),
        (["--num_workers", "two"], "--num_workers"),
        (["--json", "out.json"], "--json"),
        (["--output", "here"], "not a picture book"),
        (["--output", "file.json"], "is a file"),
        (["--check", "nowhere.json"], "nowhere.json"),
        (["--check", "file.json"], "number 0"),
        (["--check", "list.json"], "list.json"),
        (["--check", "lists.json"], "number 0"),
        (["--check", "good.json", "--world", "here"], "world.json"),
        (["--check", "good.json", "--world", "odd"], "odd"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("here/mine.txt").write_text("kept")
    Path("file.json").write_text(
        '{"stories": [{"photo_ids": ["1", "2"], "sentences": "One only."}]}'
    )
    Path("list.json").write_text("[1]")
    Path("good.json").write_text('{"stories": [{"photo_ids": ["1"], "sentences": ["Once."]}]}')
    Path("lists.json").write_text('{"stories": [{"photo_ids": [["1"]], "sentences": ["Once."]}]}')
    Path("odd").mkdir()
    Path("odd/world.json").write_text("{}")
    before = contents(".")
    done = command(*arguments)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, (
        done.stderr
    )
    assert not done.stdout and contents(".") == before


def test_stories_of_another_book_are_refused(book):
    with pytest.raises(UserError, match="none of the 1 stories"):
        check([{"photo_ids": ["1"], "sentences": ["Once."]}], book)


def test_a_beat_says_which_slots_it_names():
    assert Beat("day", (), ("The {hero} saw a {object}.",), ()).slots == ["hero", "object"]
