"""The first files of a run: when they are written, and their removal if the training does not start."""

import io
import json
from collections.abc import Mapping
from contextlib import suppress

from PIL.Image import Image

from ..files import unused
from ..runs import Resolved, inputs, run_text
from ..runs.start import Start
from .checkpoints import Found
from .launch import Launch
from .trainer import of_loggers


class FirstFiles:
    """Writes a run's first files once, and removes the files of a training without a step."""

    def __init__(self, launch: Launch, run: Resolved, found: Found | None) -> None:
        self.launch = launch
        self.run = run
        self.found = found
        self.listings: Mapping[str, bytes] = {}
        """What is stored of the inputs; see `runs.inputs`."""
        self.picture: Image | None = None
        """The picture of the first views."""
        self.start: Start | None = None
        """The facts before the first step."""
        self.written = False
        self._opened = of_loggers(launch.folder, run)

    def write(self) -> None:
        """Writes the first files, and replaces those of an old run."""
        folder, found = self.launch.folder, self.found
        for path in found.unreadable if found else ():
            path.replace(unused(path.with_suffix(".corrupt")))  # otherwise it would become last.before.ckpt
        if self.run.resume:
            folder.cut_metrics(found.step if found else -1)
        files = {folder.run: run_text(self.run, self.launch.whole).encode()}
        if self.picture is not None:
            files[folder.views] = _png(self.picture)
        if self.start is not None:
            files[folder.start] = (json.dumps(self.start.content(), indent=2) + "\n").encode()
        if self.listings:
            files[folder.inputs] = inputs.packed(self.listings)
        folder.claim(resume=self.run.resume, files=files, keep=of_loggers(folder, self.run) - self._opened)
        self.written = True

    def clear_loggers(self, steps: int) -> None:
        """Removes the files of loggers if the training made no step; `steps` is their number."""
        waits = self.launch.replaces and not self.written
        if waits or (self.launch.is_first and steps == 0):
            for path in sorted(of_loggers(self.launch.folder, self.run) - self._opened, reverse=True):
                with suppress(OSError):
                    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def give_up(self, error: Exception, steps: int) -> None:
        """Logs an error, and removes a run that did not start."""
        folder = self.launch.folder
        self.clear_loggers(steps)
        if self.launch.is_first:
            with suppress(OSError):  # it must not hide the error itself
                if folder.run.is_file():
                    folder.note(f"error: {error}")
            with suppress(OSError):
                if steps == 0 and not self.launch.replaces:
                    folder.abandon()


def _png(picture: Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
