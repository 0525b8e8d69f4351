"""The app around the tiny pipeline, served on a free port by this process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from app_process import free_port

from sisrm.ui.serving import App


@contextmanager
def served(upload_folder: Path) -> Iterator[App]:
    """The running app; UPLOAD_FOLDER gets its uploads and results."""
    from conftest import tiny_pipe

    from sisrm.ui.blocks import build_app

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(upload_folder))
        app = build_app(tiny_pipe())
        app.serve(server_name="127.0.0.1", server_port=free_port(), prevent_thread_lock=True, quiet=True)
        try:
            yield app
        finally:
            app.close()


def eventually(check, seconds: float = 20.0):
    """The first answer of `check` that counts as true."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer
