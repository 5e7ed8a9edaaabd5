"""Figures with intervals: bootstrap over units, paired differences, t-intervals over seeds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

SAMPLES = 1000  # of every bootstrap


@dataclass
class Figure:
    """A figure of a corpus that can be computed again for any resample of its units.

    rows (units, rounds, k): what each unit adds to the corpus; the last of the k counts it, 0 where
    a round lacks it. combine: sums of rows (…, k) -> (…). The figure is its mean over rounds,
    weighted by the units they hold. (scipy.stats.bootstrap resamples observations, not sums.)
    """

    units: list[str]
    rows: np.ndarray
    combine: Callable[[np.ndarray], np.ndarray]

    @property
    def value(self) -> float:
        return float(self.compute(self.rows.sum(0)))

    def compute(self, sums: np.ndarray) -> np.ndarray:
        """The figure of summed rows (…, rounds, k) -> (…)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = sums[..., -1]
            weighted = np.where(counts > 0, self.combine(sums) * counts, 0)
            return weighted.sum(-1) / counts.sum(-1)

    def resample(self, counts: np.ndarray) -> np.ndarray:
        """counts (samples, units), how often each unit is in each sample -> (samples,)."""
        return self.compute(np.tensordot(counts, self.rows, 1))

    def group_by(self, group_of: dict[str, str]) -> "Figure":
        """The same figure with groups as its units: group_of {unit: group}."""
        groups = list(dict.fromkeys(group_of[unit] for unit in self.units))
        place = {group: i for i, group in enumerate(groups)}
        rows = np.zeros((len(groups), *self.rows.shape[1:]))
        np.add.at(rows, [place[group_of[unit]] for unit in self.units], self.rows)
        return Figure(groups, rows, self.combine)

    def select(self, units: list[str]) -> "Figure":
        """The same figure over some of its units."""
        place = {unit: i for i, unit in enumerate(self.units)}
        return Figure(list(units), self.rows[[place[unit] for unit in units]], self.combine)


def mean(sums: np.ndarray) -> np.ndarray:
    """(…, [total, count]) -> (…)"""
    return sums[..., 0] / sums[..., -1]


def mean_figure(entries: list[tuple[str, float, float]]) -> Figure:
    """The mean of [(unit, total, count)] as a Figure; a unit may have several entries."""
    units = list(dict.fromkeys(unit for unit, _, _ in entries))
    place = {unit: i for i, unit in enumerate(units)}
    rows = np.zeros((len(units), 1, 2))
    for unit, total, count in entries:
        rows[place[unit], 0] += total, count
    return Figure(units, rows, mean)


def percentile_interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of resampled figures; NaN (of empty stories alone) does not count."""
    if np.isnan(values).all():  # numpy would warn
        return np.nan, np.nan
    return tuple(np.nanpercentile(values, [2.5, 97.5]).tolist())


def bootstrap_counts(units: int, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """(samples, units): how often each unit is in each sample, drawn with replacement."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), samples)


def interval(figure: Figure, samples: int = SAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a figure, by a bootstrap over its units."""
    counts = bootstrap_counts(len(figure.units), samples, seed)
    return percentile_interval(figure.resample(counts))


def paired_difference(a: Figure, b: Figure, samples: int = SAMPLES, seed: int = 0) -> dict:
    """a − b over the units of both, by a paired bootstrap (Koehn 2004): difference, interval,
    two-sided p, units. Raises ValueError where they have no unit in common."""
    common = set(b.units)
    units = [unit for unit in a.units if unit in common]
    if not units:
        raise ValueError("the two figures have no unit in common")
    a, b = a.select(units), b.select(units)
    counts = bootstrap_counts(len(units), samples, seed)
    differences = a.resample(counts) - b.resample(counts)
    differences = differences[np.isfinite(differences)]
    p = 2 * min((differences <= 0).mean(), (differences >= 0).mean())
    return {
        "difference": a.value - b.value,
        "interval": percentile_interval(differences),
        "p": min(1.0, float(p)),
        "units": len(units),
    }


def mean_over_seeds(values: list[float]) -> tuple[float, float, float]:
    """Mean over trainings with other seeds, and its 95 % t-interval; NaN for one alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def separation(
    own: list[tuple[str, float]], corrupted: list[tuple[str, float]], seed: int = 0
) -> dict:
    """How well a score, the lower the better, separates stories from corrupted ones.

    own, corrupted: [(unit, score)]. "auc": the probability that a story of `own` scores lower,
    ties counting half (Mann-Whitney); its 95 % interval by a bootstrap over units; "effect":
    Cohen's d.
    """
    units = list(dict.fromkeys(unit for unit, _ in (*own, *corrupted)))
    place = {unit: i for i, unit in enumerate(units)}
    own_units, corrupted_units = ([place[unit] for unit, _ in x] for x in (own, corrupted))
    a, b = (np.array([score for _, score in x]) for x in (own, corrupted))
    auc = stats.mannwhitneyu(b, a).statistic / (len(a) * len(b))
    wins = np.zeros((len(units), len(units)), dtype=np.float32)
    pairs = (a[:, None] < b) + (a[:, None] == b) / 2
    np.add.at(wins, np.ix_(own_units, corrupted_units), pairs)
    counts = bootstrap_counts(len(units), seed=seed).astype(np.float32)
    totals = counts[:, own_units].sum(1) * counts[:, corrupted_units].sum(1)
    resampled = ((counts @ wins) * counts).sum(1)[totals > 0] / totals[totals > 0]
    deviation = np.sqrt((a.var() + b.var()) / 2)
    return {
        "auc": float(auc),
        "interval": percentile_interval(resampled),
        "effect": float((b.mean() - a.mean()) / deviation) if deviation else 0.0,
        "mean": float(b.mean()),
        "stories": len(corrupted),
    }
