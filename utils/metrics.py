"""Caption metrics by the VIST protocol, baselines to compare them with, diversity.

Every figure can be computed again for any resample of its units (albums, or sequences of photos),
so that it has an interval. A story is a text, tokenised by spaces.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache, partial
from itertools import count

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test, precook
from pycocoevalcap.cider.cider_scorer import CiderScorer
from tqdm import tqdm

from utils.meteor import Meteor, meteor_score
from utils.statistics import Figure, mean, mean_figure
from utils.text import has_words, normalise, split_sentences

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


# {metric: its figure of summed rows}
BLEU = {f"BLEU-{n}": partial(bleu, n=n) for n in (1, 2, 3, 4)}
CAPTION = BLEU | {"METEOR": meteor_score, "ROUGE_L": mean, "CIDEr": mean}


def unit_rows(
    stories: Texts, references: References, meteor: Meteor | None, frequencies: dict
) -> dict[str, np.ndarray]:
    """What each unit's story adds to each metric of CAPTION: rows (units, k).

    frequencies: CIDEr's, of all references.
    """
    scorer = CiderScorer()
    for unit, texts in references.items():  # all: their number is a part of CIDEr
        scorer += stories.get(unit, ""), texts
    scorer.document_frequency = frequencies
    cider = dict(zip(references, scorer.compute_cider()))
    rows = defaultdict(list)
    for unit, story in tqdm(stories.items(), unit="story", desc="captions", leave=False):
        texts = references[unit]
        counts = cook_test(story, cook_refs(texts), eff="closest")
        bleu_row = [counts["testlen"], counts["reflen"], *counts["guess"], *counts["correct"], 1]
        for name in BLEU:
            rows[name].append(bleu_row)
        if meteor:
            rows["METEOR"].append([*meteor.statistics(story, texts), 1])
        rows["ROUGE_L"].append([rouge_l(story, texts), 1])
        rows["CIDEr"].append([cider[unit], 1])
    return {name: np.array(x, dtype=float) for name, x in rows.items()}


def caption_figures(
    *rounds: tuple[Texts, References], protocol: str = "album", meteor: Meteor | None = None
) -> dict[str, Figure]:
    """BLEU-1 to 4, METEOR (with a Meteor), ROUGE_L and CIDEr by one of PROTOCOLS.

    rounds: one for a system; several where a unit has several stories (leave_one_out), and the
    figure is the mean over rounds. CIDEr's document frequencies are those of all the round's
    references, of units without a story too. Raises ValueError where there is no story, or one
    without references.
    """
    units, rows, combine = [], defaultdict(list), CAPTION
    if protocol != "album":
        combine = dict.fromkeys(CAPTION, mean)
    for number, (stories, references) in enumerate(rounds):
        if not stories or not all(references.get(unit) for unit in stories):
            raise ValueError("expected stories, and references of the same units")
        units += stories
        attempts = [references]
        if protocol == "sequence":  # against each reference by itself, the best one counts
            most = max(map(len, references.values()))  # where there are fewer: again
            attempts = [
                {unit: [x[i % len(x)]] for unit, x in references.items()} for i in range(most)
            ]
        frequencies = document_frequencies(references)
        attempts = [unit_rows(stories, attempt, meteor, frequencies) for attempt in attempts]
        for name, added in attempts[0].items():
            if protocol != "album":
                best = np.max([CAPTION[name](attempt[name]) for attempt in attempts], axis=0)
                added = np.stack([best, np.ones(len(best))], 1)
            by_round = np.zeros((len(added), len(rounds), added.shape[1]))
            by_round[:, number] = added
            rows[name].append(by_round)
    return {
        name: Figure.from_rows(units, np.concatenate(x), combine[name]) for name, x in rows.items()
    }


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
    first = {}
    for unit in sorted(references):
        first.setdefault(album_of[unit], references[unit][0])
    if len(first) < 2:
        return {}
    stories = list(first.values())
    borrowed = dict(zip(first, stories[1:] + stories[:1]))
    return {unit: borrowed[album_of[unit]] for unit in sorted(references)}


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
        sentences.update(filter(has_words, split_sentences(text)))
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
        entries["words per story"].append((unit, sum(map(has_words, text.split())), 1))
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
    if not 0 < tokens <= sum(map(len, words)):
        return {}
    numbers = defaultdict(count().__next__)  # of each n-gram
    grams = [[[numbers[x] for x in ngrams(story, n)] for n in (1, 2, 3)] for story in words]
    rng, figures = np.random.default_rng(seed), []
    for _ in range(samples):
        # Without replacement: a bootstrap's doubled stories would count as repetition, and half of
        # the units, so drawn, vary as a bootstrap of all does.
        sample, room = ([], [], []), tokens
        for i in rng.permutation(len(words)).argsort():
            for n, of_story in enumerate(grams[i]):
                sample[n].extend(of_story[: max(0, room - n)])  # the last story is cut
            room -= len(words[i])
            if room <= 0:
                break
        shares = [len(set(x)) / max(1, len(x)) for x in sample]
        figures.append([*shares, len(set(sample[0]))])
    low, high = np.percentile(figures, [2.5, 97.5], axis=0).tolist()
    names = ("distinct-1", "distinct-2", "distinct-3", "vocabulary")
    return dict(zip(names, zip(np.mean(figures, 0).tolist(), low, high)))


def ngrams(words: list[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)))
