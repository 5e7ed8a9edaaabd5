"""Figures with intervals: bootstrap over units, paired differences, t-intervals over seeds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SAMPLES = 1000  # of every bootstrap


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


def mean_over_seeds(values):
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
