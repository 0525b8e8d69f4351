"""Training in several processes, and in several parts of a step, is training in one: the same losses, the same weights."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections import Counter
from itertools import chain

import pytest
import torch
from conftest import tiny_pipe
from launching import environment, launched
from PIL import Image
from safetensors.torch import load_file

from sisrm.attention import is_segmentation_key
from sisrm.errors import ParameterError
from sisrm.pipeline import SISRMPipeline
from sisrm.training.autoencoder import AutoencoderStage
from sisrm.training.backbone import BackboneStage
from sisrm.training.batches import Batches
from sisrm.training.data import Photos
from sisrm.training.finishing import FinishingStage
from sisrm.training.it2ic import It2icStage
from sisrm.training.loop import LoopSettings, train
from sisrm.training.randomness import StepGenerator, random_normal, random_uniform
from sisrm.training.sape import SapeStage


def attentive(pipe):
    """A segmenter and a mask encoder whose answers differ between images, as trained ones' do; of tiny random ones the gradient is
    hardly more than rounding, which depends on the processor."""
    for part in (pipe.sape.mask_encoder, pipe.segmenter.decode_head.classifier):
        for parameter in part.parameters():
            parameter.data.mul_(30)
    return pipe


STAGES = {
    "autoencoder": lambda pipe: AutoencoderStage(pipe.vae, crop=32),
    "sape": lambda pipe: SapeStage(pipe, crop=64, side=64, rank=2),
    "backbone": lambda pipe: BackboneStage(pipe, crop=64),
    "it2ic": lambda pipe: It2icStage(pipe, crop=64),
}


@pytest.fixture
def folder(tmp_path, photo):
    """Four photos without label maps."""
    (tmp_path / "photos").mkdir()
    for index in range(4):
        photo.rotate(90 * index, expand=True).resize((80, 80), Image.Resampling.BICUBIC).save(
            tmp_path / "photos" / f"{index}.png"
        )
    return tmp_path / "photos"


def weights(folder) -> dict[str, torch.Tensor]:
    """All weights of a pipeline folder."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {f"{path.parent.name}.{key}": value for path in files for key, value in load_file(path).items()}


def assert_alike(first: dict, second: dict, start: dict, limit: float = 1e-2) -> None:
    """The same weights within `limit` of how far training moved them."""
    assert first.keys() == second.keys() == start.keys()
    moved = max(float((first[key] - start[key]).abs().max()) for key in first)
    apart = max(float((first[key] - second[key]).abs().max()) for key in first)
    assert moved > 1e-5 and apart < limit * moved, f"{apart} apart after moving {moved}"


@pytest.mark.parametrize("processes, parts, batch", [(1, 1, 4), (2, 1, 4), (3, 1, 32), (2, 3, 7), (1, 4, 4)])
def test_every_sample_of_a_step_is_worked_on_once(processes, parts, batch):
    shares = [list(Batches(batch, 3, 1, parts, process, processes)) for process in range(processes)]
    assert all(len(share) == 2 * parts for share in shares)
    for step in (0, 1):
        numbers = [share[step * parts : (step + 1) * parts] for share in shares]
        done = Counter(chain.from_iterable(chain.from_iterable(numbers)))
        assert done == Counter(range((step + 1) * batch, (step + 2) * batch))
    dealer = Batches(batch, 3, 0, parts, 0, processes)
    sizes = [len(part) for share in shares for part in share[:parts]]
    assert min(sizes) > 0 and sum(map(dealer.weight, sizes)) == pytest.approx(len(sizes))


def test_a_batch_with_fewer_images_than_shares_is_refused():
    with pytest.raises(ParameterError, match="--batch is 3; accepted: at least 1 image .*2 processes x accumulation 2"):
        Batches(3, 1, 0, 2, 0, 2)


def test_a_sample_draws_the_same_wherever_it_is_worked_on():
    whole, part = StepGenerator(5, 7, range(4)), StepGenerator(5, 7, [2, 3])
    like = torch.zeros(())
    assert torch.equal(random_normal((4, 3, 8), whole, like)[2:], random_normal((2, 3, 8), part, like))
    assert torch.equal(random_uniform((4, 1), whole)[2:], random_uniform((2, 1), part))
    assert torch.rand((), generator=whole) == torch.rand((), generator=part)
    noise = random_normal((4, 64), StepGenerator(5, 8, range(4)), like)
    assert len({tuple(row.tolist()) for row in noise}) == 4
    assert torch.rand((), generator=StepGenerator(5, 9, [])) != torch.rand((), generator=StepGenerator(6, 9, []))


