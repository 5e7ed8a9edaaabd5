"""What a story's words are worth: caption metrics by the VIST protocol, anchors to read them
against, diversity.

Text in, figures out. A figure can be taken again over any draw of its units (albums, or photo
sequences), so each has an interval. A story is a text, tokenised by spaces; nothing is tokenised or
lower-cased here.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache, partial

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from tqdm import tqdm

from utils.meteor import Meteor, meteor_score
from utils.statistics import Figure, mean, mean_figure
from utils.text import normalise

# papers print them × 100
CAPTION = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE_L", "CIDEr")


# ---------------------------------------------------------------------------------- caption metrics


def ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a list of words, in order, as tuples."""
    return zip(*(words[i:] for i in range(n)))


def closest(length: int, reference_lengths: list[int]) -> int:
    """The reference length closest to a story's, the shorter of two as close."""
    return min(reference_lengths, key=lambda reference: (abs(reference - length), reference))


def bleu(sums: np.ndarray, n: int) -> np.ndarray:
    """BLEU-n of summed [length, closest reference length, n-grams × 4, matched n-grams × 4, …] ->
    (…).

    Papineni et al. 2002, with pycocoevalcap's two small constants.
    """
    precisions = (sums[..., 6 : 6 + n] + 1e-15) / (sums[..., 2 : 2 + n] + 1e-9)
    ratio = (sums[..., 0] + 1e-15) / (sums[..., 1] + 1e-9)
    return precisions.prod(-1) ** (1 / n) * np.exp(np.minimum(0, 1 - 1 / ratio))


def common_length(a: list[str], b: list[str]) -> int:
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


def rouge_l(story: str, references: list[str], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004) of a text, as pycocoevalcap: best precision and best recall, of whichever
    references."""
    words, others = story.split(" "), [reference.split(" ") for reference in references]
    common = [common_length(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others))
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision else 0.0


def document_frequencies(references: list[list[str]]) -> dict:
    """How many units' references hold each n-gram: CIDEr's weights (Vedantam et al. 2015)."""
    scorer = CiderScorer(n=4)
    for told in references:
        scorer += None, told
    scorer.compute_doc_freq()
    return scorer.document_frequency


def unit_rows(
    stories: list[str],
    references: list[list[str]],
    meteor: Meteor | None,
    frequencies: dict | None = None,
) -> dict[str, tuple]:
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


def caption_figures(
    *rounds, protocol: str = "album", meteor: Meteor | None = None
) -> dict[str, Figure]:
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


def leave_one_out(references: dict[str, list[str]]) -> list[tuple[dict, dict]]:
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


def other_album(
    references: dict[str, list[str]], album_of: dict[str, str] | None = None
) -> dict[str, str]:
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


def occurrences(words: list[str]) -> Iterator[tuple]:
    """Each n-gram of 1 to 4 words with how often it has come by then; sets of these match as BLEU
    clips."""
    counts = Counter()
    for n in (1, 2, 3, 4):
        for gram in ngrams(words, n):
            counts[gram] += 1
            yield gram, counts[gram]


def best_constant(references: dict[str, list[str]], shortlist: int = 30) -> str:
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


def has_word(text: str) -> bool:
    """Whether there is a letter or a digit in it."""
    return any(map(str.isalnum, text))


def diversity_figures(stories: list[tuple], training: set[str] | None = None) -> dict[str, Figure]:
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


def numbered(stories: Iterable) -> list[np.ndarray]:
    """The n-grams of each story as numbers, one number for one n-gram: a list of arrays."""
    numbers = {}
    return [
        np.array([numbers.setdefault(gram, len(numbers)) for gram in story], dtype=int)
        for story in stories
    ]


def distinct(
    systems: dict[str, list[tuple]], samples: int = 200, seed: int = 0, tokens: int | None = None
) -> tuple[dict, int]:
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
