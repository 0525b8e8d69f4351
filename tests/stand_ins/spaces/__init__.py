"""In the place of Hugging Face's package `spaces`, which works on their machines alone: `GPU` as release 0.51 does it on ZeroGPU.

The function runs in a thread of a forked process; arguments and results are pickled through queues; of an error that is raised only the
type's name comes back, in a gr.Error. What was asked for is kept in CALLS and, a line each, in the file that ZERO_GPU_CALLS names.

`aoti_capture` and `aoti_compile` take and give what the package's do; what is compiled here is the exported graph as it is, which needs no
compiler, travels as bytes, and counts its runs in RUNS.
"""

import io
import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import gradio as gr
import torch
from gradio.context import LocalContext

CALLS = []
RUNS = []
_fork = multiprocessing.get_context("fork")


def GPU(task=None, *, duration=60):
    if task is None:
        return lambda task: GPU(task, duration=duration)

    def call(*args, **kwargs):
        seconds = duration(*args, **kwargs) if callable(duration) else duration
        entry = {"seconds": seconds, "pid": os.getpid(), "visitor": LocalContext.request.get(None) is not None}
        asked, answers = _fork.SimpleQueue(), _fork.SimpleQueue()
        process = _fork.Process(target=_work, args=(task, asked, answers), daemon=True)
        process.start()
        asked.put((args, kwargs))
        while not answers._reader.poll(0.2):
            if not process.is_alive():
                raise gr.Error("GPU task aborted", print_exception=False)
        entry["worker"], error, value = answers.get()
        process.join()
        CALLS.append(entry)
        if path := os.environ.get("ZERO_GPU_CALLS"):
            with open(path, "a") as stream:
                stream.write(json.dumps(entry) + "\n")
        if error:
            raise gr.Error(error, print_exception=False)
        return value

    return call


def _work(task, asked, answers):
    args, kwargs = asked.get()
    with ThreadPoolExecutor(1) as thread:
        try:
            answers.put((os.getpid(), None, thread.submit(task, *args, **kwargs).result()))
        except Exception as error:
            answers.put((os.getpid(), type(error).__name__, None))


@contextmanager
def aoti_capture(module, call_method="forward"):
    class Captured(Exception):
        pass

    call = SimpleNamespace(args=(), kwargs={})

    def capture(*args, **kwargs):
        call.args, call.kwargs = args, kwargs
        raise Captured

    with patch.object(module, call_method, new=capture):
        try:
            yield call
        except Captured:
            pass


def aoti_compile(exported, inductor_configs=None):
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    return Compiled(archive.getvalue())


class Compiled:
    def __init__(self, archive):
        self.archive, self._module = archive, None

    def __call__(self, *args, **kwargs):
        if self._module is None:
            self._module = torch.export.load(io.BytesIO(self.archive)).module()
        RUNS.append(1)
        return self._module(*args, **kwargs)

    def __reduce__(self):
        return Compiled, (self.archive,)
