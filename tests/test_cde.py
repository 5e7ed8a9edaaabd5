"""The CDE score, its controls and its readers."""

import json
import random

import numpy as np
import pytest
import torch
from conftest import batch_of, random_sentences

import cli
from CDE_score import auc, bootstrap, cde, control, read_stories, split_sentences, story_cosines


def test_cde_by_its_definition():
    assert cde([1.0, 1.0]) == 1.0
    assert cde([0.0, 0.0, 0.0]) == pytest.approx(2.0)
    assert cde([0.0], reference_log=True) == pytest.approx(1.617, abs=5e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        cosines = rng.uniform(-0.99, 1, rng.integers(1, 9))
        geometric = np.prod((cosines + 1) / 2) ** (1 / len(cosines))
        assert cde(cosines) == pytest.approx(1 / geometric)
    assert np.isfinite(cde([-1.0]))


def test_auc_counts_pairs():
    rng = random.Random(0)
    a, b = [rng.randint(0, 9) for _ in range(40)], [rng.randint(3, 12) for _ in range(30)]
    pairs = [(x < y) + (x == y) / 2 for x in a for y in b]
    assert auc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    assert auc([1, 2], [3, 4]) == 1 and auc([3, 4], [1, 2]) == 0


def test_bootstrap_interval_covers_the_mean():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = bootstrap(values)
    error = values.std() / 20
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_cosines_in_batches_equal_one_by_one(make_model, make_stories, tokenizer):
    model = make_model()
    data = make_stories(model, [5, 1, 3, 4, 2])
    cosines = story_cosines(model, data, tokenizer.pad_token_id, batch_size=2)
    for i, cosine in enumerate(cosines):
        with torch.no_grad():
            states = model.states(**batch_of(data, [i], tokenizer))
        one = torch.cosine_similarity(states.observed_change, states.expected_change, dim=-1)[0, 1:]
        np.testing.assert_allclose(cosine, one.numpy(), rtol=1e-4, atol=1e-5)


def told(stories):
    return [[beat["sentence"] for beat in story["beats"]] for story in stories]


def test_controls_tell_wrongly_and_keep_the_photos():
    rng = random.Random(0)
    stories = [
        {
            "story_id": str(i),
            "album_id": str(i // 2),
            "beats": [{"photo": 5 * i + t, "sentence": s} for t, s in enumerate(random_sentences(rng, 5))],
        }
        for i in range(12)
    ]
    own = dict(zip(map(str, range(12)), told(stories)))
    for kind in ("shuffled", "repeated", "borrowed"):
        wrong = control(stories, kind)
        assert len(wrong) == 12 and wrong == control(stories, kind)
        for story, before, now in zip(wrong, told(stories), told(wrong)):
            assert [beat["photo"] for beat in story["beats"]] == [5 * int(story["story_id"]) + t for t in range(5)]
            assert now != before
            if kind == "shuffled":
                assert sorted(now) == sorted(before)
            elif kind == "repeated":
                assert len(set(now)) == 1 and now[0] in before
            else:
                lender = next(i for i, sentences in own.items() if sentences == now)
                assert int(lender) // 2 != int(story["album_id"])


def test_sentences_of_one_string():
    assert split_sentences("this is a dog . it barked !  we ran .") == ["this is a dog .", "it barked !", "we ran ."]
    assert split_sentences("We went out. It was 3.5 miles! Then home.") == [
        "We went out.",
        "It was 3.5 miles!",
        "Then home.",
    ]
    assert split_sentences("no stop at all") == ["no stop at all"]


def test_shapes_are_recognised_by_content(tmp_path):
    path = tmp_path / "any name.txt"
    story = {"story_id": "1", "album_id": "7", "photo_ids": ["a", "b"], "sentences": ["x .", "y ."]}
    path.write_text(json.dumps({"settings": {"data_path": "test.json"}, "stories": [story]}))
    stories, where, uneven = read_stories(path)
    assert told(stories) == [["x .", "y ."]] and where == "test.json" and uneven == 0
    vist = {"album_id": "7", "photo_sequence": ["a", "b"], "story_text_normalized": "x . y . z ."}
    path.write_text(json.dumps({"team_name": "t", "output_stories": [vist]}))
    stories, where, uneven = read_stories(path)
    assert told(stories) == [["x .", "y .", "z ."]] and where is None and uneven == 1
    assert [beat["photo_id"] for beat in stories[0]["beats"]] == ["a", "b", None]


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[]", "a list at its top"),
        ('{"stories": []}', "no stories"),
        ('{"stories": [{"sentences": [1]}]}', '"sentences", a list of texts'),
        ('{"output_stories": [{"album_id": "1"}]}', "story_text_normalized"),
    ],
)
def test_what_is_no_story_is_one_clear_error(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(cli.UserError, match="x.json") as error:
        read_stories(tmp_path / "x.json")
    assert message in str(error.value)
