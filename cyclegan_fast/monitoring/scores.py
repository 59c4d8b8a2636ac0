"""The scores that ``python -m cyclegan_fast.evaluate`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclegan_fast.documents import Maybe, Number, check, read_json

_METRICS = {str: Maybe(Number(whole=False))}
PATHS = {"run", "data", "files", "features", "engines"}  # of the machine that scored, and nothing to publish
SCORED = {"photo_to_labels", "labels_to_photo"}  # one alone of a model of one direction
_BOTH = dict.fromkeys(SCORED, Maybe(_METRICS))
_IMAGE_SCORES = {"values": _METRICS, "spreads": _METRICS}
_OF_TEST_IMAGES = {  # of evaluate --run
    "protocol": str,
    "scored": [_IMAGE_SCORES],
    "untranslated": Maybe(_IMAGE_SCORES),
    "halves": Maybe(_IMAGE_SCORES),
}
SHAPE = {
    **_BOTH,
    "run": Maybe(str),
    "untranslated": Maybe(_BOTH),
    "ceiling": Maybe(_METRICS),
    "protocol": Maybe(str),
    "images": Maybe(Number(0)),
    "size": Maybe(Number(0)),
}


def read_scores(path: Path) -> dict[str, Any]:
    """Reads the scores of a checkpoint; of a file with those of engines, those of the checkpoint beside them.

    A file about test images is returned as it is, with the rows of all that was scored under ``scored``.

    Raises:
        DocumentError: They are damaged.
        OSError: They cannot be read.
    """
    found = read_json(path)
    check(found, dict)
    if "scored" in found:
        check(found, _OF_TEST_IMAGES)
        return found
    run = {name: found[name] for name in ("run",) if name in found}
    found = run | found.get("checkpoint", found)
    check(found, SHAPE)
    scores = {name: value for name, value in found.items() if value is not None or name not in SHAPE}
    if "untranslated" in scores:
        scores["untranslated"] = {name: value for name, value in scores["untranslated"].items() if value is not None}
    return scores
