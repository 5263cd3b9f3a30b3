"""Figures of a document as PNG, SVG and PDF for papers, the same bytes each time. Imports no torch."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from fgcli.files import make_folder
from fgcli.report.document import Document, Figure, Panel, Series
from fgcli.report.drawing import Scale, vertical_scale
from fgcli.report.figure_file import FORMATS, library_defaults, plain_text, save_figure
from fgcli.report.sparkline import LONGEST
from fgcli.runs.run_directory import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Canvas

# Those of the page, dark enough for paper; told apart by marker, too.
COLORS = ("#0868ac", "#c2410c", "#0f766e", "#9d3f8c", "#8a6a00", "#4b5563", "#2f8fd3", "#b4235a")
MARKERS = ("o", "s", "^", "D")
FILLS: tuple[Literal["full", "none", "left", "bottom"], ...] = ("full", "none", "left", "bottom")
"""Of a point alone, which has no dashes that tell it from another."""
MANY = 20  # points from which markers would hide the line


@library_defaults()
def draw_all(document: Document, folder: Path) -> int:
    """Write each figure, numbered, in every format; returns how many figures there are."""
    figures = [item for item in document.items if isinstance(item, Figure)]
    make_folder(folder, "--figures")
    for number, figure in enumerate(figures, start=1):
        canvas = _draw(figure)
        for suffix in FORMATS:
            save_figure(canvas, folder / f"{number:02d}-{slug(figure.title)[:60].lower()}{suffix}", "--figures")
    return len(figures)


def _draw(figure: Figure) -> "Canvas":
    from matplotlib.figure import Figure as Canvas

    columns = min(2, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    canvas = Canvas(figsize=(2.4 + 3.6 * columns, 0.4 + 2.8 * rows), layout="constrained")
    axes = list(canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axis, panel in zip(axes, figure.panels, strict=False):
        _panel(axis, figure, panel)
    for axis in axes[len(figure.panels) :]:
        axis.set_visible(False)
    canvas.suptitle(plain_text(figure.title), fontsize="medium")
    _legend(canvas, axes)
    return canvas


def _legend(canvas: "Canvas", axes: "list[Axes]") -> None:
    """One for all panels, beside them."""
    found = [entry for axis in axes for entry in zip(*axis.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(found)}
    if handles:
        labels = list(dict.fromkeys(label for _, label in found))
        legend = canvas.legend([handles[label] for label in labels], labels, loc="outside right center", frameon=False)
        needed = legend.get_window_extent().height / canvas.dpi  # inches
        canvas.set_figheight(max(canvas.get_figheight(), needed))


def _name(figure: Figure, series: Series) -> str:
    """Of a line, in all panels; with what it lacks in those where it is drawn, if it is in any."""
    lines = [(panel.title, one) for panel in figure.panels for one in panel.series if one.name == series.name]
    lacking = {title: one.incomplete for title, one in [line for line in lines if line[1].points] or lines}
    alike = len(set(lacking.values())) == 1
    said = "; ".join(dict.fromkeys(text if alike else f"{title}: {text}" for title, text in lacking.items() if text))
    return plain_text("\n".join(wrap(series.name, LONGEST) + ([f"({said})"] if said else [])))


def _panel(axis: "Axes", figure: Figure, panel: Panel) -> None:
    for series in panel.series:
        color, marker = COLORS[series.style % len(COLORS)], MARKERS[series.style % len(MARKERS)]
        x, y = [point.x for point in series.points], [point.y.mean * figure.y.quantity.scale for point in series.points]
        ends = [point.y.ends or (point.y.mean, point.y.mean) for point in series.points]
        axis.plot(
            x,
            y,
            color=color,
            marker=marker if len(x) < MANY else None,
            markersize=4,
            linewidth=1.5,
            linestyle="--" if series.style >= len(COLORS) else "-",
            fillstyle=FILLS[series.style // len(COLORS) % len(FILLS)] if len(x) == 1 else "full",
            markerfacecoloralt="white",
            label=_name(figure, series),
        )
        low, high = ([pair[side] * figure.y.quantity.scale for pair in ends] for side in (0, 1))
        if len(x) == 1:
            axis.vlines(x, low, high, color=color, alpha=0.18, linewidth=8)
        else:
            axis.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
        if series.published:
            px, py = zip(*series.published, strict=True)
            py = [one * figure.y.quantity.scale for one in py]
            axis.plot(px, py, color=color, marker=marker, markersize=8, fillstyle="none", linestyle="none")
    _scales(axis, figure)
    if panel.title:
        axis.set_title(plain_text(panel.title), fontsize="small")
    axis.set_xlabel(plain_text(figure.x.quantity.heading), fontsize="small")
    axis.set_ylabel(plain_text(figure.y.quantity.heading), fontsize="small")
    axis.tick_params(labelsize="small")
    axis.grid(axis="y", color="0.9", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)


def _scales(axis: "Axes", figure: Figure) -> None:
    """Logarithmic axes have ticks as on the page."""
    xs = sorted({point.x for panel in figure.panels for series in panel.series for point in series.points})
    x, y = Scale(figure.x.log, xs, 0.0, 1.0, margin=0.0), vertical_scale(figure)
    unit = figure.y.quantity.scale
    if x.log:
        axis.set_xscale("log")
        _place(axis.xaxis, {one: figure.x.quantity.tick(one) for one in x.ticks(8, xs, figure.x.quantity.scale)})
    if y.log:
        axis.set_yscale("log")
        _place(axis.yaxis, {unit * one: figure.y.quantity.tick(one) for one in y.ticks(5, [], unit)})
    axis.set_ylim(*(unit * end for end in y.ends))


def _place(axis: "Axis", ticks: Mapping[float, str]) -> None:
    from matplotlib.ticker import NullLocator

    axis.set_minor_locator(NullLocator())
    axis.set_ticks(list(ticks), [plain_text(text) for text in ticks.values()])
