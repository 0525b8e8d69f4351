"""Jobs: what they tell, how they are stopped, and that the model is there for the next one whatever happened."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image
from serving import eventually

from sisrm.errors import Interrupted, OutOfMemory
from sisrm.images import Photo
from sisrm.ui.handlers import Handlers
from sisrm.ui.jobs import Job
from sisrm.ui.progress import PREVIEW_SHARE, Pace, Watch


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


@pytest.fixture
def handlers(pipe):
    return Handlers(pipe, {})


@pytest.fixture
def slow(pipe):
    """The pipeline with steps of a tenth of a second; what is called counts them."""
    steps = []

    def wait(*_):
        steps.append(time.monotonic())
        time.sleep(0.1)

    hook = pipe.unet.register_forward_pre_hook(wait)
    yield steps
    hook.remove()


class Gate:
    """Lets so many passes of the U-Net through; the next one waits until the gate is opened."""

    def __init__(self, free: int):
        self.free, self.passes, self.opened = free, 0, threading.Event()

    def __call__(self, *_) -> None:
        self.passes += 1
        if self.passes > self.free:
            assert self.opened.wait(90)


@pytest.fixture
def gate(pipe):
    """A gate that one pass goes through."""
    gate = Gate(1)
    hook = pipe.unet.register_forward_pre_hook(gate)
    yield gate
    gate.opened.set()
    hook.remove()


def start(handlers, photo, folder, steps=4, watch=None, **options) -> Job:
    settings = handlers.check({"steps": steps, "guidance_scale": 1.0, "seed": 0})
    return Job(
        lambda own: handlers.upscale(Photo(photo), settings, folder, watch=own, **options),
        watch or Watch(handlers.pace),
    )


def works(handlers, photo, folder) -> None:
    """The next job is done and right."""
    (*_, last) = start(handlers, photo, folder, steps=1).updates()
    assert Image.open(last.result.result).tobytes() == right_result(photo.tobytes(), photo.size)
    assert not handlers.busy


@cache
def right_result(pixels: bytes, size: tuple[int, int]) -> bytes:
    """What a job of one step makes of a photo on a model that nothing has happened to."""
    photo = Image.frombytes("RGB", size, pixels)
    with tempfile.TemporaryDirectory() as folder:
        (*_, last) = start(Handlers(tiny_pipe(), {}), photo, Path(folder), steps=1).updates()
        return Image.open(last.result.result).tobytes()


def test_updates_tell_steps_and_previews(handlers, pipe, photo, tmp_path):
    watch, read = Watch(previews=True), []

    def until_read(*_):  # the job goes on when the reader knows how it stands, however slow the machine
        told = watch.read()
        eventually(lambda: read and (read[-1].step, read[-1].preview_step) == (told.step, told.preview_step), 60)

    hooks = [module.register_forward_pre_hook(until_read) for module in (pipe.unet, pipe.vae.lr_fusion)]
    try:
        for update in start(handlers, photo, tmp_path, 6, watch, states=True).updates():
            read.append(update)
    finally:
        for hook in hooks:
            hook.remove()
    (*updates, last) = read
    assert [update.step for update in updates] == sorted(update.step for update in updates)
    assert {1, 2, 3, 4, 5, 6} <= {update.step for update in updates} and {update.steps for update in updates} <= {0, 6}
    shown = {update.preview_step: update.preview for update in updates if update.preview is not None}
    assert set(shown) - {6} and all(image.size == (96, 80) for image in shown.values())
    assert last.stage == "done" and last.result.report["output_size"] == [96, 80]
    assert set(last.result.states) == {0.5, 0.2}
    for share, step in ((0.5, 3), (0.2, 5)):
        assert np.array_equal(np.asarray(Image.open(last.result.states[share])), np.asarray(shown[step]))


def test_previews_and_states_do_not_change_the_result(handlers, photo, tmp_path):
    pixels = []
    for watch, states in ((Watch(previews=True), True), (None, False)):
        (*_, last) = start(handlers, photo, tmp_path, 3, watch, states=states).updates()
        pixels.append(np.asarray(Image.open(last.result.result)))
        assert bool(last.result.states) is states
    assert np.array_equal(*pixels)


@pytest.mark.parametrize("way", ["cancel", "close", "coroutine"])
def test_a_job_that_nobody_waits_for_frees_the_model_within_two_steps(handlers, photo, gate, tmp_path, way):
    gate.free = 2
    job = start(handlers, photo, tmp_path, steps=20)

    async def leave():
        async for update in job.aupdates():
            if update.step == 2:
                raise asyncio.CancelledError  # what a coroutine that Gradio cancels meets

    if way == "coroutine":
        with pytest.raises(asyncio.CancelledError):
            with ThreadPoolExecutor(1) as thread:  # a browser test may have left a loop running in this one
                thread.submit(asyncio.run, leave()).result()
    else:
        updates = job.updates()
        next(update for update in updates if update.step == 2)
        job.cancel() if way == "cancel" else updates.close()
    gate.opened.set()
    assert job.wait(30)
    assert gate.passes <= 3 + 1 < 20 and not handlers.busy  # the step that it was at, and one more
    if way == "cancel":
        with pytest.raises(Interrupted):
            list(updates)
    works(handlers, photo, tmp_path)


def test_a_job_that_waits_for_the_model_can_be_cancelled(handlers, photo, gate, tmp_path):
    first = start(handlers, photo, tmp_path, steps=20)
    eventually(lambda: gate.passes == 2, 60)  # it has the model, and keeps it
    second = start(handlers, photo, tmp_path, steps=20)
    second.cancel()
    assert second.wait(30) and handlers.busy and not first.wait(0)
    first.cancel()
    gate.opened.set()
    assert first.wait(30) and gate.passes <= 3 and not handlers.busy
    with pytest.raises(Interrupted):
        list(second.updates())


FAULTS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    "python": MemoryError(),
    "other": RuntimeError("device-side assert triggered"),
    "odd": ZeroDivisionError("division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("part", ["segmenter", "text_encoder", "unet", "vae"])
@pytest.mark.parametrize("kind", FAULTS)
def test_whatever_fails_the_error_is_clear_and_the_next_job_works(handlers, pipe, photo, tmp_path, part, kind):
    held = []

    def fail(module, inputs):
        held.append(torch.empty(1).data_ptr())
        raise FAULTS[kind]

    module = pipe.vae.lr_fusion if part == "vae" else getattr(pipe, part)
    hook = module.register_forward_pre_hook(fail)
    memory = kind in ("gpu", "cpu", "python")
    try:
        with pytest.raises(OutOfMemory if memory else type(FAULTS[kind])) as caught:
            list(start(handlers, photo, tmp_path, 2).updates())
    finally:
        hook.remove()
    assert held and not handlers.busy
    if memory:
        assert "memory" in str(caught.value) and caught.value.__cause__ is None and not handlers.readings._kept
    caught = None
    if part in ("unet", "vae") or kind in ("cpu", "other"):
        works(handlers, photo, tmp_path)


def test_a_job_stops_between_the_tiles_of_one_step(handlers, gate, tmp_path):
    wide = Image.linear_gradient("L").resize((320, 48)).convert("RGB")  # 9 tiles
    settings = handlers.check({"steps": 1, "guidance_scale": 1.0, "seed": 0, "tile_size": 64})
    watch = Watch(handlers.pace)
    gate.free = 3
    job = Job(lambda own: handlers.upscale(Photo(wide), settings, tmp_path, watch=own), watch)
    updates = job.updates()
    assert next(update for update in updates if update.stage == "denoising" and update.tiles_done >= 2).tiles == 9
    job.cancel()
    gate.opened.set()
    assert job.wait(30) and gate.passes <= 4 + 1 < 9 and not handlers.busy
    updates.close()


def test_memory_of_a_failed_job_is_given_back(handlers, pipe, photo, tmp_path):
    import gc
    import weakref

    kept = []

    class Held:
        pass

    def fail(*_):
        large = Held()  # stands for a tensor in a frame of the failed call
        kept.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    hook = pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory):
        list(start(handlers, photo, tmp_path, 2).updates())
    hook.remove()
    gc.collect()
    assert kept and all(ref() is None for ref in kept)


def test_a_little_memory_means_smaller_tiles_and_says_so(handlers, pipe, tmp_path):
    def full(module, inputs):
        if inputs[0].shape[-1] > 32:  # of latents: more than 64 pixels of the photo
            raise torch.OutOfMemoryError("CUDA out of memory")

    wide = Image.linear_gradient("L").resize((96, 40)).convert("RGB")
    hook = pipe.unet.register_forward_pre_hook(full)
    (*updates, last) = start(handlers, wide, tmp_path, 2).updates()
    hook.remove()
    assert [notice["code"] for notice in last.result.report["notices"]] == ["smaller_tiles"]
    assert last.result.report["tiles"] > 1 and max(update.tiles for update in updates) > 1


def test_every_update_comes_by_itself_when_nothing_changes():
    go = threading.Event()
    job = Job(lambda watch: go.wait(5), Watch())
    updates = job.updates(beat=0.02)
    assert [next(updates).stage for _ in range(3)] == ["waiting"] * 3
    go.set()
    assert [*updates][-1].result is True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run_by_hand(pace, clock, speed, steps=10, pixels=1000):
    """A job whose parts take 1, 2, `steps`, 3 and 1 seconds times `speed`; -> (seconds left as told, as it turned out), at each step."""
    watch, told = Watch(pace, clock=clock), []
    watch.begin(pixels, steps, 1)
    for part, seconds in (
        ("segmentation", 1),
        ("image_encoder", 2),
        ("denoising", steps),
        ("decode", 3),
        ("writing", 1),
    ):
        watch.enter(part)
        for index in range(steps if part == "denoising" else 1):
            clock.now += speed * seconds / (steps if part == "denoising" else 1)
            if part in ("image_encoder", "denoising", "decode"):
                watch.tile(part, index + 1, steps if part == "denoising" else 1)
            told.append((clock.now, watch.read().seconds_left))
    watch.leave()
    return [(left, clock.now - at) for at, left in told]


def test_the_estimate_is_honest():
    pace, clock = Pace(), Clock()
    first = run_by_hand(pace, clock, 1.0)
    assert all(left is None for left, _ in first[:-2])  # nothing is known of the parts to come, so nothing is told
    for left, real in run_by_hand(pace, clock, 1.0):
        assert left == pytest.approx(real, abs=1e-6)
    # Three times slower than ever: the estimate follows while the job runs.
    slower = run_by_hand(pace, clock, 3.0)
    assert [left for left, real in slower[6:12]] == pytest.approx([real for _, real in slower[6:12]], rel=0.5)
    doubled = run_by_hand(Pace(), Clock(), 1.0, pixels=2000)
    assert doubled[0][0] is None


def test_time_is_counted_to_the_part_that_took_it(handlers, pipe, photo, slow, tmp_path):
    hook = pipe.image_encoder.register_forward_pre_hook(lambda *_: time.sleep(0.3))
    list(start(handlers, photo, tmp_path, steps=4).updates())
    hook.remove()
    pixels = photo.width * photo.height
    assert handlers.pace.expect("image_encoder", pixels) >= 0.3
    assert handlers.pace.expect("denoising", 4 * pixels) >= 0.4
    assert all(handlers.pace.expect(part, pixels) > 0 for part in ("segmentation", "decode", "writing"))


def test_an_estimate_scales_with_size_steps_and_guidance():
    pace, clock = Pace(), Clock()
    run_by_hand(pace, clock, 1.0)
    lefts = []
    for pixels, steps, passes in ((1000, 10, 1), (2000, 10, 1), (1000, 20, 1), (1000, 10, 2)):
        watch = Watch(pace, clock=clock)
        watch.begin(pixels, steps, passes)
        lefts.append(watch.read().seconds_left)
    assert lefts == pytest.approx([17, 33, 27, 27])


def test_previews_take_no_more_than_their_share():
    clock = Clock()
    watch = Watch(previews=True, clock=clock)
    watch.begin(1000, 100, 1)
    watch.enter("denoising")
    spent = 0.0

    def make():
        clock.now += 1.0
        return Image.new("RGB", (8, 8))

    for step in range(100):
        clock.now += 0.5
        watch.tile("denoising", step + 1, 100)
        if watch.wants_preview(1):
            watch.show(step + 1, make)
            spent += 1.0
    assert 5 <= spent <= PREVIEW_SHARE * 50 + 1
    assert not Watch(clock=clock).wants_preview(1)  # nobody asked for any
    assert not Watch(previews=True, clock=clock).wants_preview(9)  # large, and nobody knows yet how long one takes
