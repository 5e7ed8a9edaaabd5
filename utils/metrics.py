"""Caption metrics by the VIST protocol, baselines to compare them with, diversity.

Every figure can be computed again for any resample of its units (albums, or sequences of photos),
so that it has an interval. A story is a text, tokenised by spaces.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test, precook
from pycocoevalcap.cider.cider_scorer import CiderScorer
from tqdm import tqdm

from utils.meteor import Meteor, meteor_score
from utils.statistics import Figure, mean, mean_figure
from utils.text import normalise

CAPTION = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")
Texts = dict[str, str]  # {unit: text}
References = dict[str, list[str]]  # {unit: texts}


# ---------------------------------------------------------------------------------- caption metrics


def bleu(sums: np.ndarray, n: int) -> np.ndarray:
    """BLEU-n of summed [length, closest reference length, n-grams × 4, matched n-grams × 4, …] ->
    (…): Papineni et al. 2002, with pycocoevalcap's two small constants."""
    precisions = (sums[..., 6 : 6 + n] + 1e-15) / (sums[..., 2 : 2 + n] + 1e-9)
    ratio = (sums[..., 0] + 1e-15) / (sums[..., 1] + 1e-9)
    return precisions.prod(-1) ** (1 / n) * np.exp(np.minimum(0, 1 - 1 / ratio))


