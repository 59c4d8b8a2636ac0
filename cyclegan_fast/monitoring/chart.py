"""Line charts as inline SVG: axes, ticks, a legend, the raw values faint behind their running mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from cyclegan_fast.monitoring.markup import el

Points = Sequence[tuple[float, float | None]]  # (x, y); a y of None is a gap

WIDTH, HEIGHT = 420, 230
MIN_LEFT, RIGHT, TOP, BOTTOM = 46, 20, 10, 28  # margins of the plot; the left one grows with the labels in it
LABEL_GAP, CHARACTER = 7, 7.7  # between the labels of y and the plot; the width of the widest digit at 12 px
MAX_POINTS = 600  # drawn per line; longer ones show the extremes of each chunk
COLOURS = 8  # classes s0 to s7 of the style sheet; lines beyond them are dashed


class Frame(NamedTuple):
    """The plot within the drawing: its margin on the left, and the values at its edges."""

    left: float
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> str:
        """Returns where a value of x lies, in pixels."""
        return f"{self.left + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - self.left - RIGHT):.1f}"

    def y(self, value: float) -> str:
        """Returns where a value of y lies, in pixels."""
        return f"{HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM):.1f}"


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    smooth: bool = True,
    raw: bool = True,
    x_name: str = "step",
    unit: str = "",
    names: Sequence[str] = (),
    mark: tuple[float, str] | None = None,
) -> Element:
    """Draws one line per series.

    Args:
        title: Caption.
        series: Points by name, in the order of x; at least one y must be a number.
        smooth: Draw the running mean, too; without it the raw values stand alone.
        raw: Draw the raw values, faint, too.
        x_name: What x counts.
        unit: What follows each value of y, such as %.
        names: The lines of all charts beside this one, each of which has its colour; by default those of this one.
        mark: An x with a line through it, and what it is, for the legend.

    Returns:
        A <figure>: caption and legend with each line's last value, then the <svg>.
    """
    means = {name: running_mean(points) if smooth else points for name, points in series.items()}
    last = {name: next(y for _, y in reversed(points) if y is not None) for name, points in means.items()}
    label = f"{title}: {', '.join(f'{name} ends at {number(y)}{unit}' for name, y in last.items())}"
    x_ticks, y_ticks = _ticks(series)
    frame = _frame(series, x_ticks, y_ticks, x_name, unit)
    colours = {name: colour(i) for i, name in enumerate(names or series)}
    return el(
        "figure",
        el("figcaption", el("strong", title), *_legend(last, unit, colours), el("em", mark[1]) if mark else None),
        el(
            "svg",
            *_axis_of_y(frame, y_ticks, unit),
            *_axis_of_x(frame, x_ticks, x_name),
            *(_raw_lines(series, frame, colours) if raw else ()),
            *_mean_lines(means, frame, colours),
            _mark(frame, mark[0]) if mark else None,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=label,
        ),
        class_="chart",
    )


def running_mean(points: Points) -> list[tuple[float, float | None]]:
    """Returns the exponential running mean, unbiased at its start, over about a 25th of the points."""
    keep = 1.0 - 1.0 / max(1.0, len(points) / 25)
    mean, weight = 0.0, 0.0
    result: list[tuple[float, float | None]] = []
    for x, y in points:
        if y is None:
            result.append((x, None))
            continue
        mean, weight = keep * mean + (1.0 - keep) * y, keep * weight + 1.0 - keep
        result.append((x, mean / weight))
    return result


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round numbers, from `low` or below to `high` or above."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """Returns a short form of a number: 0.312, 12k, 2e-4."""
    if value != 0 and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else 1e6):.4g}{letter}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _ticks(series: Mapping[str, Points]) -> tuple[list[float], list[float]]:
    """Ticks of x and of y. An axis of positive values starts at 0 unless that would flatten the lines."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if y is not None]
    low = 0.0 if 0 <= min(ys) < 0.6 * max(ys) else min(ys)
    return nice_ticks(min(0.0, min(xs)), max(xs)), nice_ticks(low, max(ys))


