"""What only a CUDA device can show; all of it is skipped where there is none, so run it by hand: `python -m pytest tests/test_gpu.py`."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from diffusers import LCMScheduler, UniPCMultistepScheduler

from sisrm.presets import load_pipeline
from sisrm.replay import Recorder, Recording, Replay
from sisrm.ui.seats import _twin

CUDA = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def double(tensor):
    return (2 * tensor,)


def test_a_recorder_records_on_the_gpu():
    replay = Replay()
    results = [replay("double", double, torch.full((5,), float(value), device=CUDA))[0] for value in range(4)]
    assert [result.tolist() for result in results] == [[2.0 * value] * 5 for value in range(4)]
    assert sum(isinstance(known, Recording) for known in replay._known.values()) == 1


def test_work_that_asks_for_a_value_is_not_recorded_on_the_gpu(caplog):
    replay = Replay(Recorder)
    for value in (1.0, 2.0, 3.0):
        asked = replay("ask", lambda given: (given * given.item(),), torch.tensor(value, device=CUDA))[0]
        assert asked == value**2
    assert "ask is not recorded" in caplog.text
    assert replay("double", double, torch.ones(2, device=CUDA))[0].tolist() == [2.0, 2.0]


@pytest.mark.parametrize("size", [(32, 32), (48, 40), (150, 70)])
def test_the_bundled_pipeline_gives_the_same_bits_on_the_gpu(photo, size):
    plain, recorded = (load_pipeline("compact", "cuda", compile=name) for name in ("off", "graphs"))
    twin = copy.copy(recorded)

    def run(pipe, seed: int, **settings):
        generator = torch.Generator().manual_seed(seed)
        return pipe(photo.resize(size), generator=generator, output_type="pt", tile_size=64, **settings).images

    for settings in ({}, {"guidance_scale": 2.0}, {"use_sca": False}, {"use_mff": False}, {"detail_strength": 0.5}):
        for seed in range(3):
            expected = run(plain, seed, **settings)
            for pipe in (recorded, twin):
                assert torch.equal(run(pipe, seed, **settings), expected), (settings, seed)
    assert recorded.replay.held > 0


@pytest.mark.parametrize("kind", [UniPCMultistepScheduler, LCMScheduler])
def test_other_schedulers_give_the_same_bits_on_the_gpu(photo, kind):
    results = []
    for name in ("off", "graphs"):
        pipe = load_pipeline("compact", "cuda", compile=name)
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        for _ in range(3):
            generator = torch.Generator().manual_seed(1)
            output = pipe(photo, num_inference_steps=4, generator=generator, output_type="pt")
        results.append(output.images)
    assert torch.equal(*results) and results[0].isfinite().all()


def test_jobs_in_threads_of_their_own_share_recordings_on_the_gpu(photo):
    plain, recorded = (load_pipeline("compact", "cuda", compile=name) for name in ("off", "graphs"))

    def run(pipe, seed: int) -> torch.Tensor:
        return pipe(photo, generator=torch.Generator().manual_seed(seed), output_type="pt").images

    expected = [run(plain, seed) for seed in range(4)]
    found: dict[int, torch.Tensor] = {}

    def job(seed: int) -> None:
        with torch.no_grad():
            found[seed] = run(_twin(recorded), seed)

    for together in (1, 4):  # as the app's jobs, each in a thread that is new, on a pipeline of its own around the same networks
        found.clear()
        for first in range(0, 4, together):
            threads = [threading.Thread(target=job, args=(seed,)) for seed in range(first, first + together)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert all(torch.equal(found[seed], expected[seed]) for seed in range(4))