@pytest.mark.parametrize("name", list(STAGES))
def test_accumulated_parts_make_the_step_of_the_whole_batch(name, folder, tmp_path):
    """Averages and learning rate included, and with parts of unequal size."""
    results = []
    for parts in (1, 2):
        pipe = attentive(tiny_pipe())
        output = tmp_path / str(parts)
        for target in (tmp_path / "start", output / "model"):
            pipe.save_pretrained(target)
        torch.manual_seed(0)  # of LoRA's first weights
        settings = LoopSettings(
            output=str(output), steps=3, batch=3, accumulation=parts, learning_rate=1e-3, warmup=2, workers=0, ema_decay=0.5
        )  # fmt: skip
        results.append((train(STAGES[name](pipe), Photos([folder]), settings), weights(output / "model")))
    (whole, first), (split, second) = results
    for figure in ("loss", "gradient"):
        assert split[figure] == pytest.approx(whole[figure], rel=1e-4)
    start = weights(tmp_path / "start")
    kept = [key for key in start if name != "backbone" or not key.startswith("controlnet.")]  # backbone makes a new one
    assert_alike(*({key: entries[key] for key in kept} for entries in (first, second, start)))


def test_stages_whose_roles_take_turns_do_not_accumulate(folder, tmp_path):
    stage = FinishingStage(tiny_pipe(), None, crop=64)
    with pytest.raises(ParameterError, match="--accumulation is 2; accepted: 1 for finishing"):
        train(stage, Photos([folder]), LoopSettings(str(tmp_path), steps=1, batch=2, accumulation=2))


RECORDED = """
import json, os, sys
from pathlib import Path
from sisrm import cli
from sisrm.training.it2ic import It2icStage

forward, losses = It2icStage.forward, []

def recording(stage, batch, role, generator):
    loss, figures = forward(stage, batch, role, generator)
    losses.append((batch["index"].tolist(), float(loss.detach())))
    return loss, figures

if __name__ == "__main__":
    It2icStage.forward = recording
    status = cli.main(sys.argv[2:])
    Path(sys.argv[1], os.environ.get("RANK", "0") + ".json").write_text(json.dumps(losses))
    sys.exit(status)
"""


def losses(folder) -> list[float]:
    """Of every step, from what each process saw: the mean over its samples."""
    steps: dict[int, list[tuple[int, float]]] = {}
    for path in folder.glob("*.json"):
        for numbers, loss in json.loads(path.read_text()):
            steps.setdefault(numbers[0] // 5, []).append((len(numbers), loss))
    assert all(sum(count for count, _ in seen) == 5 for seen in steps.values())
    return [sum(count * loss for count, loss in steps[step]) / 5 for step in sorted(steps)]


def test_two_processes_train_what_one_trains(folder, sd_parts, tmp_path, monkeypatch, capsys):
    """gloo on the CPU, through the command, on Stable Diffusion's parts: five images per step, which one process takes at once, and
    two in two parts each, of one, one, one and two images, with gradient checkpointing."""
    pipe = SISRMPipeline.from_parts(sd_parts)
    generator = torch.Generator().manual_seed(0)
    for key, parameter in [*pipe.unet.named_parameters(), *pipe.controlnet.named_parameters()]:
        if is_segmentation_key(key):  # an untrained SCA has no say, and its gradients are hardly more than rounding
            parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    pipe.save_pretrained(tmp_path / "start")
    (tmp_path / "recorded.py").write_text(RECORDED)
    monkeypatch.setattr(It2icStage, "forward", It2icStage.forward)  # put back after the test
    for processes in (1, 2):
        seen, output = tmp_path / f"seen{processes}", tmp_path / f"run{processes}"
        seen.mkdir()
        arguments = [tmp_path / "recorded.py", seen, "train", "it2ic", "--preset", "sd", "--data", folder]
        arguments += ["--model", tmp_path / "start", "--output", output, "--steps", "3", "--batch", "5", "--crop", "64"]
        arguments += ["--ema", "0.5", "--workers", "0", "--checkpoint-minutes", "0"]
        if processes == 1:
            monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
            with pytest.raises(SystemExit, match="0"):
                runpy.run_path(str(arguments[0]), run_name="__main__")
            told = capsys.readouterr().out
        else:
            arguments += ["--accumulation", "2", "--gradient-checkpointing"]
            done = subprocess.run(launched(*arguments), env=environment(), capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "seen2").iterdir()) == ["0.json", "1.json"]
    one, two = losses(tmp_path / "seen1"), losses(tmp_path / "seen2")
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-4)
    line = next(line for line in told.splitlines() if line.startswith("it2ic: "))
    assert done.stdout.count("it2ic: ") == 1 and line in done.stdout, "one process tells the figures of all"
    assert_alike(
        *(weights(tmp_path / f"run{processes}" / "model") for processes in (1, 2)), weights(tmp_path / "start")
    )
