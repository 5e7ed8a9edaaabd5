"""Systems' figures as tables on the screen, in Markdown, LaTeX and JSON, and as a figure."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Diagram
from tabulate import tabulate

from utils.files import save_figure, write_json, write_text
from utils.metrics import CAPTION
from utils.statistics import SAMPLES, Figure, interval, paired_difference, separation
from utils.systems import System


@dataclass
class Table:
    """Rows of texts; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    caption: str

    def format(self, style: str) -> str:
        align = ["left", *["right"] * (len(self.columns) - 1)]
        settings = {"tablefmt": style, "colalign": align, "disable_numparse": True}
        return tabulate(self.rows, self.columns, **settings)

    def text(self) -> str:
        return "\n".join([self.title, self.format("simple"), self.caption])

    def markdown(self) -> str:
        rows = [[cell.replace("|", r"\|") for cell in row] for row in self.rows]
        columns = [cell.replace("|", r"\|") for cell in self.columns]
        table = Table(self.title, columns, rows, self.caption).format("pipe")
        return "\n\n".join([f"**{self.title}**", table, self.caption])

    def latex(self) -> str:
        """booktabs; tabulate escapes LaTeX's characters."""
        symbols = {"↓": r"$\downarrow$", "↑": r"$\uparrow$", "−": "$-$", "Δ": r"$\Delta$"}
        caption = tabulate([[f"{self.title}. {self.caption}"]], tablefmt="latex").split("\n")[2]
        caption = caption.removesuffix(r"\\").strip()
        lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        text = "\n".join([*lines, self.format("latex_booktabs"), r"\end{table}"])
        for symbol, command in symbols.items():
            text = text.replace(symbol, command)
        return text


def direction(name: str, systems: list[System]) -> str:
    """Which way is better: down for the model's scores, up for the caption metrics."""
    if any(name in system.scores for system in systems):
        return f"{name} ↓"
    return f"{name} ↑" if name in CAPTION else name


def format_figure(
    name: str, value: float, low: float | None = None, high: float | None = None
) -> str:
    """A figure with its interval; caption metrics × 100, as papers print them."""
    scale, digits = 1, 4
    if name in CAPTION:
        scale, digits = 100, 2
    elif name == "vocabulary":
        digits = 0
    elif "words" in name:
        digits = 2
    if low is None:
        return f"{scale * value:.{digits}f}"
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def with_intervals(figures: dict, seed: int) -> dict[str, tuple]:
    """{name: (value, low, high)} of Figures, or of what is that already."""
    return {
        name: x if isinstance(x, tuple) else (x.value, *interval(x, seed=seed))
        for name, x in figures.items()
    }


def figure_rows(estimates: dict[str, dict], systems: list[System]) -> list[list[str]]:
    """A row per figure, a cell per system."""
    rows = []
    for name in dict.fromkeys(name for figures in estimates.values() for name in figures):
        row = [direction(name, systems)]
        for figures in estimates.values():
            row.append(format_figure(name, *figures[name]) if name in figures else "–")
        rows.append(row)
    return rows


def main_table(
    systems: list[System], baselines: list[System], estimates: dict[str, dict], caption: str
) -> Table:
    shown = [*systems, *baselines]
    blank = [""] * len(baselines)
    albums = [{story["album_id"] for story in system.stories} for system in shown]
    rows = [
        ["stories", *(str(len(system.stories)) for system in shown)],
        ["albums", *(str(len(x)) for x in albums)],
    ]
    if any(system.scores for system in systems):
        photos = []
        for system in systems:
            beats = [beat["photo"] for story in system.stories for beat in story["beats"]]
            found = len(beats) - beats.count(None)
            photos.append(f"{found} of {len(beats)}" if found else "none")
        rows.append(["photos", *photos, *blank])
    for remark in dict.fromkeys(remark for system in systems for remark in +system.remarks):
        counts = [str(system.remarks[remark]) for system in systems]
        rows.append([f"stories {remark}", *counts, *blank])
    columns = ["", *(system.name for system in shown)]
    return Table("Systems", columns, rows + figure_rows(estimates, systems), caption)


def leave_one_out_table(estimates: dict[str, dict]) -> Table:
    caption = (
        "Each story against all of its album's references but one, in turns, as a human story is "
        "against the others; the metrics rise with the number of references, so that these figures "
        "compare and those above do not."
    )
    columns = ["", *estimates]
    return Table("Leave one reference out", columns, figure_rows(estimates, []), caption)


def corruption_table(systems: list[System], separations: dict[str, dict]) -> Table:
    kinds = list(dict.fromkeys(kind for found in separations.values() for kind in found))
    rows = []
    for system in systems:
        found = separations[system.name]
        counts = [
            max((x["stories"] for x in found.get(kind, {}).values()), default=0) for kind in kinds
        ]
        rows.append([f"{system.name}, stories", *map(str, counts)])
        for name in dict.fromkeys(name for scores in found.values() for name in scores):
            row = [f"{system.name}, {name}"]
            for kind in kinds:
                cell = found.get(kind, {}).get(name)
                row.append(format_separation(cell) if cell else "–")
            rows.append(row)
    caption = (
        "AUC (a story scores lower than a corrupted one), its 95 % interval over albums, and "
        "Cohen's d."
    )
    return Table("Corrupted stories", ["", *kinds], rows, caption)


