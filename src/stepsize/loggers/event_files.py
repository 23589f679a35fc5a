"""TensorBoard's event files: a sequence of records, each an event with its step."""

import os
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

_HPARAMS = "_hparams_/"  # TensorBoard's prefix for the tags of a run's row on the HPARAMS page


def keep_until(folder: Path, step: int) -> set[str]:
    """Take out of a run's event files what was logged beyond a step, its hyperparameters, and records cut short.

    Every reader then sees the same. A mark in a new file that the old ones hold what is void, as TensorFlow made them,
    is heeded by some of TensorBoard's own alone: its default data server drops, tag by tag, what a later file says
    again, and its older one looks for the mark of the first start too. Names stay: a server that is reading a file
    when it vanishes reads no further.

    Args:
        folder: holds the files, also in folders of its own.
        step: optimizer steps; what was logged at this one stays.

    Returns:
        The tags that have a value at the step itself.
    """
    known = set()
    for path in sorted(folder.rglob("*tfevents*")):
        partial = path.with_name("partial")  # without "tfevents", or readers would take it for one of theirs
        with partial.open("wb") as file:
            writer = RecordWriter(file)
            for record in RawEventFileLoader(str(path)).Load():
                event = Event.FromString(record)
                tags = {value.tag for value in event.summary.value}
                if event.step > step or any(tag.startswith(_HPARAMS) for tag in tags):
                    continue
                writer.write(record)
                if event.step == step:
                    known |= tags
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    return known
