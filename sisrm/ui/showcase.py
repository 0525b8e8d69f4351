"""The finished example on the first screen: made once, from an example photo and default settings, by the model that the app runs.

It is made in the background while the app starts, so that no visitor waits for it and starting does not either; and again when its files,
which lie where results do, have been deleted by age. On ZeroGPU it is made for the first visitor instead: no GPU is lent to nobody.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from sisrm.errors import SISRMError
from sisrm.images import read_photo
from sisrm.ui.finished import FinishedExamples, still_there
from sisrm.ui.handlers import Handlers, Upscaled

logger = logging.getLogger(__name__)


class Showcase:
    """One photo and its result.

    Args:
        handlers: that enlarge it.
        photo: an image file.
        new_folder: makes the folder that gets the files.
        finished: is given the result, for whoever asks for this example.
    """

    def __init__(self, handlers: Handlers, photo: Path, new_folder: Callable[[], Path], finished: FinishedExamples):
        self.photo = photo
        self.source = f"example-{secrets.token_hex(4)}"
        self._handlers, self._new_folder, self._finished = handlers, new_folder, finished
        self._making = threading.Lock()
        self._done: Upscaled | None = None

    def start(self) -> None:
        """Make it in the background."""
        if self._handlers.model.live:
            threading.Thread(target=self.result, name="showcase", daemon=True).start()

    def result(self) -> Upscaled | None:
        """The result; waits where it is being made. None, and a line in the log, where it cannot be made."""
        with self._making:
            if self._done is None or not still_there(self._done):
                try:
                    settings = self._handlers.defaults
                    name = f"{self.photo.stem}-4x.png"
                    photo = read_photo(self.photo)
                    self._done = self._handlers.upscale(photo, settings, self._new_folder(), name, states=True)
                    self._finished.keep(photo, settings, self._done)
                except (SISRMError, RuntimeError, OSError, gr.Error):
                    logger.exception("the example on the first screen could not be made")
                    self._done = None
            return self._done
