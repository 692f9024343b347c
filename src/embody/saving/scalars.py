"""Numbers over the steps of a training, in a file that TensorBoard shows."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from embody.saving.atomic_write import writing

__all__ = ["ScalarWriter"]


class ScalarWriter:
    """Appends numbers to a new event file in a folder; a `WriteError` if the file cannot be written.

    The `SummaryWriter` of torch writes in a thread, where a full disk raises its error beside the training.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """`purge_step`: TensorBoard no longer shows the numbers of older files from this step on."""
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        with writing(self.path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        self._records = RecordWriter(self._file)
        events = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if purge_step is not None:
            events.append(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._write(events)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the `values` at `step`, by their tags."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write([Event(wall_time=time.time(), step=step, summary=summary)])

    def close(self) -> None:
        """Close the file. The writer cannot be used afterwards."""
        with writing(self.path):
            self._file.close()

    def _write(self, events: list[Event]) -> None:
        with writing(self.path):
            for event in events:
                self._records.write(event.SerializeToString())
            self._file.flush()