def format_separation(found: dict) -> str:
    low, high = found["interval"]
    return f"{found['auc']:.3f} [{low:.3f}, {high:.3f}] {found['effect']:+.1f}"


def difference_table(systems: list[System], differences: dict[str, dict]) -> Table:
    rows = []
    for name in dict.fromkeys(name for pair in differences.values() for name in pair):
        row = [direction(name, systems)]
        for pair in differences.values():
            cell = "–"
            if found := pair.get(name):
                p = f"p = {found['p']:.3f}" if found["p"] else f"p < {2 / SAMPLES}"
                cell = f"{format_figure(name, found['difference'], *found['interval'])} {p}"
            row.append(cell)
        rows.append(row)
    caption = (
        "Difference on the albums that both have, its 95 % interval and two-sided p by a paired "
        "bootstrap."
    )
    return Table("Paired differences", ["", *differences], rows, caption)


def draw_scores(systems: list[System], scores: list[str], path: str) -> None:
    """Box plots of the scores: of each system's stories, and of the corrupted ones."""
    scores = [name for name in scores if any(system.album_scores(name) for system in systems)]
    kinds = list(dict.fromkeys(kind for system in systems for kind in system.corrupted))
    width = 3 + 0.4 * (len(kinds) + 1) * len(systems)
    figure = Diagram(figsize=(width * len(scores), 5), layout="constrained")
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, name in zip(axes, scores):
        labels, boxes = [], []
        for system in systems:
            groups = {system.name: system.album_scores(name)}
            groups |= {kind: system.corrupted.get(kind, {}).get(name, []) for kind in kinds}
            for label, pairs in groups.items():
                if pairs:
                    labels.append(label.replace("$", r"\$"))
                    boxes.append([score for _, score in pairs])
        axis.boxplot(boxes, tick_labels=labels, showfliers=False)
        axis.tick_params(axis="x", rotation=90)
        axis.set_ylabel(f"{name} (lower is better)")
    save_figure(figure, path)


def compare(a: System, b: System, seed: int) -> dict[str, dict]:
    """{figure: paired_difference} of the Figures that two systems have on the same albums."""
    differences = {}
    for name, figure in a.figures.items():
        other = b.figures.get(name)
        if isinstance(figure, Figure) and isinstance(other, Figure):
            if not set(figure.units).isdisjoint(other.units):
                differences[name] = paired_difference(figure, other, seed=seed)
    return differences


def scores_by_story(system: System) -> list[dict]:
    stories = []
    for i, story in enumerate(system.stories):
        scores = {name: values[i] for name, values in system.scores.items()}
        scores = {name: None if np.isnan(x) else float(x) for name, x in scores.items()}
        stories.append({name: story[name] for name in ("story_id", "album_id")} | scores)
    return stories if system.scores else []


def report(
    systems: list[System], baselines: list[System], caption: str, scores: list[str], settings: dict
) -> None:
    """Print the tables; write settings["output"].json, .md, .tex and .png (of `scores`)."""
    seed, shown = settings["seed"], systems + baselines
    estimates = {x.name: with_intervals(x.figures, seed) for x in shown}
    leave_one_out = {x.name: with_intervals(x.leave_one_out, seed) for x in shown}
    separations = {}
    for system in systems:
        separations[system.name] = found = {}
        for kind, by_score in system.corrupted.items():
            found[kind] = {
                name: separation(system.album_scores(name), pairs, seed)
                for name, pairs in by_score.items()
                if pairs
            }
    pairs = combinations(systems, 2)
    differences = {f"{a.name} − {b.name}": compare(a, b, seed) for a, b in pairs}
    tables = [main_table(systems, baselines, estimates, caption)]
    if any(leave_one_out.values()):
        having = {name: figures for name, figures in leave_one_out.items() if figures}
        tables.append(leave_one_out_table(having))
    if any(separations.values()):
        tables.append(corruption_table(systems, separations))
    if any(differences.values()):
        tables.append(difference_table(systems, differences))
    print("\n\n".join(table.text() for table in tables))

    output = str(Path(settings["output"])).removesuffix(".json")
    results = {
        x.name: {
            "stories": x.path,
            "photos": x.photos_path if x.photos is not None else None,
            "remarks": +x.remarks,
            "figures": estimates[x.name],
            "leave_one_out": leave_one_out[x.name],
            "corruptions": separations.get(x.name, {}),
            "scores": scores_by_story(x),
        }
        for x in shown
    }
    content = {"settings": settings, "caption": caption, "systems": results}
    write_json(f"{output}.json", content | {"differences": differences})
    write_text(f"{output}.md", "\n\n".join(table.markdown() for table in tables))
    write_text(f"{output}.tex", "\n\n".join(table.latex() for table in tables))
    written = ".md, .tex, .json"
    if any(system.scores for system in systems):
        draw_scores(systems, scores, f"{output}.png")
        written += ", .png"
    print(f"\nthe tables, and the scores of each story -> {output}{written}")
