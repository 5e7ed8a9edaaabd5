"""Figures with intervals: bootstrap over units, paired differences, t-intervals over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

SAMPLES = 1000  # of every bootstrap


def group_units(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The different names in order, and the place of each of `names` among them."""
    place = {}
    indices = [place.setdefault(name, len(place)) for name in names]
    return list(place), indices


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

    @classmethod
    def from_rows(cls, names: Sequence[str], rows: np.ndarray, combine: Callable) -> "Figure":
        """rows (n, rounds, k) of the units `names` (n); those of one unit are added up."""
        units, indices = group_units(names)
        sums = np.zeros((len(units), *rows.shape[1:]))
        np.add.at(sums, indices, rows)
        return cls(units, sums, combine)

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

    def select(self, units: list[str]) -> "Figure":
        """The same figure over some of its units."""
        place = {unit: i for i, unit in enumerate(self.units)}
        return Figure(units, self.rows[[place[unit] for unit in units]], self.combine)


def mean(sums: np.ndarray) -> np.ndarray:
    """(…, [total, count]) -> (…)"""
    return sums[..., 0] / sums[..., -1]


def mean_figure(entries: list[tuple[str, float, float]]) -> Figure:
    """The mean of [(unit, total, count)] as a Figure; a unit may have several entries."""
    names, *columns = zip(*entries)
    return Figure.from_rows(names, np.stack(columns, -1)[:, None], mean)


def median(
    entries: list[tuple[str, float]], samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """The median of [(unit, value)], and its 95 % percentile interval by a bootstrap over units."""
    names, values = zip(*entries)
    units, indices = group_units(names)
    counts = bootstrap_counts(len(units), samples, seed)[:, indices]
    drawn = [np.median(np.repeat(values, times)) for times in counts]
    return float(np.median(values)), *percentile_interval(np.array(drawn))


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
    two-sided p, units; nothing where they have no unit in common."""
    common = set(b.units)
    units = [unit for unit in a.units if unit in common]
    if not units:
        return {}
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
    names, scores = zip(*own, *corrupted)
    units, indices = group_units(names)
    (a, b), (a_units, b_units) = (np.split(x, [len(own)]) for x in (scores, indices))
    lower = (a[:, None] < b) + (a[:, None] == b) / 2
    counts = bootstrap_counts(len(units), seed=seed).astype(np.float32)
    a_counts, b_counts = counts[:, a_units], counts[:, b_units]
    wins = ((a_counts @ lower.astype(np.float32)) * b_counts).sum(1)
    with np.errstate(invalid="ignore"):  # NaN of a sample without pairs
        resampled = wins / (a_counts.sum(1) * b_counts.sum(1))
    deviation = np.sqrt((a.var() + b.var()) / 2)
    return {
        "auc": float(lower.mean()),
        "interval": percentile_interval(resampled),
        "effect": float((b.mean() - a.mean()) / deviation) if deviation else 0.0,
        "mean": float(b.mean()),
        "stories": len(corrupted),
    }
