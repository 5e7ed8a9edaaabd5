"""Ways to do the same work, timed by turns, and their speeds beside each other and the goals."""

import time

import numpy as np

# (times the reference's speed, share of the limit's) to reach; None: no goal
GOALS = {
    "training, CPU": (6, 0.90),
    "training, GPU": (200, 0.85),
    "greedy": (5, 0.90),
    "beam": (8, 0.90),
    "many": (None, 0.90),
    "preprocessing": (None, 0.90),
    "scoring": (None, 0.85),
}
OURS, COMPILED, REFERENCE, BARE = "ours", "ours, compiled", "reference", "bare GPT-2"


def interleave(ways, setup):
    """Seconds of each way by turns, {name: [one a turn]}, after turn 0 to warm up. ways: {name: a
    function of turn}.

    By turns, so that what slows the machine for a while slows all ways alike.
    """
    seconds = {name: [] for name in ways}
    for turn in range(setup.repetitions + 1):
        for name, way in ways.items():
            setup.wait()
            start = time.perf_counter()
            way(turn)
            setup.wait()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values):
    return {
        "median": float(np.median(values)),
        "min": float(min(values)),
        "max": float(max(values)),
    }


def row(what, unit, seconds, work, goals, ours=OURS):
    """A line of the table. seconds: of `interleave`; work: {way: how many of `unit` it does in a
    call}.

    Ratios are of two ways in the same turn. Of several ways that are neither ours nor the
    reference's, the slowest is the limit: all that they do has to be done.
    """
    rates = {name: work[name] / np.array(times) for name, times in seconds.items()}
    limit = min(
        (n for n in rates if n not in (OURS, COMPILED, REFERENCE)),
        key=lambda n: np.median(rates[n]),
    )
    ratios = {"limit": spread(rates[ours] / rates[limit])}
    if REFERENCE in rates:
        ratios[REFERENCE] = spread(rates[ours] / rates[REFERENCE])
    goals = {
        name: goal
        for name, goal in zip((REFERENCE, "limit"), goals)
        if goal is not None and name in ratios
    }
    return {
        "what": what,
        "unit": unit,
        "seconds": seconds,
        "work": work,
        "ours": ours,
        "limit": limit,
        "goals": goals,
        "rates": {name: spread(of) for name, of in rates.items()},
        "ratios": ratios,
        "met": {name: ratios[name]["median"] >= goal for name, goal in goals.items()},
    }
