"""Where everything of a figure's panel goes on the page: scales, ticks, lines, labels. Draws nothing itself."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fgcli.report.document import Figure, Panel, Point, Series
from fgcli.report.sparkline import shortened
from fgcli.report.trials import Trial

WIDTH, HEIGHT = 520, 310
LEFT, TOP, BOTTOM = 58, 14, 44
LINE = 13  # between labels
LETTER = 7.4
ALONE = 5  # half the width of the band of a point that no line leads to


@dataclass(frozen=True)
class Marker:
    """A point: an outline for the SVG, what it says, and the group of runs that it is of."""

    path: str
    text: str
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A line with its interval, points, and the label at its end."""

    name: str
    label: str
    """The name, cut where it is long."""
    style: int
    path: str
    band: str
    markers: tuple[Marker, ...]
    published: tuple[Marker, ...]
    label_at: tuple[float, float]
    leader: str
    """From the line's end to a label that had to make way for another."""


@dataclass(frozen=True)
class Plot:
    """A panel, laid out in WIDTH × HEIGHT."""

    title: str
    right: float
    x_ticks: tuple[tuple[float, str], ...]
    """Places on the axis, and what stands there."""
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]
    strips: tuple[tuple[float, float, float, str], ...]
    """By each x its left end, width, x, and all that is said there."""


def lay_out(figure: Figure, panel: Panel) -> Plot:
    """A panel in the scales that all panels of its figure share."""
    published = [place for one in figure.panels for series in one.series for place in series.published]
    xs = [point.x for point in _points(figure)] + [x for x, _ in published]
    names = max((len(shortened(series.name)) for series in panel.series), default=0)
    right = WIDTH - (14 + LETTER * names)
    x = Scale(figure.x.log, xs, LEFT, right, margin=0.0)
    y = vertical_scale(figure)
    curves = [_curve(figure, series, x, y) for series in panel.series]
    drawn = [curve for curve in curves if curve.markers or curve.published]
    return Plot(
        panel.title,
        right,
        tuple((x(one), figure.x.quantity.tick(one)) for one in x.ticks(6, sorted(set(xs)), figure.x.quantity.scale)),
        tuple((y(one), figure.y.quantity.tick(one)) for one in y.ticks(5, [], figure.y.quantity.scale)),
        tuple(_labels_apart(drawn, right)),
        tuple(_strips(figure, panel, x, right)),
    )


def vertical_scale(figure: Figure) -> "Scale":
    """The y axis of all panels."""
    return Scale(is_logarithmic(figure), _reach(figure), HEIGHT - BOTTOM, TOP, margin=0.06)


def cuts_intervals(figure: Figure) -> bool:
    """Whether an interval goes on beyond the y axis."""
    low, high = _reach(figure)
    ends = [_interval(point) for point in _points(figure)]
    return any(lower < low or upper > high for lower, upper in ends)


def _reach(figure: Figure) -> tuple[float, float]:
    """How far the y axis goes: to all that was seen, and to the ends of intervals that are possible and lie not farther
    beyond it than it is wide itself."""
    points, quantity = _points(figure), figure.y.quantity
    means = _means(figure)
    if not means:
        return 0.0, 1.0
    logarithmic = is_logarithmic(figure)
    seen = means if logarithmic else means + [value for point in points for value in point.values]
    low, high = min(seen), max(seen)
    wide = max(high, *(value for point in points for value in point.values), low) - low
    ends = [end for point in points for end in _interval(point)]
    floor = low / 3 if logarithmic else quantity.lowest  # not decades for one interval's end
    lowest = max(min(ends, default=low), floor, low - wide)
    highest = min(max(ends, default=high), quantity.highest, high + wide)
    return min(low, lowest), max(high, highest)


def _points(figure: Figure) -> list[Point]:
    return [point for panel in figure.panels for series in panel.series for point in series.points]


def _means(figure: Figure) -> list[float]:
    """And published numbers."""
    published = [y for panel in figure.panels for series in panel.series for _, y in series.published]
    return [point.y.mean for point in _points(figure)] + published


def is_logarithmic(figure: Figure) -> bool:
    """Whether its y axis is: where the view says so, and there are means and published numbers, all positive."""
    means = _means(figure)
    return figure.y.log and bool(means) and min(means) > 0


