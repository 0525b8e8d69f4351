"""CUDA graphs: what is recorded, when, and that a replay is as good as the work itself. What needs a GPU is in test_gpu.py."""

from __future__ import annotations

import threading
import types

import pytest
import torch
from conftest import tiny_pipe

from sisrm import memory, runtime
from sisrm import replay as replay_module
from sisrm.errors import ParameterError
from sisrm.evaluation import complexity
from sisrm.presets import load_pipeline
from sisrm.remembering import once, remembering
from sisrm.replay import Recorder, Recording, Replay
from sisrm.runtime import AttentionBackend, asked_acceleration, choose_acceleration, describe, prepare

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class StandIn:
    """A recorder for machines without a GPU: reads and writes fixed memory as a graph does, and counts what it is asked for."""

    size = 100

    def __init__(self, log: list):
        self.log = log
        log.append("pool")

    def __call__(self, function, given) -> Recording:
        given = tuple(tensor.clone() for tensor in given)
        made = tuple(entry.clone() for entry in function(*given))

        def replay() -> None:
            self.log.append("replay")
            for place, value in zip(made, function(*given)):
                place.copy_(value)

        self.log.append("record")
        return Recording(given, made, replay, self.size)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def log():
    return []


@pytest.fixture
def replay(log):
    return Replay(lambda: StandIn(log), limit=1000)


def double(tensor):
    return (2 * tensor,)


def test_work_is_recorded_when_it_comes_again(replay, log):
    results = [replay("double", double, torch.full((3,), float(value)))[0] for value in range(4)]
    assert log == ["pool", "record", "replay", "replay", "replay"]
    # Each result is memory of its own: a later replay does not change it.
    assert [result.tolist() for result in results] == [[2.0 * value] * 3 for value in range(4)]


@pytest.mark.parametrize(
    "other",
    [
        ("triple", torch.zeros(3)),
        ("double", torch.zeros(4)),
        ("double", torch.zeros(3, dtype=torch.float64)),
        ("double", torch.zeros(3, 2)[:, 0]),
    ],
)
def test_other_work_has_a_recording_of_its_own(replay, log, other):
    for _ in range(2):
        replay("double", double, torch.zeros(3))
    replay(other[0], double, other[1])
    assert log == ["pool", "record", "replay"]
    replay(other[0], double, other[1])
    assert log.count("record") == 2


def test_what_is_not_given_is_no_tensor(replay, log):
    def joined(first, second, third):
        assert second is None
        return (first + third,)

    for value in (1.0, 2.0, 3.0):
        assert replay("join", joined, torch.tensor(value), None, torch.tensor(1.0))[0] == value + 1
    assert log.count("record") == 1
    with pytest.raises(AssertionError):
        replay("join", joined, torch.tensor(1.0), torch.tensor(1.0), torch.tensor(1.0))


def test_gradients_are_never_recorded(replay, log):
    given = torch.ones(3, requires_grad=True)
    for _ in range(3):
        with torch.enable_grad():
            assert replay("double", double, given)[0].requires_grad
    assert log == ["pool"]


def test_what_cannot_be_recorded_runs_as_it_is(log, caplog):
    class Refusing(StandIn):
        def __call__(self, function, given):
            self.log.append("tried")
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    replay = Replay(lambda: Refusing(log))
    for value in (1.0, 2.0, 3.0):
        assert replay("double", double, torch.tensor(value))[0] == 2 * value
    assert log == ["pool", "tried"]
    assert "double is not recorded as a CUDA graph: operation not permitted when stream is capturing" in caplog.text


def test_recordings_stay_within_their_limit(replay, log):
    for size in range(1, 13):
        for _ in range(2):
            assert replay("double", double, torch.ones(size))[0].tolist() == [2.0] * size
        assert replay.held <= replay.limit
    # The eleventh did not fit beside ten of 100 bytes: memory that they share comes free with the last of them only.
    assert log.count("pool") == 2 and replay.held < 1000


def test_one_that_is_too_large_for_the_limit_is_not_kept_and_not_tried_again(log, monkeypatch):
    monkeypatch.setattr(StandIn, "size", 2000)
    replay = Replay(lambda: StandIn(log), limit=1000)
    for value in (1.0, 2.0, 3.0):
        assert replay("double", double, torch.tensor(value))[0] == 2 * value
    assert log == ["pool", "record"] and replay.held == 0


def test_shapes_that_were_seen_once_are_forgotten_some_day(replay, log, monkeypatch):
    monkeypatch.setattr(replay_module, "MOST_KNOWN", 5)
    for _ in range(2):
        replay("double", double, torch.ones(50))
    for size in range(1, 20):
        replay("double", double, torch.ones(size))
    assert len(replay._known) <= 6 and log.count("record") == 1
    replay("double", double, torch.ones(50))
    assert log[-1] == "replay"


def test_memory_that_runs_short_frees_recordings(replay, log):
    for _ in range(2):
        replay("double", double, torch.ones(3))
    assert replay.held == 100
    memory.release_memory()
    assert replay.held == 0 and log[-1] == "pool"


def test_a_pipeline_that_moves_begins_anew(tiny_pipeline, photo, log):
    tiny_pipeline.replay = Replay(lambda: StandIn(log))
    for _ in range(2):
        tiny_pipeline(photo)
    assert tiny_pipeline.replay.held > 0
    assert tiny_pipeline.to("cpu") is tiny_pipeline and tiny_pipeline.replay.held == 0 and log[-1] == "pool"


