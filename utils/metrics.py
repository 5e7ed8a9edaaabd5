"""Caption metrics by the VIST protocol, baselines to compare them with, diversity.

Every figure can be computed again for any resample of its units (albums, or sequences of photos),
so that it has an interval. A story is a text, tokenised by spaces.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from tqdm import tqdm

from utils.meteor import Meteor, meteor_score
from utils.statistics import Figure, mean, mean_figure
from utils.text import normalise

CAPTION = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")
Texts = dict[str, str]  # {unit: text}
References = dict[str, list[str]]  # {unit: texts}


# ---------------------------------------------------------------------------------- caption metrics


def ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)))


def closest(length: int, reference_lengths: list[int]) -> int:
    """The reference length closest to a story's, the shorter of two as close."""
    return min(reference_lengths, key=lambda reference: (abs(reference - length), reference))


def bleu(sums: np.ndarray, n: int) -> np.ndarray:
    """BLEU-n of summed [length, closest reference length, n-grams × 4, matched n-grams × 4, …] ->
    (…): Papineni et al. 2002, with pycocoevalcap's two small constants."""
    precisions = (sums[..., 6 : 6 + n] + 1e-15) / (sums[..., 2 : 2 + n] + 1e-9)
    ratio = (sums[..., 0] + 1e-15) / (sums[..., 1] + 1e-9)
    return precisions.prod(-1) ** (1 / n) * np.exp(np.minimum(0, 1 - 1 / ratio))


