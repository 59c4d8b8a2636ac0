"""What is shown in a cell of a Jupyter notebook: there, an output can be replaced by the next one."""

from __future__ import annotations

import sys
from typing import Any


def in_notebook() -> bool:
    """Returns whether the program is a notebook's kernel, which shows more than text."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class CellOutput:
    """One output of the cell that runs, in the place of a terminal's `rich.live.Live`.

    Args:
        transient: Removes the output at the end.
    """

    def __init__(self, transient: bool = False) -> None:
        self.transient = transient
        self.handle: Any = None  # IPython's, once something is shown

    def start(self) -> None:
        """Does nothing: the first update opens the output."""

    def update(self, content: Any, refresh: bool = True) -> None:
        """Shows `content`, an IPython or rich object, in the place of what was shown before."""
        from IPython.display import display

        if self.handle is None:
            self.handle = display(content, display_id=True)
        else:
            self.handle.update(content)

    def stop(self) -> None:
        """Ends the output."""
        if self.transient and self.handle is not None:
            from IPython.display import HTML

            self.handle.update(HTML(""))