def _frame(series: Mapping[str, Points], x_ticks: list[float], y_ticks: list[float], x_name: str, unit: str) -> Frame:
    """x ends with the data, y with a tick; the left margin holds the longest label."""
    x_end = max(x for points in series.values() for x, _ in points)
    characters = max(len(x_name), *(len(number(tick)) + 2 * len(unit) for tick in y_ticks))  # a % is wide
    left = max(MIN_LEFT, LABEL_GAP + math.ceil(CHARACTER * characters))
    return Frame(left, x_ticks[0], max(x_end, x_ticks[0] + 1e-9), y_ticks[0], y_ticks[-1])


def _mark(frame: Frame, value: float) -> Element:
    x = frame.x(value)
    return el("line", x1=x, x2=x, y1=TOP, y2=HEIGHT - BOTTOM, class_="mark")


def _axis_of_y(frame: Frame, ticks: list[float], unit: str) -> list[Element]:
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(el("line", x1=frame.left, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        label = number(tick) + unit
        parts.append(el("text", label, x=frame.left - LABEL_GAP, y=f"{float(y) + 4:.1f}", text_anchor="end"))
    return parts


def _axis_of_x(frame: Frame, ticks: list[float], name: str) -> list[Element]:
    """The labels below the plot, without those that would overlap the one before."""
    y, end = HEIGHT - 9, frame.left - LABEL_GAP  # end: of the label before, in pixels
    parts = [el("text", name, x=end, y=y, text_anchor="end")]
    for tick in ticks:
        label, x = number(tick), float(frame.x(tick))
        half = CHARACTER * len(label) / 2
        x = min(x, WIDTH - half)  # whole at the drawing's edge
        if tick <= frame.x1 and x - half >= end:
            parts.append(el("text", label, x=f"{x:.1f}", y=y, text_anchor="middle"))
            end = x + half + CHARACTER
    return parts


def _raw_lines(series: Mapping[str, Points], frame: Frame, colours: Mapping[str, str]) -> list[Element]:
    return [
        el("path", d=_path(points, frame), class_=f"raw {colours[name]}", data_series=name)
        for name, points in series.items()
    ]


def _mean_lines(means: Mapping[str, Points], frame: Frame, colours: Mapping[str, str]) -> list[Element]:
    return [
        el("path", d=_path(points, frame), class_=f"mean {colours[name]}", data_mean=name)
        for name, points in means.items()
    ]


def colour(i: int) -> str:
    """Returns the classes of the style sheet for the i-th line."""
    return f"s{i % COLOURS}" + " dashed" * (i // COLOURS % 2)


def _legend(last: Mapping[str, float], unit: str, colours: Mapping[str, str]) -> list[Element]:
    return [
        el("span", el("i", class_=colours[name], aria_hidden="true"), f"{name} ", el("b", number(value) + unit))
        for name, value in last.items()
    ]


def _path(points: Points, frame: Frame) -> str:
    """The line as an SVG path. A lone point becomes a dot: round ends make a line of no length visible."""
    commands, pen_down = [], False
    for x, y in _thin(points):
        if y is not None:
            commands.append(f"{'L' if pen_down else 'M'}{frame.x(x)},{frame.y(y)}")
            if not pen_down:
                commands.append("h0")
        pen_down = y is not None
    return "".join(commands)


def _thin(points: Points) -> Points:
    """At most `MAX_POINTS`: of each chunk only its lowest and highest, so that no spike is lost."""
    if len(points) <= MAX_POINTS:
        return points
    chunk = math.ceil(2 * len(points) / MAX_POINTS)
    thinned: list[tuple[float, float | None]] = []
    for start in range(0, len(points), chunk):
        part = [(x, y) for x, y in points[start : start + chunk] if y is not None]
        if part:
            thinned += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return thinned
