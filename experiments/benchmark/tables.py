"""What was measured, as tables and as a picture."""

from matplotlib.figure import Figure

from experiments.benchmark.measuring import BARE, OURS, REFERENCE, spread
from experiments.benchmark.setup import VIST_STORIES
from utils.files import atomic_write
from utils.report import Table


def cell(of, unit=""):
    return f"{of['median']:.3g}{unit} [{of['min']:.3g}, {of['max']:.3g}]"


def main_table(rows):
    def cells(line):
        ways = (REFERENCE, line["limit"], line["ours"])
        rates = [
            f"{line['rates'][way]['median']:.3g}" if way in line["rates"] else "–" for way in ways
        ]
        ratios = [
            cell(line["ratios"][by], " x") if by in line["ratios"] else "–"
            for by in (REFERENCE, "limit")
        ]
        goals = " and ".join(
            f"≥ {goal:.3g} {'x' if by == REFERENCE else 'of the limit'}"
            for by, goal in line["goals"].items()
        )
        return [
            f"{line['what']} ({line['unit']}/s)",
            *rates,
            *ratios,
            goals,
            met(all(line["met"].values())),
        ]

    columns = ["", "reference", "limit", "ours", "ours / reference", "ours / limit", "goal", "met"]
    limits = dict.fromkeys(f"{line['what'].split(',')[0]}: {line['limit']}" for line in rows)
    return Table(
        "Speed, side by side",
        columns,
        [cells(line) for line in rows],
        f"Medians [least, most] over repetitions by turns. The limits: {'; '.join(limits)}.",
    )


def met(yes):
    return "yes" if yes else "no"


def profile_table(training):
    profile = dict(training["profile"])
    whole = profile.pop("whole step")["median"]
    left = whole - sum(of["median"] for of in profile.values())
    shown = {name: of["median"] for name, of in profile.items()} | {
        "unexplained": left,
        "whole step": whole,
    }
    rows = [[name, f"{1000 * s:.1f}", f"{s / whole:.1%}"] for name, s in shown.items()]
    flops = training["flop_utilisation"]
    caption = (
        f"{training['padding']:.1%} of the positions are padding. "
        f"{training['tokens_per_second']:.0f} tokens/s, "
        f"{training['flops_per_second'] / 1e9:.0f} GFLOP/s"
        + (f", {flops:.1%} of the GPU's peak" if flops else "")
        + f"; an epoch over {VIST_STORIES:,} stories at this rate: "
        f"{training['epoch_seconds'] / 3600:.2f} h."
    )
    return Table(
        "Where a training step's time goes",
        ["forward and backward of", "ms", "share"],
        rows,
        caption,
    )


def memory_table(memory):
    gib = lambda bytes: "–" if bytes is None else f"{bytes / 2**30:.2f}"
    rows = []
    for of in memory["peaks"]:
        ours, bare = of[OURS], of[BARE]
        ratio = f"{ours / bare:.2f}" if ours and bare else "–"
        rows.append(
            [f"{of['batch_size']} stories of {of['beats']} beats", gib(bare), gib(ours), ratio]
        )
    held = "; ".join(
        f"{int(n):,} stories {b / 1e6:.0f} MB"
        for n, b in memory["stories"].items()
        if b is not None
    )
    caption = (
        "GiB beyond what the imports take; – where the memory did not suffice. Words of a data "
        f"set: {held}."
    )
    return Table(
        "Peak memory of a training step", ["batch", BARE, "ours", "ours / bare"], rows, caption
    )


def startup_table(startup):
    rows = [[name, cell(spread(of)), "", ""] for name, of in startup["seconds"].items()]
    rows += [
        None,
        *(
            [name, cell(of), f"≤ {of['goal']:g}", met(of["met"])]
            for name, of in startup["goals"].items()
        ),
    ]
    return Table("Start-up, seconds", ["", "median", "goal", "met"], rows, "Median [least, most].")


def draw(rows, path):
    """Bars of our speed by the limit's and by the reference's, with their spread and the goals."""
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, by, start in zip(axes, ("limit", REFERENCE), (0, 1)):  # a logarithmic bar has no zero
        for at, line in enumerate(rows):
            if by in line["ratios"]:
                of = line["ratios"][by]
                axis.barh(at, of["median"] - start, left=start, color="C0", alpha=0.7)
                axis.plot([of["min"], of["max"]], [at, at], color="black", lw=1)
            if by in line["goals"]:
                axis.plot([line["goals"][by]] * 2, [at - 0.4, at + 0.4], color="C3", lw=2)
        axis.axvline(1, color="grey", lw=1)
        axis.set(xlabel=f"our speed / the {by}'s (red: goal)")
    axes[1].set_xscale("log")
    axes[0].set_yticks(range(len(rows)), [line["what"] for line in rows])
    axes[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def tables(rows, found):
    tables = [main_table(rows)] if rows else []
    for part, table in (
        ("training", profile_table),
        ("memory", memory_table),
        ("startup", startup_table),
    ):
        if part in found:
            tables.append(table(found[part]))
    return tables
