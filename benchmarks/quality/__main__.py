"""Trains the built-in scenes in each way that is faster, or said to be equal, and compares the quality by seed.

python -m benchmarks.quality                          every case, 8 seeds; goes on where it was interrupted
python -m benchmarks.quality --only bf16 --seeds 12   one case, and what it is compared with

A run that has ended is not trained again. Several of these programs may work in one folder side by side: each takes the
runs that no other has begun. Writes <out>/quality.json, prints the tables, and then how many cases are no worse,
undecided, worse and not run; the last line names those that are undecided, and from which size on a loss would have
been found. Exits with 1 where a case is worse than its baseline by more than the spread of the seeds, an engine by more
than a tenth of it in any seed, or where a control is not found (docs/quality.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.quality.cases import BY_NAME, CASES, EPOCHS, Case, why_not
from benchmarks.quality.page import collect, failures, lines_of, page_lines, summary, undecided
from benchmarks.quality.runs import Plan, baselines, render, run_case
from benchmarks.results import path_of, stamped, write_between_markers, write_json

STEPS_DIVISOR = 2 * EPOCHS * 8  # half of an epoch is whole batches of 8
WAIT = 2.0  # seconds, for other processes


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    plan = Plan(arguments.out, arguments.size, arguments.steps, arguments.lr)
    chosen = baselines([BY_NAME[name] for name in arguments.only]) if arguments.only else CASES
    if not arguments.tables:
        run_all(plan, chosen, arguments.seeds)
    measured = stamped([collect(plan, chosen, arguments.seeds)])
    write_json(arguments.out / "quality.json", measured)
    print("\n".join(lines_of(measured["results"][0])))
    if arguments.docs:
        write_json(path_of(arguments.docs / "results", "-quality.json"), measured)
        stored = sorted((arguments.docs / "results").glob("*-quality.json"))  # of every device
        lines = [line for path in stored for line in page_lines(json.loads(path.read_text("utf-8")))]
        write_between_markers(arguments.docs / "quality.md", lines)
    failed = failures(measured["results"][0])
    print("\n".join([*failed, summary(measured["results"][0]), *undecided(measured["results"][0])]))
    return 1 if failed else 0


def parse(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of runs and results")
    parser.add_argument("--seeds", type=int, default=8, help="runs of each case")
    parser.add_argument("--only", nargs="+", metavar="CASE", help=f"of: {'; '.join(BY_NAME)}")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--steps", type=int, default=480, help="of a batch of one; larger ones see as many images")
    parser.add_argument("--tables", action="store_true", help="run nothing: only the tables of what has been run")
    parser.add_argument(
        "--docs", type=Path, help="also write results/<device>-quality.json and quality.md in this folder"
    )
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate of a batch of one, at the start")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.only or ()) - BY_NAME.keys():
        parser.error(f"there is no case {', '.join(sorted(unknown))}: choose from {'; '.join(BY_NAME)}")
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one run has no spread")
    if arguments.steps < 1 or arguments.steps % STEPS_DIVISOR:
        parser.error(f"--steps must be a multiple of {STEPS_DIVISOR}, so that all see as many images")
    return arguments


def run_all(plan: Plan, cases: list[Case], seeds: int) -> None:
    """Runs what has not been run: seed by seed, so that an end at any time leaves whole rounds.

    Cases that are run with a few seeds only come last.
    """
    able = [case for case in cases if not why_not(case)]
    todo = [(case, seed) for seed in range(seeds) for case in able if seed < (case.max_seeds or seeds)]
    todo.sort(key=lambda job: job[0].max_seeds is not None)
    while not render(plan):
        time.sleep(WAIT)
    while todo:
        left = [(case, seed) for case, seed in todo if not _logged(plan, case, seed)]
        if len(left) == len(todo):  # others are at work on all of them
            time.sleep(WAIT)
        todo = left


def _logged(plan: Plan, case: Case, seed: int) -> bool:
    new, start = plan.result(case.name, seed) is None, time.perf_counter()
    done = run_case(plan, case, seed)
    if new and done:
        print(f"{case.name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return done


if __name__ == "__main__":
    torch.set_num_threads(min(torch.get_num_threads(), 2))
    sys.exit(main())
