"""What was found out about systems, as tables on the screen, in Markdown, LaTeX and JSON, and as a
picture."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure

from utils import metrics, statistics
from utils.files import atomic_write, write_json, write_text
from utils.statistics import SAMPLES, interval, paired, separation


@dataclass
class Table:
    """A title, the columns' names (that of the first is the rows'), rows of texts (None: a line),
    and what it means."""

    title: str
    columns: list
    rows: list
    caption: str

    def text(self):
        widths = [
            max(len(row[i]) for row in (self.columns, *filter(None, self.rows)))
            for i in range(len(self.columns))
        ]
        lines = [self.title]
        for row in (self.columns, *self.rows):
            cells = row or ["─" * width for width in widths]
            padded = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
            lines.append("  ".join([cells[0].ljust(widths[0]), *padded]).rstrip())
        return "\n".join([*lines, self.caption])

    def markdown(self):
        head, *body = (
            "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"
            for row in (self.columns, *filter(None, self.rows))
        )
        line = "|".join(["", " --- ", *(" ---: " for _ in self.columns[1:]), ""])
        return "\n".join([f"**{self.title}**", "", head, line, *body, "", self.caption])

    def latex(self):
        body = [" & ".join(map(latex, row)) + r" \\" if row else r"\midrule" for row in self.rows]
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.title + '. ' + self.caption)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\toprule",
                " & ".join(map(latex, self.columns)) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )


def latex(text):
    """Text for LaTeX (booktabs), its special characters escaped."""
    signs = {
        "\\": r"\textbackslash{}",
        "↓": r"$\downarrow$",
        "↑": r"$\uparrow$",
        "−": "$-$",
        "Δ": r"$\Delta$",
    }
    signs |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    return "".join(signs.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)


def arrow(name, systems):
    """Which way is better, where that is plain: down for the model's scores, up for the caption
    metrics."""
    return (
        " ↓"
        if any(name in system.scores for system in systems)
        else " ↑"
        if name in metrics.CAPTION
        else ""
    )


def shown(name, value, low=None, high=None):
    """A figure as a cell: in the field's units, with its interval."""
    scale, digits = (
        (100, 2)
        if name in metrics.CAPTION
        else (1, 0 if name == "vocabulary" else 2 if "words" in name else 4)
    )
    cell = f"{scale * value:.{digits}f}"
    return cell if low is None else f"{cell} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def estimated(figures, seed):
    """{name: (value, low, high)} of metrics.Figures, or of what is that already."""
    return {
        name: figure if isinstance(figure, tuple) else (figure.value, *interval(figure, seed=seed))
        for name, figure in figures.items()
    }


def main_table(systems, anchors, estimates, caption):
    shown_systems = [*systems, *anchors]
    rows = [
        ["stories", *(str(len(system.stories)) for system in shown_systems)],
        [
            "albums",
            *(
                str(len({story["album_id"] for story in system.stories}))
                for system in shown_systems
            ),
        ],
    ]
    if any(system.scores for system in systems):
        beats = [[beat["photo"] for story in s.stories for beat in story["beats"]] for s in systems]
        photos = [
            f"{len(rows) - rows.count(None)} of {len(rows)}"
            if any(row is not None for row in rows)
            else "none"
            for rows in beats
        ]
        rows.append(["photos", *photos, *("" for _ in anchors)])
    for remark in dict.fromkeys(remark for system in systems for remark in +system.remarks):
        rows.append(
            [
                f"stories {remark}",
                *(str(system.remarks[remark]) for system in systems),
                *("" for _ in anchors),
            ]
        )
    rows.append(None)
    for name in dict.fromkeys(name for system in shown_systems for name in estimates[system.name]):
        cells = [estimates[system.name].get(name) for system in shown_systems]
        rows.append(
            [name + arrow(name, systems), *(shown(name, *cell) if cell else "–" for cell in cells)]
        )
    return Table("Systems", ["", *(system.name for system in shown_systems)], rows, caption)


def leave_one_out_table(estimates):
    """estimates: {system: {caption metric: (value, low, high)}}."""
    names = dict.fromkeys(name for of in estimates.values() for name in of)
    rows = [[name + " ↑", *(shown(name, *of[name]) for of in estimates.values())] for name in names]
    caption = (
        "Each story against all of its album's references but one, by turns, as a human story is "
        "against the others; "
        "the metrics rise with the number of references, so that these figures compare and those "
        "above do not."
    )
    return Table("On equal terms with human stories", ["", *estimates], rows, caption)


def control_table(systems, separations):
    kinds = dict.fromkeys(kind for system in systems for kind in separations[system.name])
    rows = []
    for system in systems:
        found = separations[system.name]
        counts = [
            str(max((of["stories"] for of in found.get(kind, {}).values()), default=0))
            for kind in kinds
        ]
        rows.append([f"{system.name}, stories", *counts])
        for name in dict.fromkeys(name for of_kind in found.values() for name in of_kind):
            cells = [found.get(kind, {}).get(name) for kind in kinds]
            rows.append([f"{system.name}, {name}", *(of and separated(of) or "–" for of in cells)])
        rows.append(None)
    caption = (
        "AUC (a story scores lower than one told wrongly), its 95 % interval over albums, and "
        "Cohen's d."
    )
    return Table("Controls: the same stories told wrongly", ["", *kinds], rows[:-1], caption)


def separated(found):
    low, high = found["interval"]
    return f"{found['auc']:.3f} [{low:.3f}, {high:.3f}] {found['effect']:+.1f}"


