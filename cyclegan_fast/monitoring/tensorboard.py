"""Scalars, images and texts in TensorBoard's format.

torch's SummaryWriter writes from a thread of its own, which a full disk ends, with a traceback, in the middle of a run.
"""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cyclegan_fast.monitoring.appended import AppendedFile

_VERSION = "brain.Event:2"


class TensorBoard:
    """Appends to a new event file.

    Args:
        folder: Where TensorBoard looks, created if it is missing.
        purge_step: What an earlier file shows from this step on is hidden.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._writer = Event, RecordWriter
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{id(self)}"
        self._file = AppendedFile(folder / name, holds=False)
        self._append(file_version=_VERSION)
        self._append(step=purge_step, file_version=_VERSION)
        self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, step: int, name: str, value: float) -> None:
        """Appends a number."""
        from torch.utils.tensorboard.summary import scalar

        self._append(step=step, summary=scalar(name, value))

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Appends an RGB image."""
        from torch.utils.tensorboard.summary import image as to_summary

        self._append(step=step, summary=to_summary(name, np.asarray(image), dataformats="HWC"))

    def text(self, step: int, name: str, content: str) -> None:
        """Appends a text."""
        from torch.utils.tensorboard.summary import text

        self._append(step=step, summary=text(name, content))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, **fields: Any) -> None:
        record = io.BytesIO()
        self._writer(record).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._file.append(record.getvalue())
