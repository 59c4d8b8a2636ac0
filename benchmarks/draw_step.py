"""Draws docs/how_the_step_works.svg from a step that ran: which network's convolutions, in which cycle, how long.

python -m benchmarks.draw_step --out docs/how_the_step_works.svg

Every operator that reads a weight is recorded as torch dispatches it, forward and backward, with its time. The
cycles run one after the other, so that neither disturbs the other's times, and are drawn side by side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.step_cases import Workload
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.step import CycleGANStep

STEPS = 9
WIDTH, LEFT, ROW_HEIGHT, BOX = 1180, 70, 96, 46
COLOURS = {"forward": "#cfe2ff", "backward": "#ffd8b5", "discriminator": "#cdeccd", "join": "#e2e2e2"}


@dataclass(frozen=True)
class Box:
    """A run of operators of one network, forward or backward."""

    cycle: str  # A or B, its source; empty after the join
    net: str
    backward: bool
    start: float  # s
    end: float
    weights: int = 1  # operators that read a weight

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Recorder(TorchDispatchMode):
    """Records every operator that reads a weight of a network."""

    def __init__(self, step: CycleGANStep) -> None:
        super().__init__()
        self.step, self.cycle = step, ""
        self.net_of = {
            p.data_ptr(): name
            for name, net in step.networks.items()
            for p in net.parameters()
            if p.dim() == 4  # of a convolution
        }
        self.boxes: list[Box] = []
        step.run_cycle = self.in_cycle(step.run_cycle)  # type: ignore[method-assign]
        step.update_weights = self.timed(step.update_weights)  # type: ignore[method-assign]

    def in_cycle(self, run_cycle: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(cycle: Any, *args: Any, **options: Any) -> Any:
            self.cycle = cycle.source
            try:
                return run_cycle(cycle, *args, **options)
            finally:
                self.cycle = ""

        return wrapped

    def timed(self, update_weights: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **gradients: Any) -> Any:
            start = time.perf_counter()
            update_weights(*args, **gradients)
            self.boxes.append(Box("", "Adam", False, start, time.perf_counter()))

        return wrapped

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        tensors = (x for x in tree_leaves(args) if isinstance(x, torch.Tensor))
        net = next((self.net_of[x.data_ptr()] for x in tensors if x.data_ptr() in self.net_of), None)
        if self.cycle and net is not None and not func.is_view:
            backward = torch._C._current_graph_task_id() != -1
            self.note(Box(self.cycle, net, backward, start, time.perf_counter()))
        return out

    def note(self, new: Box) -> None:
        last = self.boxes[-1] if self.boxes else None
        if last and (last.cycle, last.net, last.backward) == (new.cycle, new.net, new.backward):
            self.boxes[-1] = replace(last, end=new.end, weights=last.weights + 1)
        else:
            self.boxes.append(new)


def record(work: Workload) -> list[Box]:
    """The boxes of the step that took the median time."""
    device = torch.device("cpu")
    networks = build_networks(work.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    step = CycleGANStep(networks, work.config(side_by_side="off"))
    batches, steps = work.batches(device, channels_last=True), []
    with Recorder(step) as recorder:
        for _ in range(STEPS):
            recorder.boxes = []
            step(*next(batches))
            steps.append(recorder.boxes)
    return sorted(steps, key=lambda boxes: sum(box.seconds for box in boxes))[STEPS // 2]


def labels(source: str) -> list[str]:
    """What each box of a cycle computes, in order; a cycle that runs differently no longer fits its drawing."""
    other = "B" if source == "A" else "A"
    return [
        f"fake_{other}, idt_{source} = G_{source}([{source}, {other}])",
        f"D_{source}(fake_{other})",
        f"rec_{source} = G_{other}(fake_{other})",
        f"d G_{other}",
        f"d D_{source}, to its input alone",
        f"d G_{source}",
        f"D_{source}([{other}, pool])",
        f"d D_{source}",
    ]


def draw(boxes: list[Box], caption: str) -> str:
    rows = {source: [box for box in boxes if box.cycle == source] for source in "AB"}
    joined = [box for box in boxes if not box.cycle]
    longest = max(sum(box.seconds for box in of) for of in rows.values())
    scale = (WIDTH - LEFT - 100) / (longest + sum(box.seconds for box in joined))
    parts, join_x = [], LEFT + longest * scale + 20
    middle = 70 + ROW_HEIGHT
    for row, (source, of) in enumerate(rows.items()):
        top, x = 70 + row * ROW_HEIGHT * 1.4, float(LEFT + 8)
        other = "B" if source == "A" else "A"
        parts.append(text(10, top + 27, f"{source} → {other} → {source}", weight="bold"))
        parts.append(line(LEFT - 6, middle, LEFT + 6, top + BOX / 2))
        for i, (box, label) in enumerate(zip(of, labels(source), strict=True)):
            colour = "discriminator" if i > 5 else "backward" if box.backward else "forward"
            parts += drawn(box, label, x, top, scale, COLOURS[colour], below=bool(i % 2))
            x += box.seconds * scale
        parts.append(line(x, top + BOX / 2, join_x, middle))
    parts.append(text(10, middle + 4, "fork"))
    parts.append(f'<circle cx="{join_x:.1f}" cy="{middle}" r="5" fill="#444"/>')
    parts.append(text(join_x - 12, middle + 4, "join", anchor="end"))
    x = join_x + 12
    for i, box in enumerate(joined):
        parts += drawn(box, box.net, x, middle - BOX / 2, scale, COLOURS["join"], below=bool(i))
        x += box.seconds * scale
    height = 70 + int(ROW_HEIGHT * 2.9)
    key = [
        ("forward", "G_AB and G_BA"),
        ("backward", "their gradients"),
        ("discriminator", "the discriminator's own pass"),
    ]
    for i, (name, meaning) in enumerate(key):
        parts.append(rect(LEFT + 190 * i, height - 42, 18, 14, COLOURS[name], meaning))
        parts.append(text(LEFT + 24 + 190 * i, height - 31, meaning))
    parts.append(text(10, 22, caption))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def drawn(box: Box, label: str, x: float, top: float, scale: float, colour: str, *, below: bool) -> list[str]:
    """A box as wide as its time, its label inside where it fits, else above or below."""
    width, duration = box.seconds * scale, f"{1e3 * box.seconds:.0f} ms"
    title = f"{label}: {duration}" + (f", {box.weights} convolutions" if box.cycle else "")
    parts = [rect(x, top, width, BOX, colour, title)]
    words = [*label.replace(" = ", "|= ").split("|"), duration]
    if width > 6.2 * max(map(len, words)) + 6:
        first = top + 35 - 7 * len(words)
        return [*parts, *(text(x + 5, first + 13 * i, word) for i, word in enumerate(words))]
    y = top + BOX + 14 if below else top - 7
    return [*parts, text(x + width / 2, y, f"{label}, {duration}", anchor="middle")]


def rect(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" fill="{colour}" stroke="#444" '
        f'stroke-width="0.7"><title>{escape(title)}</title></rect>'
    )


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#444"/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="#222">{escape(words)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the image")
    arguments = parser.parse_args()
    work = Workload(size=128, blocks=6, channels=32)
    caption = f"One step. {work}; times of a CPU with {torch.get_num_threads()} threads, a cycle at a time."
    arguments.out.write_text(draw(record(work), caption))


if __name__ == "__main__":
    main()
