"""Several jobs on the model at once: each its own right picture, each stopped alone, and no more of them than there are seats."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from conftest import tiny_pipe
from PIL import Image
from serving import eventually

from sisrm.errors import Interrupted, ParameterError
from sisrm.images import Photo
from sisrm.ui.blocks import build_app
from sisrm.ui.handlers import Handlers
from sisrm.ui.jobs import Job
from sisrm.ui.progress import Watch
from sisrm.ui.seats import MOST, Seats, concurrency


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipe()


class Meeting:
    """Counts the jobs that are in the U-Net at the same time. Each stays there for a moment, and until `wanted` of them have met."""

    def __init__(self):
        self.inside, self.most, self.wanted, self.changed = 0, 0, 1, threading.Condition()

    def enter(self, *_) -> None:
        with self.changed:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.changed.notify_all()
            if not self.changed.wait_for(lambda: self.most >= self.wanted, 30):
                self.end()
        time.sleep(0.05)

    def leave(self, *_) -> None:
        with self.changed:
            self.inside -= 1

    def end(self) -> None:
        """Nobody waits any longer."""
        with self.changed:
            self.wanted = 0
            self.changed.notify_all()


@pytest.fixture
def meeting(pipe):
    meeting = Meeting()
    hooks = [pipe.unet.register_forward_pre_hook(meeting.enter), pipe.unet.register_forward_hook(meeting.leave)]
    yield meeting
    meeting.end()
    for hook in hooks:
        hook.remove()


def start(handlers, folder, number: int) -> Job:
    """A job with a photo, a number of steps and a place to start of its own."""
    pixels = np.random.default_rng(number).integers(0, 255, (16 + 8 * (number % 3), 24, 3), dtype=np.uint8)
    values = {
        "steps": 3 + number % 4,
        "seed": number,
        "start_strength": 0.3 + 0.1 * (number % 5),
        "mff": number % 2 == 0,
    }
    settings = handlers.check({"guidance_scale": 1.0 + number % 2, **values})
    (folder / str(number)).mkdir(parents=True)
    work = Photo(Image.fromarray(pixels)), settings, folder / str(number)
    return Job(lambda watch: handlers.upscale(*work, watch=watch), Watch(handlers.pace))


def pictures(handlers, folder, numbers) -> list[bytes]:
    jobs = [start(handlers, folder, number) for number in numbers]
    done = [[*job.updates()][-1].result for job in jobs]
    return [Image.open(entry.result).tobytes() for entry in done]


@pytest.mark.parametrize("seats", [1, 2, 3])
def test_as_many_jobs_run_as_there_are_seats_and_each_is_right(pipe, meeting, tmp_path, seats):
    handlers = Handlers(pipe, {}, seats)
    meeting.wanted = seats
    together = pictures(handlers, tmp_path / "together", range(6))
    assert meeting.most == seats and not handlers.busy
    alone = [pictures(Handlers(tiny_pipe(), {}), tmp_path / "alone", [number])[0] for number in range(6)]
    assert together == alone and len(set(alone)) == 6


def test_a_job_that_is_cancelled_does_not_stop_its_neighbour(pipe, meeting, tmp_path):
    handlers = Handlers(pipe, {}, 2)
    meeting.wanted = 3  # both wait in their first step
    stays, goes = start(handlers, tmp_path, 3), start(handlers, tmp_path, 7)
    eventually(lambda: meeting.most == 2)
    goes.cancel()
    meeting.end()
    with pytest.raises(Interrupted):
        list(goes.updates())
    (*_, last) = stays.updates()
    assert Image.open(last.result.result).tobytes() == pictures(Handlers(pipe, {}), tmp_path / "alone", [3])[0]
    assert goes.wait(30) and handlers.seats.taken == 0


def test_a_seat_is_free_again_whatever_happens_in_it(pipe):
    seats = Seats(pipe, 2)
    with pytest.raises(ZeroDivisionError), seats.take(lambda: None):
        raise ZeroDivisionError

    def unwanted():
        raise Interrupted("the job was cancelled")

    with pytest.raises(Interrupted), seats.take(unwanted):
        pass
    with seats.take(lambda: None) as first, seats.take(lambda: None) as second:
        assert first is not second and first.unet is second.unet and first.scheduler is not second.scheduler
        assert seats.taken == 2
        with pytest.raises(Interrupted), seats.take(unwanted):
            pass
    assert seats.taken == 0


def test_the_app_takes_the_number_from_the_environment(pipe, monkeypatch):
    monkeypatch.setenv("SISRM_CONCURRENCY", "2")
    app = build_app(pipe)
    limits = {fn.concurrency_id: fn.concurrency_limit for fn in app.fns.values() if fn.concurrency_id == "model"}
    assert app.handlers.seats.count == 2 and limits == {"model": 2}
    monkeypatch.delenv("SISRM_CONCURRENCY")
    assert concurrency() == 1


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", str(MOST + 1), "9" * 5000, "²"])
def test_another_number_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("SISRM_CONCURRENCY", value)
    with pytest.raises(ParameterError, match="SISRM_CONCURRENCY is .*accepted: a whole number from 1 to 16"):
        concurrency()


def test_parts_that_take_turns_on_a_device_allow_one_job(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "_offload_device", "cuda", raising=False)
    assert Seats(pipe, 1).count == 1
    with pytest.raises(ParameterError, match="accepted: 1, as the model's parts take turns"):
        Seats(pipe, 2)