def common_length(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time (Hyyrö 2004): 42
    times as fast as pycocoevalcap's."""
    places = defaultdict(int)
    for i, token in enumerate(a):
        places[token] |= 1 << i
    row = (1 << len(a)) - 1
    for token in b:
        matched = row & places[token]
        row = (row + matched) | (row - matched)
    return len(a) - (row & (1 << len(a)) - 1).bit_count()


def rouge_l(story: str, references: list[str], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004), as pycocoevalcap: best precision and best recall, of any references."""
    words, *others = (text.strip().split(" ") for text in (story, *references))
    common = [common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0


def document_frequencies(references: References) -> dict:
    """In how many units' references each n-gram is: CIDEr's weights (Vedantam et al. 2015)."""
    scorer = CiderScorer()
    for texts in references.values():
        scorer += None, texts
    scorer.compute_doc_freq()
    return scorer.document_frequency


def unit_rows(
    stories: Texts, references: References, meteor: Meteor | None, frequencies: dict
) -> dict[str, tuple[np.ndarray, Callable]]:
    """What each unit's story adds to each metric: {name: (rows (units, k), combine)}.

    frequencies: CIDEr's, of all references.
    """
    scorer = CiderScorer()
    for unit, texts in references.items():  # all: their number is a part of CIDEr
        scorer += stories.get(unit, ""), texts
    scorer.document_frequency = frequencies
    cider = dict(zip(references, scorer.compute_cider()))
    bleu_rows, meteor_rows, rouge_rows = [], [], []
    for unit, story in tqdm(stories.items(), unit="story", desc="captions", leave=False):
        texts = references[unit]
        counts = cook_test(story, cook_refs(texts), eff="closest")
        lengths = counts["testlen"], counts["reflen"]
        bleu_rows.append([*lengths, *counts["guess"], *counts["correct"], 1])
        rouge_rows.append([rouge_l(story, texts), 1])
        if meteor:
            meteor_rows.append([*meteor.statistics(story, texts), 1])
    rows = {f"BLEU-{n}": (bleu_rows, partial(bleu, n=n)) for n in (1, 2, 3, 4)}
    if meteor:
        rows["METEOR"] = meteor_rows, meteor_score
    rows["ROUGE_L"] = rouge_rows, mean
    rows["CIDEr"] = [[cider[unit], 1] for unit in stories], mean
    return {name: (np.array(x, dtype=float), combine) for name, (x, combine) in rows.items()}


def caption_figures(
    *rounds: tuple[Texts, References], protocol: str = "album", meteor: Meteor | None = None
) -> dict[str, Figure]:
    """BLEU-1 to 4, METEOR (with a Meteor), ROUGE_L and CIDEr by one of PROTOCOLS.

    rounds: one for a system; several where a unit has several stories (leave_one_out), and the
    figure is the mean over rounds. CIDEr's document frequencies are those of all the round's
    references, of units without a story too. Raises ValueError where there is no story, or one
    without references.
    """
    found = {}  # {metric: [(units, rows, combine) of each round]}
    for number, (stories, references) in enumerate(rounds):
        if not stories or not all(references.get(unit) for unit in stories):
            raise ValueError("expected stories, and references of the same units")
        attempts = [references]
        if protocol == "sequence":  # against each reference by itself, the best one counts
            attempts = []
            for i in range(max(map(len, references.values()))):  # where there are fewer: again
                single = {unit: [texts[i % len(texts)]] for unit, texts in references.items()}
                attempts.append(single)
        frequencies = document_frequencies(references)
        attempts = [unit_rows(stories, attempt, meteor, frequencies) for attempt in attempts]
        for name, (rows, combine) in attempts[0].items():
            if protocol != "album":
                best = np.max([combine(attempt[name][0]) for attempt in attempts], axis=0)
                rows, combine = np.stack([best, np.ones(len(best))], 1), mean
            rows_by_round = np.zeros((len(rows), len(rounds), rows.shape[1]))
            rows_by_round[:, number] = rows
            found.setdefault(name, []).append((list(stories), rows_by_round, combine))
    figures = {}
    for name, by_round in found.items():
        units, rows, (combine, *_) = zip(*by_round)
        figures[name] = Figure.from_rows(sum(units, []), np.concatenate(rows), combine)
    return figures


# ---------------------------------------------------------------------------------------- baselines


def leave_one_out(references: References) -> list[tuple[Texts, References]]:
    """Human stories as a system's: in round r each album's story r against its others.

    Albums with one story are in no round; its references still count in CIDEr's document
    frequencies. A human story meets one reference fewer than a system's does, and all metrics but
    CIDEr rise with references: a system's stories compare in the same rounds.
    """
    rounds = []
    for r in range(max(map(len, references.values()))):
        own = {unit: x[r] for unit, x in references.items() if len(x) > max(r, 1)}
        others = {unit: x[:r] + x[r + 1 :] or x for unit, x in references.items()}
        if own:
            rounds.append((own, others))
    return rounds


def other_album(references: References, album_of: dict[str, str]) -> Texts:
    """The first human story of the next album (ids sorted, the last is followed by the first);
    nothing where there is one album alone. album_of: {unit: album}."""
    units_of = {}
    for unit in sorted(references):
        units_of.setdefault(album_of[unit], []).append(unit)
    if len(units_of) < 2:
        return {}
    albums, captions = list(units_of.values()), {}
    for units, others in zip(albums, albums[1:] + albums[:1]):
        captions |= dict.fromkeys(units, references[others[0]][0])
    return captions


def occurrences(counts: dict[tuple, int]) -> Iterator[tuple]:
    """Each n-gram with 0, 1, … to below its count; sets of these match as BLEU clips."""
    return ((gram, i) for gram, number in counts.items() for i in range(number))


def best_constant(references: References, shortlist: int = 30) -> str:
    """The text that scores best for every album: a human story, or the five commonest sentences.

    Best is the highest BLEU-4 + ROUGE_L over all albums, among the `shortlist` texts of the highest
    BLEU-4. It has seen the references, as no system may: it shows what a metric gives to words that
    ignore the photos.
    """
    num_albums = Counter()  # in which each occurrence is
    lengths, sentences, stories = [], Counter(), []
    for texts in references.values():
        album_lengths, most = cook_refs(texts)
        lengths.append(album_lengths)
        num_albums.update(occurrences(most))
        stories += [text.strip() for text in texts]
    for text in stories:
        sentences.update(filter(has_word, re.split(r"(?<=\s[.!?])\s+", text)))
    commonest = " ".join(sentence for sentence, _ in sentences.most_common(5))
    candidates = list(dict.fromkeys([*stories, commonest]))

    @cache
    def sum_closest(length: int) -> int:
        return sum(min((abs(x - length), x) for x in of_album)[1] for of_album in lengths)

    def bleu_row(text: str) -> list[int]:
        length, counts = precook(text)
        matched = [0, 0, 0, 0]
        for gram, i in occurrences(counts):
            matched[len(gram) - 1] += num_albums[gram, i]
        guessed = [len(lengths) * max(0, length - n) for n in range(4)]
        return [len(lengths) * length, sum_closest(length), *guessed, *matched]

    scores = bleu(np.array([bleu_row(text) for text in candidates], dtype=float), 4)
    best = np.argsort(-scores, kind="stable")[:shortlist]
    rouge = [np.mean([rouge_l(candidates[i], x) for x in references.values()]) for i in best]
    return candidates[best[np.argmax(scores[best] + rouge)]]


# ---------------------------------------------------------------------------------------- diversity


def has_word(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def diversity_figures(
    stories: list[tuple[str, list[str]]], training: set[str] | None = None
) -> dict[str, Figure]:
    """How long and how repetitive stories are, of [(unit, [sentences])].

    "words per story": tokens with a letter or digit. "sentence repeated within": share of stories
    with a sentence twice. "sentence repeated across": share of sentences that another of the
    stories has too, which grows with the number of stories. "copied from training": share of
    stories that are, word for word, in `training`, a set of texts after normalise().
    """
    stories = [(unit, list(filter(None, map(normalise, x)))) for unit, x in stories]
    counts = Counter(sentence for _, x in stories for sentence in set(x))
    entries = defaultdict(list)
    for unit, sentences in stories:
        text = " ".join(sentences)
        repeated = sum(counts[sentence] > 1 for sentence in sentences)
        is_repeated = len(set(sentences)) < len(sentences)
        entries["words per story"].append((unit, sum(map(has_word, text.split())), 1))
        entries["sentence repeated within"].append((unit, is_repeated, 1))
        entries["sentence repeated across"].append((unit, repeated, len(sentences)))
        if training is not None:
            entries["copied from training"].append((unit, text in training, 1))
    return {name: mean_figure(x) for name, x in entries.items()}


def distinct(
    stories: dict[str, list[str]], tokens: int, samples: int = 200, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """distinct-1, 2, 3 (Li et al. 2016) and vocabulary of as many tokens of {unit: words}.

    Returns {measure: (value, low, high)}, the mean and the 95 % percentile interval over samples of
    units; nothing where the stories have fewer tokens. To compare systems, take half of what the
    smallest has. distinct-n is the share of different n-grams among all; n-grams stay within a
    story.
    """
    words = [stories[unit] for unit in sorted(stories)]
    lengths = np.array([len(x) for x in words])
    if not 0 < tokens <= lengths.sum():
        return {}
    grams = []  # of each n and story, each different one a number
    for n in (1, 2, 3):
        numbers = defaultdict(count().__next__)
        ngrams = (zip(*(x[i:] for i in range(n))) for x in words)
        grams.append([np.array([numbers[gram] for gram in x], dtype=int) for x in ngrams])
    rng, figures = np.random.default_rng(seed), []
    for _ in range(samples):
        # Without replacement: a bootstrap's doubled stories would count as repetition, and half of
        # the units, so drawn, vary as a bootstrap of all does.
        order = rng.permutation(len(words)).argsort()
        ends = lengths[order].cumsum()
        *complete, last = order[: np.searchsorted(ends, tokens) + 1]
        room = tokens - (ends[len(complete)] - lengths[last])  # the last story is cut
        counts = []
        for n, ids in enumerate(grams):
            sample = [*(ids[i] for i in complete), ids[last][: max(0, room - n)]]
            sample = np.concatenate(sample)
            counts.append((np.count_nonzero(np.bincount(sample)), max(1, len(sample))))
        figures.append([*(different / total for different, total in counts), counts[0][0]])
    low, high = np.percentile(figures, [2.5, 97.5], axis=0).tolist()
    names = ("distinct-1", "distinct-2", "distinct-3", "vocabulary")
    return dict(zip(names, zip(np.mean(figures, 0).tolist(), low, high)))
