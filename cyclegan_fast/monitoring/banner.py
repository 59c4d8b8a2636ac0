"""The head of a report: how far the run is, in one sentence, and what it warns of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import Element

from cyclegan_fast.monitoring.markup import el
from cyclegan_fast.monitoring.progress import duration
from cyclegan_fast.monitoring.run_status import RunStatus

REFRESH_SECONDS = 15  # of the page of a run that goes on


def draw_banner(status: RunStatus) -> Element:
    """Draws the state of a run, with a bar, and when this was."""
    word, rest = describe(status)
    when = datetime.fromtimestamp(status.written).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    note = f"Written {when}."
    if status.state == "running":
        note += f" The page reloads every {REFRESH_SECONDS} s."
        note += " If this time does not change for many minutes, the run was probably killed."
    share = f"{100 * status.step / max(1, status.total_steps):.3g}%"
    return el(
        "div",
        el("p", el("b", word), rest),
        el("div", el("i", style=f"width: {share}"), class_="bar", role="img", aria_label=f"{share} of the steps"),
        el("p", note, class_="hint"),
        class_=f"state {status.state}",
    )


def draw_warnings(events: Sequence[Mapping[str, Any]]) -> list[Element]:
    """Draws what a run has warned of, oldest first."""
    return [
        el("div", el("p", el("b", f"At step {event['step']:,}"), f": {warning['message']}."), class_="state warning")
        for event in events
        for warning in event.get("warnings") or ()
    ]


def describe(status: RunStatus) -> tuple[str, str]:
    """Returns the state as a word, and the rest of its sentence."""
    where = f"step {status.step:,} of {status.total_steps:,}"
    match status.state:
        case "running":
            left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
            return "Running", f": {where}{left}."
        case "finished":
            return "Finished", f": all {status.total_steps:,} steps."
        case "stopped":
            return "Stopped", f" after {where}, with a checkpoint; --resume auto continues."
        case "failed":
            return "Failed", f" after {where}: {status.message.rstrip('.')}."
        case "killed":
            return "Ended unexpectedly", (
                f" after {where}: its process was killed, or the machine went down; --resume auto continues from the "
                "newest checkpoint, or starts again where there is none yet."
            )
