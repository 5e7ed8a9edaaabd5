"""Files of stories in every shape, their sentences, their words."""

import json
import os
import random
from pathlib import Path

import pytest
from conftest import random_sentences

from utils.cli import UserError
from utils.stories import read_stories
from utils.text import is_tokenised, split_sentences, tokenise


def told(file):
    return [[beat["sentence"] for beat in story["beats"]] for story in file.stories]


def photos(file):
    return [[beat["photo_id"] for beat in story["beats"]] for story in file.stories]


def write(folder, value):
    path = folder / "any name.txt"
    path.write_text(json.dumps(value))
    return path


# -------------------------------------------------------------------------------------------- words


def test_sentences_of_one_string():
    assert split_sentences("this is a dog . it barked !  we ran .") == [
        "this is a dog .",
        "it barked !",
        "we ran .",
    ]
    assert split_sentences("We went out. It was 3.5 miles! Then home.") == [
        "We went out.",
        "It was 3.5 miles!",
        "Then home.",
    ]
    assert split_sentences("no stop at all") == ["no stop at all"]
    assert split_sentences(" ") == []


@pytest.mark.parametrize(
    "typed, tokens",
    [
        ("It was a long night. We didn't sleep!", "it was a long night . we did n't sleep !"),
        (
            "[male] and [Female]'s dog went to [location].",
            "[male] and [female] 's dog went to [location] .",
        ),
        ('Mr. Smith said, "hello" (twice).', "mr. smith said , `` hello '' ( twice ) ."),
        (
            "[male]s dog, [male]-like PLACEHOLDER. [male][female]!",
            "[male] s dog , [male] -like placeholder . [male] [female] !",
        ),
        (
            "It’s \N{PARTY POPPER} café time; they’ll go.",
            "it 's \N{PARTY POPPER} café time ; they 'll go .",
        ),
        ('We met "[male]" there.', "we met `` [male] '' there ."),
        ("the train left at 4:45 for $5,000 .", "the train left at 4:45 for $5,000 ."),
        ("今天 很 好 。", "今天 很 好 。"),
        ("", ""),
    ],
)
def test_text_is_tokenised_vists_way(typed, tokens):
    assert tokenise(typed) == tokens and is_tokenised(tokens)
    assert tokenise(tokens) == tokens


def test_tokenising_gives_back_what_was_typed_from_tokens():
    rng = random.Random(0)
    for _ in range(50):
        words = " ".join(
            rng.choices("we saw a dog [male] near the old house".split(), k=rng.randint(2, 12))
        )
        assert tokenise(f"{words.capitalize()}.") == f"{words.lower()} ."


@pytest.mark.skipif(
    "VIST_TEXT" not in os.environ, reason="VIST_TEXT does not name a folder with VIST's own text"
)
def test_vists_own_stories_are_left_as_they_are():
    path = Path(os.environ["VIST_TEXT"], "val_reference.json")
    references = json.loads(path.read_text())
    texts = [text for texts in references.values() for text in texts]
    assert all(tokenise(text) == text for text in texts) and len(texts) > 4000


# -------------------------------------------------------------------------------------------- files


def test_stories_of_generate(tmp_path):
    story = {"story_id": "1", "album_id": "7", "photo_ids": ["a", "b"], "sentences": ["x .", "y ."]}
    file = read_stories(
        write(tmp_path, {"settings": {"data_path": "test.json"}, "stories": [story]})
    )
    assert (
        told(file) == [["x .", "y ."]]
        and photos(file) == [["a", "b"]]
        and file.photos == "test.json"
    )
    assert not +file.remarks
    file = read_stories(write(tmp_path, {"stories": [story | {"folder": "holiday"}]}))
    assert (
        file.photos == "folders"
        and [beat["folder"] for beat in file.stories[0]["beats"]] == ["holiday"] * 2
    )


def test_a_vist_challenge_submission(tmp_path):
    vist = {"album_id": "7", "photo_sequence": ["a", "b"], "story_text_normalized": " x . y . z ."}
    file = read_stories(write(tmp_path, {"team_name": "t", "output_stories": [vist]}))
    assert (
        told(file) == [["x .", "y .", "z ."]]
        and photos(file) == [["a", "b", None]]
        and file.photos is None
    )
    assert (
        file.stories[0]["story_id"] == "a-b"
        and file.remarks["with not as many sentences as photos"] == 1
    )