def test_a_real_recorder_leaves_work_on_a_cpu_as_it_is(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    replay = Replay(Recorder)
    for value in (1.0, 2.0, 3.0):
        assert replay("double", double, torch.tensor(value))[0] == 2 * value
    assert caplog.text.count("double is not recorded") == 1


def test_a_recording_remembers_nothing_of_a_run(replay):
    calls = []

    def work(given):
        return (once("sum", given, lambda: calls.append(1) or given.sum()),)

    given = torch.ones(3)
    with remembering():
        for _ in range(2):
            replay("work", work, given)
    with remembering():
        given.add_(1)
        assert replay("work", work, given)[0] == 6
    assert len(calls) >= 3


def test_threads_do_not_mix_their_numbers(log):
    replay, wrong = Replay(lambda: StandIn(log)), []

    def work(value: float) -> None:
        with torch.no_grad():
            for _ in range(200):
                result = replay("double", double, torch.full((64,), value))[0]
                if not torch.equal(result, torch.full((64,), 2 * value)):
                    wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(value),)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 3.0},
        {"use_sca": False, "use_mff": False},
        {"use_sape": False, "color_fix": "adain", "detail_strength": 0.5},
        {"controlnet_conditioning_scale": 0.0, "color_fix": "none"},
    ],
)
def test_the_pipeline_gives_the_same_bits_and_every_network_is_recorded(tiny_pipeline, photo, log, settings):
    photo = photo.resize((32, 32))

    def run(seed: int):
        return tiny_pipeline(photo, generator=torch.Generator().manual_seed(seed), output_type="pt", **settings).images

    expected = [run(seed) for seed in range(3)]
    tiny_pipeline.replay = Replay(lambda: StandIn(log))
    assert all(torch.equal(run(seed), expected[seed]) for seed in (0, 1, 2, 0, 1))
    names = {str(key[0]).split("'")[1] if isinstance(key[0], tuple) else key[0] for key in tiny_pipeline.replay._known}
    assert names == {"SAPE", "text encoder", "image encoder", "denoising", "VAE decode", "finish"}
    assert log.count("record") == len(tiny_pipeline.replay._known)


def test_tiles_of_one_size_share_a_recording(tiny_pipeline, photo, log):
    photo = photo.resize((150, 70))

    def run():
        return tiny_pipeline(photo, tile_size=64, generator=torch.Generator().manual_seed(1), output_type="pt").images

    expected = run()
    tiny_pipeline.replay = Replay(lambda: StandIn(log))
    assert torch.equal(run(), expected) and torch.equal(run(), expected)
    assert log.count("replay") > log.count("record") > 0


def test_the_vae_of_stable_diffusion_is_recorded_too(sd_pipeline, log):
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def run():
        return sd_pipeline(image, generator=torch.Generator().manual_seed(1), output_type="pt").images

    expected = run()
    sd_pipeline.replay = Replay(lambda: StandIn(log))
    assert all(torch.equal(run(), expected) for _ in range(3))
    assert "VAE encode" in {key[0] for key in sd_pipeline.replay._known}


def test_operations_are_counted_though_work_is_recorded(tiny_pipeline, log):
    plain = complexity.measure(tiny_pipeline, 32, repeats=1)
    tiny_pipeline.replay = recorded = Replay(lambda: StandIn(log))
    assert complexity.measure(tiny_pipeline, 32, repeats=1)["gflops"] == plain["gflops"]
    assert tiny_pipeline.replay is recorded and log.count("replay") > 0
    assert complexity.held_by_recordings(tiny_pipeline) == recorded.held > 0


def test_what_runs_is_chosen_by_what_the_machine_can(monkeypatch):
    assert choose_acceleration("off", CUDA, False).name == "off"
    assert choose_acceleration("graphs", CUDA, False).name == "graphs"
    assert choose_acceleration("inductor", CPU, False).name == "inductor"
    assert choose_acceleration("graphs", CPU, False).reason == "cpu has no CUDA graphs"
    assert choose_acceleration("graphs", CUDA, True).name == "off"
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert choose_acceleration("graphs", CUDA, False).name == "off"
    assert choose_acceleration("inductor", CUDA, False).reason == "asked for, ahead of time"


def test_what_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("SISRM_COMPILE", raising=False)
    assert asked_acceleration(None) == "off" and asked_acceleration(None, "graphs") == "graphs"
    monkeypatch.setenv("SISRM_COMPILE", "inductor")
    assert asked_acceleration(None, "graphs") == "inductor" and asked_acceleration("off") == "off"
    monkeypatch.setenv("SISRM_COMPILE", "fast")
    with pytest.raises(ParameterError, match="SISRM_COMPILE is 'fast'; accepted: one of off, graphs, inductor"):
        load_pipeline(str(tmp_path), "cpu")


def test_inductor_compiles_what_is_called_at_every_step(monkeypatch):
    pipe, compiled = tiny_pipe(), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    prepare(pipe, CPU, "inductor")
    assert compiled == [pipe.unet, pipe.controlnet] and pipe.replay is None
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    prepare(pipe, CPU, "inductor")
    assert len(compiled) == 2, "on ZeroGPU it is compiled ahead of time"
    monkeypatch.delenv("SPACES_ZERO_GPU")
    assert describe(pipe)["compile"] == "inductor" and describe(pipe)["attention_backend"] == "sdpa"


def test_a_small_gpu_keeps_fewer_recordings(monkeypatch):
    pipe = tiny_pipe()
    properties = types.SimpleNamespace(total_memory=12 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(pipe, "to", lambda device: pipe)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(runtime, "choose_attention_backend", lambda *_: AttentionBackend("sdpa", "tried"))
    prepare(pipe, CUDA, "graphs")
    assert pipe.replay.limit == 1.5 * 2**30 and describe(pipe)["compile"] == "graphs"
    properties.total_memory = 80 * 2**30
    assert prepare(pipe, CUDA, "graphs").replay.limit == replay_module.LIMIT
