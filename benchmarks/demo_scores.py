"""python -m benchmarks.demo_scores runs/demo: stores the scores of a finished demo in docs/results/demo.json.

With when, where and of which commit they were measured: run it at the commit and on the machine of the demo. The README
has these numbers, and a test compares both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.results import stamped, write_json

STORED = Path(__file__).resolve().parent.parent / "docs" / "results" / "demo.json"


def main() -> None:
    scores = Path(sys.argv[1]) / "scores.json"
    if not scores.is_file():
        raise SystemExit(f"{scores} does not exist: a demo that has ended writes it")
    write_json(STORED, stamped([json.loads(scores.read_text())]))


if __name__ == "__main__":
    main()