class Scale:
    """Numbers to places; logarithmic where that is asked for, and all numbers are positive."""

    def __init__(self, log: bool, numbers: Sequence[float], start: float, end: float, margin: float) -> None:
        self.log = log and bool(numbers) and all(number > 0 for number in numbers)
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        low, high = self._inner(low), self._inner(high)
        if low == high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self.low, self.high = low - margin * (high - low), high + margin * (high - low)
        self.start, self.end = start, end

    def __call__(self, number: float) -> float:
        if self.log and number <= 0:
            return self.start
        share = (self._inner(number) - self.low) / (self.high - self.low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number on it."""
        return (10**self.low, 10**self.high) if self.log else (self.low, self.high)

    def _inner(self, number: float) -> float:
        return math.log10(number) if self.log else number

    def ticks(self, count: int, natural: Sequence[float], unit: float) -> list[float]:
        """Numbers within the scale that are round once multiplied by `unit`; the numbers themselves where they are few
        and short, as an axis's are."""
        if 0 < len(natural) <= count and (self.log or _even(natural)) and all(len(f"{one:g}") < 6 for one in natural):
            return list(natural)
        low, high = (one * unit for one in self.ends)
        return [one / unit for one in (_of_decades(low, high) if self.log else _round_numbers(low, high, count))]


def _of_decades(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high > 100 * low else (1, 2, 5)
    found = [step * 10.0**power for power in decades for step in steps]
    within = [one for one in found if low <= one <= high]
    return within if len(within) > 1 else _round_numbers(low, high, 3)


def _even(numbers: Sequence[float]) -> bool:
    gaps = [later - earlier for earlier, later in pairwise(numbers)]
    return not gaps or min(gaps) > 0.08 * (numbers[-1] - numbers[0])


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [
        round(number * step, 12) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _interval(point: Point) -> tuple[float, float]:
    return point.y.ends or (point.y.mean, point.y.mean)


def _curve(figure: Figure, series: Series, x: Scale, y: Scale) -> Curve:
    places = [(x(point.x), y(point.y.mean)) for point in series.points]
    upper = [(x(point.x), y(_interval(point)[1])) for point in series.points]
    lower = [(x(point.x), y(_interval(point)[0])) for point in series.points]
    banded = any(point.y.half for point in series.points)
    if len(places) == 1:  # a band needs two points: one to each side
        upper, lower = ([(end + side, height) for side in (-ALONE, ALONE)] for ((end, height),) in (upper, lower))
    size = 3.4 if len(places) < 20 else 2.4
    markers = tuple(
        Marker(_marker(series.style, *place, size), f"{series.name}: {_said(figure, point)}", point.trials)
        for place, point in zip(places, series.points, strict=True)
    )
    published = tuple(
        Marker(_marker(series.style, x(px), y(py), 5.2), f"{series.name}, published: {figure.y.quantity.text(py)}")
        for px, py in series.published
    )
    ends = places or [(x(px), y(py)) for px, py in series.published]
    return Curve(
        series.name,
        shortened(series.name),
        series.style,
        _path(places) if len(places) > 1 else "",
        f"{_path([*upper, *reversed(lower)])}Z" if banded else "",
        markers,
        published,
        ends[-1] if ends else (0.0, 0.0),
        "",
    )


def _said(figure: Figure, point: Point) -> str:
    """What a point is, in words."""
    seeds = f" (n = {point.y.n})" if point.y.n > 1 else ""
    return f"{point.y.text(figure.y.quantity)}{seeds} at {figure.place(point.x)}"


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _marker(style: int, x: float, y: float, r: float) -> str:
    """A disc, square, triangle or diamond around a place, by the style's number."""
    kind = style % 4
    if kind == 0:
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0Z"
    corners = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        3: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[kind]
    return f"{_path((x + a * r, y + b * r) for a, b in corners)}Z"


def _labels_apart(curves: Sequence[Curve], right: float) -> list[Curve]:
    """Labels at the right of the plot, at the height of their line's end, moved so that none covers another."""
    heights = [curve.label_at[1] for curve in curves]
    order = sorted(range(len(curves)), key=heights.__getitem__)
    highest, lowest = float(TOP - 4), float(HEIGHT - BOTTOM + 4)
    for one in order:
        heights[one] = max(heights[one], highest)
        highest = heights[one] + LINE
    for one in reversed(order):  # what hangs over the bottom pushes the others up
        heights[one] = min(heights[one], lowest)
        lowest = heights[one] - LINE
    placed = []
    for curve, height in zip(curves, heights, strict=True):
        x, y = curve.label_at
        leader = _path([(x + 4, y), (right + 6, height)])
        placed.append(replace(curve, label_at=(right + 9, height), leader=leader))
    return placed


def _strips(figure: Figure, panel: Panel, x: Scale, right: float) -> Iterable[tuple[float, float, float, str]]:
    """For each x that a line has a point at: all that the lines say there, the highest first."""
    at: dict[float, list[tuple[float, str]]] = {}
    for series in panel.series:
        for point in series.points:
            text = f"{series.name}  {point.y.text(figure.y.quantity)}"
            at.setdefault(point.x, []).append((point.y.mean, text))
        for px, py in series.published:
            at.setdefault(px, []).append((py, f"{series.name}, published  {figure.y.quantity.text(py)}"))
    xs = sorted(at)
    edges = [LEFT - 6, *((x(a) + x(b)) / 2 for a, b in pairwise(xs)), right + 6]
    for px, (left, after) in zip(xs, pairwise(edges), strict=False):
        here = sorted(at[px], key=lambda one: -one[0])
        yield left, after - left, x(px), "\n".join([figure.place(px), *(text for _, text in here)])