def difference_table(systems, differences):
    names = list(dict.fromkeys(name for of_pair in differences.values() for name in of_pair))
    rows = []
    for name in names:
        cells = []
        for found in (of_pair.get(name) for of_pair in differences.values()):
            p = found and (f"p < {2 / SAMPLES}" if found["p"] == 0 else f"p = {found['p']:.3f}")
            cells.append(
                f"{shown(name, found['difference'], *found['interval'])} {p}" if found else "–"
            )
        rows.append([name + arrow(name, systems), *cells])
    caption = (
        "Difference on the albums that both have, its 95 % interval and two-sided p by a paired "
        "bootstrap."
    )
    return Table("Which differences hold", ["", *differences], rows, caption)


def draw_scores(systems, scores, path):
    """Violins of the scores that a system has: of each system and of its controls."""
    scores = [name for name in scores if any(system.albums_and(name) for system in systems)]
    kinds = ["as told", *dict.fromkeys(kind for system in systems for kind in system.wrong)]
    columns = min(2, len(scores))
    width = columns * (1.5 + 0.4 * len(kinds) * len(systems))
    figure = Figure(figsize=(width, 6), layout="constrained")
    axes = figure.subplots(-(-len(scores) // columns), columns, squeeze=False)
    for axis in axes.flat[len(scores) :]:
        axis.remove()
    for axis, name in zip(axes.flat, scores):
        for i, system in enumerate(systems):
            for k, kind in enumerate(kinds):
                pairs = (
                    system.albums_and(name) if k == 0 else system.wrong.get(kind, {}).get(name, [])
                )
                if not pairs:
                    continue
                values = [score for _, score in pairs]
                at, colour = i * (len(kinds) + 1) + k, f"C{k}"
                if np.ptp(values) > 0:
                    body = axis.violinplot(values, [at], widths=0.9, showextrema=False, points=200)[
                        "bodies"
                    ][0]
                    body.set(facecolor=colour, alpha=0.5)
                axis.plot(at, np.median(values), "o", color=colour, ms=5, label=kind)
        middle = (len(kinds) - 1) / 2
        axis.set_xticks(
            [i * (len(kinds) + 1) + middle for i in range(len(systems))],
            [s.name.replace("$", r"\$") for s in systems],
        )
        axis.set(ylabel=f"{name} (lower is better)")
    handles = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels())
    }
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=len(kinds), frameon=False
    )
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)


def report(systems, anchors, caption, drawn, settings):
    """Print the tables; write settings["output"].json, .md, .tex and .png.

    systems, anchors: CDE_score.Systems, whose figures, scores and controls are there; caption: what
    the tables need to be read; drawn: the scores in the picture, if the systems have any; settings:
    what it all was made with.
    """
    seed = settings["seed"]
    estimates = {s.name: estimated(s.figures, seed) for s in systems + anchors}
    equal_terms = {s.name: estimated(s.equal_terms, seed) for s in systems + anchors}
    separations = {
        s.name: {
            kind: {
                name: separation(s.albums_and(name), told, seed)
                for name, told in wrong.items()
                if told
            }
            for kind, wrong in s.wrong.items()
        }
        for s in systems
    }
    differences = {f"{a.name} − {b.name}": compare(a, b, seed) for a, b in combinations(systems, 2)}
    tables = [main_table(systems, anchors, estimates, caption)]
    if any(equal_terms.values()):
        tables.append(leave_one_out_table({name: of for name, of in equal_terms.items() if of}))
    if any(separations.values()):
        tables.append(control_table(systems, separations))
    if any(differences.values()):
        tables.append(difference_table(systems, differences))
    print("\n\n".join(table.text() for table in tables))

    output = settings["output"].removesuffix(".json")
    found = {
        system.name: {
            "stories": system.path,
            "photos": system.where if system.photos is not None else None,
            "remarks": +system.remarks,
            "figures": estimates[system.name],
            "equal_terms": equal_terms[system.name],
            "controls": separations.get(system.name, {}),
            "scores": by_story(system),
        }
        for system in systems + anchors
    }
    write_json(
        f"{output}.json",
        {"settings": settings, "caption": caption, "systems": found, "differences": differences},
    )
    for suffix, text in (("md", Table.markdown), ("tex", Table.latex)):
        write_text(f"{output}.{suffix}", "\n\n".join(map(text, tables)))
    written = ".md, .tex, .json"
    if any(system.scores for system in systems):
        draw_scores(systems, drawn, f"{output}.png")
        written += ", .png"
    print(f"\nthe tables, the score of each story -> {output}{written}")


def compare(a, b, seed):
    """{figure: metrics.paired} of the figures that two systems have of some of the same albums."""
    both = {name: (figure, b.figures.get(name)) for name, figure in a.figures.items()}
    both = {
        name: pair
        for name, pair in both.items()
        if all(isinstance(figure, statistics.Figure) for figure in pair)
    }
    shared = {
        name: pair
        for name, pair in both.items()
        if not set(pair[0].units).isdisjoint(pair[1].units)
    }
    return {name: paired(*pair, seed=seed) for name, pair in shared.items()}


def by_story(system):
    scores = {
        name: [None if np.isnan(x) else float(x) for x in values]
        for name, values in system.scores.items()
    }
    return [
        {"story_id": story["story_id"], "album_id": story["album_id"]} | dict(zip(scores, values))
        for story, values in zip(system.stories, zip(*scores.values()))
    ]