def common_length(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time (Hyyrö 2004)."""
    places = {}
    for i, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << i
    row = (1 << len(a)) - 1
    for token in b:
        matched = row & places.get(token, 0)
        row = (row + matched) | (row - matched)
    return len(a) - (row & (1 << len(a)) - 1).bit_count()


def rouge_l(story: str, references: list[str], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004), as pycocoevalcap: best precision and best recall, of any references."""
    words = story.split(" ")
    others = [reference.split(" ") for reference in references]
    common = [common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0


def document_frequencies(references: list[list[str]]) -> dict:
    """In how many units' references each n-gram is: CIDEr's weights (Vedantam et al. 2015)."""
    scorer = CiderScorer(n=4)
    for texts in references:
        scorer += None, texts
    scorer.compute_doc_freq()
    return scorer.document_frequency


def unit_rows(
    stories: list[str], references: list[list[str]], meteor: Meteor | None, frequencies: dict | None
) -> dict[str, tuple[np.ndarray, Callable]]:
    """What each unit adds to each metric: {name: (rows (units, k), combine)}.

    frequencies: CIDEr's document_frequencies, of these references if None.
    """
    bleu_scorer, cider_scorer = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
    pairs = list(zip(stories, references))
    for pair in pairs:
        bleu_scorer += pair
        cider_scorer += pair
    cider_scorer.document_frequency = frequencies
    if frequencies is None:
        cider_scorer.document_frequency = document_frequencies(references)
    counts = []
    for unit in bleu_scorer.ctest:
        length = unit["testlen"]
        lengths = [length, closest(length, unit["reflen"])]
        counts.append([*lengths, *unit["guess"], *unit["correct"], 1])
    rows = {f"BLEU-{n}": (counts, partial(bleu, n=n)) for n in (1, 2, 3, 4)}
    if meteor:
        bar = tqdm(pairs, unit="story", desc="METEOR", leave=False)
        rows["METEOR"] = [[*meteor.statistics(*pair), 1] for pair in bar], meteor_score
    rows["ROUGE_L"] = [[rouge_l(*pair), 1] for pair in pairs], mean
    rows["CIDEr"] = [[score, 1] for score in cider_scorer.compute_cider()], mean
    return {name: (np.array(x, dtype=float), combine) for name, (x, combine) in rows.items()}


def caption_figures(
    *rounds: tuple[Texts, References], protocol: str = "album", meteor: Meteor | None = None
) -> dict[str, Figure]:
    """BLEU-1 to 4, METEOR (with a Meteor), ROUGE_L and CIDEr by one of PROTOCOLS.

    rounds: one for a system; several where a unit has several stories (leave_one_out), and the
    figure is the mean over rounds. CIDEr's document frequencies are those of the round's
    references. Raises ValueError where stories and references are not of the same units or a unit
    has no reference.
    """
    units = list(dict.fromkeys(unit for stories, _ in rounds for unit in stories))
    place = {unit: i for i, unit in enumerate(units)}
    figures = {}
    for number, (stories, references) in enumerate(rounds):
        if not stories or stories.keys() != references.keys() or not all(references.values()):
            raise ValueError(
                "expected stories and references of the same units, at least one of each"
            )
        texts = [story.strip() for story in stories.values()]
        pooled = [[text.strip() for text in references[unit]] for unit in stories]
        if protocol == "sequence":  # against each reference by itself, the best one counts
            frequencies = document_frequencies(pooled)
            attempts = []
            for i in range(max(map(len, pooled))):  # from the first again where there are fewer
                single = [[texts[i % len(texts)]] for texts in pooled]
                attempts.append(unit_rows(texts, single, meteor, frequencies))
        else:
            attempts = [unit_rows(texts, pooled, meteor, None)]
        for name, (rows, combine) in attempts[0].items():
            if protocol != "album":
                best = np.max([combine(attempt[name][0]) for attempt in attempts], axis=0)
                rows, combine = np.stack([best, np.ones(len(best))], 1), mean
            if name not in figures:
                shape = len(units), len(rounds), rows.shape[1]
                figures[name] = Figure(units, np.zeros(shape), combine)
            figures[name].rows[[place[unit] for unit in stories], number] = rows
    return figures


# ---------------------------------------------------------------------------------------- baselines


def leave_one_out(references: References) -> list[tuple[Texts, References]]:
    """Human stories as a system's: in round r each album's story r against its others.

    Albums with one story are left out. A human story meets one reference fewer than a system's
    does, and all metrics but CIDEr rise with references: a system's stories compare in the same
    rounds.
    """
    rounds = []
    for r in range(max(map(len, references.values()))):
        units = {unit: texts for unit, texts in references.items() if len(texts) > max(r, 1)}
        if units:
            others = {unit: texts[:r] + texts[r + 1 :] for unit, texts in units.items()}
            rounds.append(({unit: texts[r] for unit, texts in units.items()}, others))
    return rounds


def other_album(references: References, album_of: dict[str, str] | None = None) -> Texts:
    """The first human story of the next album (ids sorted, the last is followed by the first).

    album_of: {unit: album} where units are not albums. Raises ValueError for one album alone.
    """
    albums = {}
    for unit in sorted(references):
        albums.setdefault(album_of[unit] if album_of else unit, []).append(unit)
    if len(albums) < 2:
        raise ValueError("one album alone; there is no other to take a story from")
    groups, captions = list(albums.values()), {}
    for units, others in zip(groups, groups[1:] + groups[:1]):
        captions |= dict.fromkeys(units, references[others[0]][0])
    return captions


def occurrences(words: list[str]) -> Iterator[tuple]:
    """Each n-gram of 1 to 4 words with its count so far; sets of these match as BLEU clips."""
    counts = Counter()
    for n in (1, 2, 3, 4):
        for gram in ngrams(words, n):
            counts[gram] += 1
            yield gram, counts[gram]


def best_constant(references: References, shortlist: int = 30) -> str:
    """The text that scores best for every album: a human story, or the five commonest sentences.

    Best is the highest BLEU-4 + ROUGE_L over all albums, among the `shortlist` texts of the highest
    BLEU-4. It has seen the references, as no system may: it shows what a metric gives to words that
    ignore the photos.
    """
    albums = [[text.strip() for text in texts] for texts in references.values()]
    stories = [text for texts in albums for text in texts]
    sentences = Counter()
    for text in stories:
        sentences.update(filter(has_word, re.split(r"(?<=\s[.!?])\s+", text)))
    commonest = " ".join(sentence for sentence, _ in sentences.most_common(5))
    candidates = list(dict.fromkeys([*stories, commonest]))
    num_albums = Counter()  # in which each occurrence is
    for texts in albums:
        num_albums.update({x for text in texts for x in occurrences(text.split())})
    lengths = [[len(text.split()) for text in texts] for texts in albums]

    @cache
    def sum_closest(length: int) -> int:
        return sum(closest(length, of_album) for of_album in lengths)

    def count(text: str) -> list[int]:
        words, matched = text.split(), [0, 0, 0, 0]
        for gram, number in occurrences(words):
            matched[len(gram) - 1] += num_albums[gram, number]
        guessed = [len(albums) * max(0, len(words) - n) for n in range(4)]
        return [len(albums) * len(words), sum_closest(len(words)), *guessed, *matched]

    scores = bleu(np.array([count(text) for text in candidates], dtype=float), 4)
    best = np.argsort(-scores, kind="stable")[:shortlist]
    totals = [scores[i] + np.mean([rouge_l(candidates[i], x) for x in albums]) for i in best]
    return candidates[best[np.argmax(totals)]]


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
    entries = {"words per story": [], "sentence repeated within": []}
    entries["sentence repeated across"] = []
    for unit, sentences in stories:
        words = sum(map(has_word, " ".join(sentences).split()))
        repeated = sum(counts[sentence] > 1 for sentence in sentences)
        entries["words per story"].append((unit, words, 1))
        is_repeated = len(set(sentences)) < len(sentences)
        entries["sentence repeated within"].append((unit, is_repeated, 1))
        entries["sentence repeated across"].append((unit, repeated, len(sentences)))
    if training is not None:
        copied = [(unit, " ".join(sentences) in training, 1) for unit, sentences in stories]
        entries["copied from training"] = copied
    return {name: mean_figure(x) for name, x in entries.items()}


def number_ngrams(stories: Iterable[Iterable[tuple]]) -> list[np.ndarray]:
    """The n-grams of each story as numbers, one number for one n-gram."""
    numbers = {}
    return [
        np.array([numbers.setdefault(gram, len(numbers)) for gram in story], dtype=int)
        for story in stories
    ]


def distinct(
    systems: dict[str, list[tuple[str, list[str]]]],
    samples: int = 200,
    seed: int = 0,
    tokens: int | None = None,
) -> tuple[dict[str, dict[str, tuple]], int]:
    """distinct-1, 2, 3 (Li et al. 2016) and vocabulary of systems, each in the same number of
    tokens.

    systems: {name: [(unit, [sentences])]}, each with as many stories per unit: stories of one
    album share words. Returns {name: {measure: (value, low, high)}}, the mean and the 95 %
    percentile interval over samples of units, and the number of tokens, half of what the smallest
    system has. distinct-n is the share of different n-grams among all; n-grams stay within a
    story. Raises ValueError where a system has no words.
    """
    words_of = {
        name: [(unit, normalise(" ".join(sentences)).split()) for unit, sentences in stories]
        for name, stories in systems.items()
    }
    totals = [sum(len(words) for _, words in stories) for stories in words_of.values()]
    tokens = tokens or min(totals) // 2
    if not tokens or min(totals) < tokens:
        raise ValueError("a system has too few words")
    names = ("distinct-1", "distinct-2", "distinct-3", "vocabulary")
    result = {}
    for name, stories in words_of.items():
        rng = np.random.default_rng(seed)
        units, unit_of = np.unique([unit for unit, _ in stories], return_inverse=True)
        lengths = np.array([len(words) for _, words in stories])
        grams = [number_ngrams(ngrams(words, n) for _, words in stories) for n in (1, 2, 3)]
        figures = []
        for _ in range(samples):
            # Without replacement: a bootstrap's doubled stories would count as repetition, and
            # half of the units, so drawn, vary as a bootstrap of all does.
            order = np.argsort(rng.permutation(len(units))[unit_of], kind="stable")
            ends = lengths[order].cumsum()
            *complete, last = order[: np.searchsorted(ends, tokens) + 1]
            room = tokens - (ends[len(complete)] - lengths[last])  # the last story is cut
            counts = []
            for n, ids in enumerate(grams):
                sample = [*(ids[i] for i in complete), ids[last][: max(0, room - n)]]
                sample = np.concatenate(sample)
                counts.append((np.count_nonzero(np.bincount(sample)), len(sample)))
            shares = [different / max(1, count) for different, count in counts]
            figures.append([*shares, counts[0][0]])
        low, high = np.percentile(figures, [2.5, 97.5], axis=0)
        columns = zip(np.mean(figures, 0), low, high)
        result[name] = {measure: tuple(map(float, x)) for measure, x in zip(names, columns)}
    return result, tokens
