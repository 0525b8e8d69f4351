"""How a request of any origin, page or script, is run and refused, and where its files go."""

from __future__ import annotations

import html
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.context import LocalContext

from sisrm.errors import OutOfMemory, SISRMError
from sisrm.memory import is_out_of_memory, release_memory
from sisrm.ui.jobs import Job
from sisrm.ui.model import NO_MEMORY
from sisrm.ui.progress import AWAY, Update
from sisrm.ui.storage import is_full
from sisrm.ui.texts import language, text
from sisrm.ui.texts_of_errors import told

logger = logging.getLogger(__name__)

T = TypeVar("T")

AS_SENT = {"preprocess": False}
"""Event options: values arrive as they came over the wire and are checked by the handlers. Gradio's own checks let NaN
through, and decode an image before its size is known."""


UNFINISHED: set[str] = set()
"""The names of the folders of results that jobs of this process are making: nothing in them may be deleted for its age."""


def in_line(at_once: int) -> dict[str, Any]:
    """Event options: whatever uses the model waits in one queue, of which so many are worked on at once."""
    return {"concurrency_limit": at_once, "concurrency_id": "model"}


@contextmanager
def errors_for_people(lang: str = "en") -> Iterator[None]:
    """Show our own errors in the visitor's language; log any other and show one sentence, never its text."""
    try:
        yield
    except gr.Error:
        raise
    except SISRMError as error:
        # Gradio shows the message as HTML, and it may quote a visitor's file name.
        message = html.escape(told(error, lang), quote=False)
        raise gr.Error(message, print_exception=False) from None
    except OSError as error:
        logger.exception("a request failed")
        raise gr.Error(text("disk_full" if is_full(error) else "failed", lang), print_exception=False) from None
    except Exception as error:
        logger.exception("a request failed")
        if is_out_of_memory(error):  # before the model, whose own errors are told apart where it is held
            release_memory()
            raise gr.Error(told(OutOfMemory(NO_MEMORY), lang), print_exception=False) from None
        raise gr.Error(text("failed", lang), print_exception=False) from None


async def finished(job: Job[T], progress: gr.Progress, lang: str) -> T:
    """The job's result, telling the client how it stands. A client that cancels or goes away ends the job."""
    gone = client_is_gone()
    async with aclosing(job.aupdates()) as updates:
        async for update in updates:
            if gone():
                job.cancel()
            step = (update.step, update.steps) if update.steps else 0
            progress(step, desc=in_words(update, lang), unit="steps")
    return update.result


def client_is_gone() -> Callable[[], bool]:
    """Tells whether the connection that waits for the current event was closed. Gradio marks the event, but stops only generators."""
    blocks, event_id = LocalContext.blocks.get(), LocalContext.event_id.get()

    def gone() -> bool:
        event = blocks._queue.event_ids_to_events.get(event_id) if blocks is not None else None
        return event is not None and not event.alive

    return gone


def in_words(update: Update, lang: str) -> str:
    """One line about how a job stands."""
    if update.stage == "denoising" and update.step < update.steps:
        return text("step", lang, step=update.step + 1, total=update.steps)
    if update.stage == AWAY:
        return text("away", lang)
    return text("looking" if update.stage in ("waiting", "looking") else "finishing", lang)


def language_of(request: gr.Request | None) -> str:
    """The language of the texts that a request asks for, "en" or "zh"."""
    return language(request.headers.get("accept-language")) if request else "en"


def uploads() -> Path:
    """Gradio's own folder, where uploads arrive and from where results are served; files in it are deleted by age."""
    return Path(gr.utils.get_upload_folder())


@contextmanager
def result_folder() -> Iterator[Path]:
    """`new_folder` for a job; nothing of it is left where the job fails or is cancelled."""
    folder = new_folder()
    UNFINISHED.add(folder.name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        UNFINISHED.discard(folder.name)


def new_folder() -> Path:
    """A folder for one result; no other visitor can guess its name."""
    folder = uploads() / secrets.token_hex(32)
    folder.mkdir(parents=True)
    return folder
