"""Systems' figures as tables on the screen, in Markdown, LaTeX and JSON, and as a figure."""

import textwrap
import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from matplotlib.figure import Figure as Diagram
from tabulate import LATEX_ESCAPE_RULES, tabulate

from utils.cli import SCORE_NAMES
from utils.files import save_figure, write_json, write_text
from utils.metrics import CAPTION
from utils.statistics import SAMPLES, Figure, interval, paired_difference, separation
from utils.systems import System

LATEX_SYMBOLS = {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": "$-$", "Δ": r"$\Delta$"}
LEAVE_ONE_OUT = (
    "Each story against all of its album's references but one, in turns, as a human story is "
    "against the others; the metrics rise with the number of references, so that these figures "
    "compare and those above do not."
)
CORRUPTED = (
    "AUC (a story scores lower than a corrupted one), its 95 % interval over albums, and Cohen's d."
)
DIFFERENCES = (
    "Difference on the albums that both have, its 95 % interval and two-sided p by a paired "
    "bootstrap."
)


@dataclass
class Table:
    """Rows of texts; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str

    @classmethod
    def from_columns(cls, title: str, columns: dict[str, dict[str, str]], caption: str) -> "Table":
        """{column: {row: cell}}; "–" where a column lacks a row."""
        names = dict.fromkeys(name for cells in columns.values() for name in cells)
        rows = [[name, *(cells.get(name, "–") for cells in columns.values())] for name in names]
        return cls(title, ["", *columns], rows, caption)

    def format(self, style: str) -> str:
        rows = [self.columns, *self.rows]
        if style == "pipe":
            rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
        align = ["left", *["right"] * (len(self.columns) - 1)]
        settings = {"tablefmt": style, "colalign": align, "disable_numparse": True}
        return tabulate(rows, headers="firstrow", **settings)

    def text(self) -> str:
        return "\n".join([self.title, self.format("simple"), self.caption])

    def markdown(self) -> str:
        return "\n\n".join([f"**{self.title}**", self.format("pipe"), self.caption])

    def latex(self) -> str:
        """booktabs; tabulate escapes LaTeX's characters."""
        caption = f"{self.title}. {self.caption}".translate(str.maketrans(LATEX_ESCAPE_RULES))
        begin = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        text = "\n".join([*begin, self.format("latex_booktabs"), r"\end{table}"])
        return text.translate(str.maketrans(LATEX_SYMBOLS))


def direction(name: str) -> str:
    """Which way is better: down for the model's scores, up for the caption metrics."""
    if name.startswith(SCORE_NAMES):
        return f"{name} ↓"
    return f"{name} ↑" if name in CAPTION else name


def format_figure(name: str, *values: float) -> str:
    """A figure with its interval; caption metrics × 100, as papers print them."""
    scale, digits = 1, 4
    if name in CAPTION:
        scale, digits = 100, 2
    elif name == "vocabulary":
        digits = 0
    elif "words" in name:
        digits = 2
    value, low, high = (f"{scale * x:.{digits}f}" for x in values)
    return f"{value} [{low}, {high}]"


def format_figures(estimates: dict[str, tuple]) -> dict[str, str]:
    """The cells of a system's figures."""
    return {direction(name): format_figure(name, *x) for name, x in estimates.items()}


def format_separation(found: dict) -> str:
    low, high = found["interval"]
    return f"{found['auc']:.3f} [{low:.3f}, {high:.3f}] {found['effect']:+.1f}"


def format_difference(name: str, found: dict) -> str:
    p = f"p = {found['p']:.3f}" if found["p"] else f"p < {2 / SAMPLES}"
    return f"{format_figure(name, found['difference'], *found['interval'])} {p}"


def with_intervals(figures: dict, seed: int) -> dict[str, tuple]:
    """{name: (value, low, high)} of Figures, or of what is that already."""
    return {
        name: (x.value, *interval(x, seed=seed)) if isinstance(x, Figure) else x
        for name, x in figures.items()
    }


def main_cells(system: System, remarks: list[str]) -> dict[str, str]:
    """What the main table says of a system before its figures."""
    albums = {story["album_id"] for story in system.stories}
    cells = {"stories": str(len(system.stories)), "albums": str(len(albums))}
    if system.scores:
        beats = [beat["photo"] for story in system.stories for beat in story["beats"]]
        found = len(beats) - beats.count(None)
        cells["photos"] = f"{found} of {len(beats)}" if found else "none"
    return cells | {f"stories {remark}": str(system.remarks[remark]) for remark in remarks}


def draw_scores(systems: list[System], path: str) -> None:
    """Box plots of the scores: of each system's stories, and of the corrupted ones."""
    shown = [x for system in systems for x in (system, *system.corrupted.values())]
    labels = [textwrap.fill(x.name, 30).replace("$", r"\$") for x in shown]
    lines = max(label.count("\n") + 1 for label in labels)
    names = [name for name in SCORE_NAMES if any(x.album_scores(name) for x in shown)]
    size = 3 + 3 * len(names), 1 + 0.3 * lines * len(labels)
    figure = Diagram(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names):
        boxes = [[score for _, score in x.album_scores(name)] for x in shown]
        axis.boxplot(boxes, orientation="horizontal", manage_ticks=False, showfliers=False)
        axis.set_xlabel(f"{name}\n(lower is better)")
    axes[0].set_yticks(range(1, len(labels) + 1), labels)
    axes[0].invert_yaxis()
    with warnings.catch_warnings(action="ignore"):  # of letters that the font lacks
        save_figure(figure, path)


def compare(a: System, b: System, seed: int) -> dict[str, dict]:
    """{figure: paired_difference} of the Figures that two systems have on the same albums."""
    differences = {}
    for name, figure in a.figures.items():
        other = b.figures.get(name)
        if isinstance(figure, Figure) and isinstance(other, Figure):
            differences[name] = paired_difference(figure, other, seed=seed)
    return {name: found for name, found in differences.items() if found}


def scores_by_story(system: System) -> list[dict]:
    scores = {name: np.where(np.isnan(x), None, x).tolist() for name, x in system.scores.items()}
    return [
        {"story_id": story["story_id"], "album_id": story["album_id"]}
        | {name: values[i] for name, values in scores.items()}
        for i, story in enumerate(system.stories)
        if scores
    ]


def report(systems: list[System], baselines: list[System], caption: str, settings: dict) -> None:
    """Print the tables; write settings["output"].json, .md, .tex and .png."""
    seed, output = settings["seed"], settings["output"]
    remarks = list(dict.fromkeys(remark for system in systems for remark in +system.remarks))
    results, main, leave_one_out, corrupted = {}, {}, {}, {}
    for system in systems + baselines:
        estimates = with_intervals(system.figures, seed)
        one_out = with_intervals(system.leave_one_out, seed)
        cells = main_cells(system, remarks if system in systems else [])
        main[system.name] = cells | format_figures(estimates)
        if one_out:
            leave_one_out[system.name] = format_figures(one_out)
        separations = {}
        for kind, other in system.corrupted.items():
            separations[kind] = found = {
                name: separation(system.album_scores(name), pairs, seed)
                for name in system.scores
                if (pairs := other.album_scores(name))
            }
            cells = corrupted.setdefault(kind, {})
            cells[f"{system.name}, stories"] = str(len(other.stories))
            for name, x in found.items():
                cells[f"{system.name}, {name}"] = format_separation(x)
        results[system.name] = {
            "stories": system.path,
            "photos": system.photos_path if system.photos is not None else None,
            "remarks": +system.remarks,
            "figures": estimates,
            "leave_one_out": one_out,
            "corruptions": separations,
            "scores": scores_by_story(system),
        }
    differences, compared = {}, {}
    for a, b in combinations(systems, 2):
        pair = f"{a.name} − {b.name}"
        differences[pair] = found = compare(a, b, seed)
        compared[pair] = {direction(name): format_difference(name, x) for name, x in found.items()}
    tables = [Table.from_columns("Systems", main, caption)]
    if leave_one_out:
        tables.append(Table.from_columns("Leave one reference out", leave_one_out, LEAVE_ONE_OUT))
    if corrupted:
        tables.append(Table.from_columns("Corrupted stories", corrupted, CORRUPTED))
    if any(compared.values()):
        tables.append(Table.from_columns("Paired differences", compared, DIFFERENCES))
    print("\n\n".join(map(Table.text, tables)))
    content = {"settings": settings, "caption": caption, "systems": results}
    write_json(f"{output}.json", content | {"differences": differences})
    write_text(f"{output}.md", "\n\n".join(map(Table.markdown, tables)))
    write_text(f"{output}.tex", "\n\n".join(map(Table.latex, tables)))
    written = ".md, .tex, .json"
    if any(system.scores for system in systems):
        draw_scores(systems, f"{output}.png")
        written += ", .png"
    print(f"\nthe tables, and the scores of each story -> {output}{written}")
