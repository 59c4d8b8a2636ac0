"""Line charts as inline SVG: axes, ticks, a legend, the raw values faint behind their running mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element

from cyclegan_fast.monitoring.markup import el

Points = Sequence[tuple[float, float | None]]  # (x, y); a y of None is a gap

WIDTH, HEIGHT = 420, 230
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 10, 28  # margins of the plot
MAX_POINTS = 600  # drawn per line; longer ones show the extremes of each chunk
COLOURS = 4  # classes s0 to s3 of the style sheet


def line_chart(title: str, series: Mapping[str, Points], *, smooth: bool = True, x_name: str = "step") -> Element:
    """Draws one line per series.

    Args:
        title: Caption.
        series: Points by name, in the order of x; at least one y must be a number.
        smooth: Draw the running mean, too; without it the raw values stand alone.
        x_name: What x counts.

    Returns:
        A <figure>: caption and legend with each line's last value, then the <svg>.
    """
    means = {name: running_mean(points) if smooth else points for name, points in series.items()}
    last = {name: next(y for _, y in reversed(points) if y is not None) for name, points in means.items()}
    label = f"{title}: {', '.join(f'{name} ends at {number(y)}' for name, y in last.items())}"
    return el(
        "figure",
        el("figcaption", el("strong", title), *_legend(last)),
        el(
            "svg",
            *_axes(series, x_name),
            *_lines(series, means),
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


def _ranges(series: Mapping[str, Points]) -> tuple[list[float], list[float]]:
    """Ticks of x and of y. An axis of positive values starts at 0 unless that would flatten the lines."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if y is not None]
    low = 0.0 if 0 <= min(ys) < 0.6 * max(ys) else min(ys)
    return nice_ticks(min(0.0, min(xs)), max(xs)), nice_ticks(low, max(ys))


def _scales(series: Mapping[str, Points]) -> tuple[float, float, float, float]:
    """(x0, x1, y0, y1) of the plot's frame: x ends with the data, y with a tick."""
    x_ticks, y_ticks = _ranges(series)
    x_end = max(x for points in series.values() for x, _ in points)
    return x_ticks[0], max(x_end, x_ticks[0] + 1e-9), y_ticks[0], y_ticks[-1]


def _axes(series: Mapping[str, Points], x_name: str) -> list[Element]:
    x0, x1, y0, y1 = _scales(series)
    x_ticks, y_ticks = _ranges(series)
    parts = []
    for tick in y_ticks:
        y = _y(tick, y0, y1)
        parts.append(el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(el("text", number(tick), x=LEFT - 7, y=f"{float(y) + 4:.1f}", text_anchor="end"))
    for tick in x_ticks:
        if tick <= x1:
            at_edge = tick > x1 - (x1 - x0) / 20
            anchor = "end" if at_edge else "middle"
            x = f"{WIDTH - 2:.1f}" if at_edge else _x(tick, x0, x1)
            parts.append(el("text", number(tick), x=x, y=HEIGHT - 9, text_anchor=anchor))
    parts.append(el("text", x_name, x=LEFT - 7, y=HEIGHT - 9, text_anchor="end"))
    return parts


def _lines(series: Mapping[str, Points], means: Mapping[str, Points]) -> list[Element]:
    scales = _scales(series)
    raw = [
        el("path", d=_path(points, scales), class_=f"raw s{i % COLOURS}", data_series=name)
        for i, (name, points) in enumerate(series.items())
    ]
    above = [
        el("path", d=_path(points, scales), class_=f"mean s{i % COLOURS}") for i, points in enumerate(means.values())
    ]
    return raw + above


def _legend(last: Mapping[str, float]) -> list[Element]:
    return [
        el("span", el("i", class_=f"s{i % COLOURS}", aria_hidden="true"), f"{name} ", el("b", number(value)))
        for i, (name, value) in enumerate(last.items())
    ]


def _path(points: Points, scales: tuple[float, float, float, float]) -> str:
    """The line as an SVG path. A lone point becomes a dot: round ends make a line of no length visible."""
    x0, x1, y0, y1 = scales
    commands, pen_down = [], False
    for x, y in _thin(points):
        if y is not None:
            commands.append(f"{'L' if pen_down else 'M'}{_x(x, x0, x1)},{_y(y, y0, y1)}")
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


def _x(value: float, x0: float, x1: float) -> str:
    return f"{LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT):.1f}"


def _y(value: float, y0: float, y1: float) -> str:
    return f"{HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM):.1f}"