def test_mappings_of_albums_and_of_stories(tmp_path):
    file = read_stories(write(tmp_path, {"7": ["x . y .", "z ."], "8": ["We ran. It rained."]}))
    assert told(file) == [["x .", "y ."], ["z ."], ["We ran.", "It rained."]]
    assert [story["album_id"] for story in file.stories] == ["7", "7", "8"]
    file = read_stories(write(tmp_path, {"100": "x . y .", "101": ""}))
    assert told(file) == [["x .", "y ."], []] and file.remarks["without words"] == 1


def test_vists_own_files_and_labels(tmp_path):
    rng, entries = random.Random(1), []
    sentences = {str(i): random_sentences(rng, 5) for i in range(4)}
    for story, texts in sentences.items():
        for order, text in enumerate(texts):
            entry = {
                "album_id": "9",
                "story_id": story,
                "text": text,
                "photo_flickr_id": f"{story}{order}",
            }
            entries.append([entry | {"worker_arranged_photo_order": order}])
    rng.shuffle(entries)
    albums = [{"id": "9", "vist_label": "fair"}]
    file = read_stories(write(tmp_path, {"annotations": entries, "albums": albums, "images": []}))
    assert {story["story_id"]: texts for story, texts in zip(file.stories, told(file))} == sentences
    assert {story["label"] for story in file.stories} == {"fair"} and photos(file)[0][0].endswith(
        "0"
    )


def test_vist_edits_machine_stories_one_by_one_or_a_folder(tmp_path, monkeypatch):
    for name in ("1-2-3", "4-5-6"):
        edit = {
            "photo_sequence_ids": name.split("-"),
            "album_id": "3",
            "model": "AREL",
            "edited_stories": [{"normalized_edited_story_text_sent": ["b ."]}],
            "auto_story_text_normalized": "x . y . z .",
        }
        (tmp_path / "AREL" / "test").mkdir(parents=True, exist_ok=True)
        (tmp_path / "AREL" / "test" / f"{name}.json").write_text(json.dumps(edit))
    one = read_stories(tmp_path / "AREL" / "test" / "1-2-3.json")
    both = read_stories(tmp_path / "AREL")
    assert (
        told(one) == [["x .", "y .", "z ."]]
        and len(both.stories) == 2
        and photos(both)[1] == ["4", "5", "6"]
    )
    monkeypatch.chdir(tmp_path / "AREL" / "test")  # the split's name is in no path that was typed
    assert told(read_stories("1-2-3.json")) == told(one) and len(read_stories(".").stories) == 2
    assert +both.remarks == {}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .json file"):
        read_stories(tmp_path / "empty")


def test_nothing_odd_is_dropped_and_all_of_it_is_counted(tmp_path):
    stories = [
        {"story_id": "1", "photo_ids": ["a", "b", "c"], "sentences": ["x .", " ", "z ."]},
        {
            "story_id": "1",
            "photo_ids": ["a"],
            "sentences": ["las fotos \N{GRINNING FACE} 写真 .", "two ."],
        },
        {"story_id": "2", "photo_ids": ["a"], "sentences": []},
        {"story_id": "3", "sample": 1, "photo_ids": ["a"], "sentences": ["x ."]},
        {"story_id": "3", "sample": 2, "photo_ids": ["a"], "sentences": ["y ."]},
    ]
    file = read_stories(write(tmp_path, {"stories": stories}))
    # z is said of c, though b has no sentence
    assert len(file.stories) == 5 and photos(file)[0] == ["a", "c"]
    assert told(file)[1] == ["las fotos \N{GRINNING FACE} 写真 .", "two ."]
    assert +file.remarks == {
        "with an id that another has too": 1,
        "with not as many sentences as photos": 2,
        "without words": 1,
    }


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[]", "x.json: []; expected stories.json"),
        ("{}", "x.json: {}; expected stories.json"),
        ('{"stories": []}', "no stories"),
        ('{"stories": [1]}', "story number 0 is 1; expected a story of generate.py"),
        ('{"stories": [{"sentences": [1]}]}', '"sentences" is [1]; expected a list of texts'),
        ('{"stories": [{"sentences": ["x"], "photo_ids": "abc"}]}', "a list of photo ids"),
        ('{"output_stories": [{"album_id": "1"}]}', "story_text_normalized"),
        ('{"7": ["x"], "7": ["y"]}', "'7' is there twice"),
        ('{"7": ["x"], "8": "y"}', "8"),
        ('{"7": [["x"]]}', "7"),
        ('{"7": []}', "7"),
        ('{"7": 3}', "7"),
        ('{"annotations": [{"story_id": 1}]}', "annotation 0"),
        ('{"format": 2}', '"format" is 2; expected 1'),
    ],
)
def test_what_is_no_story_is_one_clear_error(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match="x.json") as error:
        read_stories(tmp_path / "x.json")
    assert message in str(error.value)
