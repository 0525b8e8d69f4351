"""UniPC in DDIM's place: the same noise schedule, other steps, previews that are estimates and not noise."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, UniPCMultistepScheduler
from PIL import Image

from sisrm import cli
from sisrm.errors import ParameterError
from sisrm.made_with import read_made_with
from sisrm.schedulers import choose_scheduler, clean_estimate


def restored(pipe, photo, steps: int = 6, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(photo, num_inference_steps=steps, generator=generator, output_type="pt", **options).images


@pytest.mark.parametrize("name", ["tiny_pipeline", "sd_pipeline"])
def test_the_pipeline_runs_with_unipc(name, photo, request):
    """From part of the way up (compact's velocities) and from the top (Stable Diffusion's noise), guidance on."""
    pipe = request.getfixturevalue(name)
    before = pipe.scheduler
    plain = restored(pipe, photo)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    try:
        assert pipe.scheduler.config.prediction_type == before.config.prediction_type
        assert torch.equal(pipe.scheduler.alphas_cumprod, before.alphas_cumprod)
        once, again = restored(pipe, photo), restored(pipe, photo)
        assert once.shape == plain.shape and torch.equal(once, again) and not torch.equal(once, plain)
        steps = []
        pipe(photo, num_inference_steps=3, callback_on_step_end=lambda *given: steps.append(given[1:3]) or {})
        assert [index for index, _ in steps] == [0, 1, 2] and len({timestep for _, timestep in steps}) == 3
    finally:
        pipe.scheduler = before


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["ddim", "unipc"])
def test_a_perfect_network_leads_every_scheduler_to_the_picture(name, prediction):
    """From any start on; and the estimate after each step is the clean picture, not the noisy latents."""
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"beta_schedule": "scaled_linear", "prediction_type": prediction, "clip_sample": False, "steps_offset": 1}
    scheduler = choose_scheduler(name, DDIMScheduler(beta_start=0.00085, beta_end=0.012, **options))
    scheduler.set_timesteps(10)
    for first in (0, 4):
        scheduler.set_timesteps(10)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        latents = scheduler.add_noise(clean, noise, timesteps[:1])
        for timestep in timesteps:
            alpha = scheduler.alphas_cumprod[timestep]
            exact = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()  # of the latents as they are
            predicted = exact if prediction == "epsilon" else alpha.sqrt() * exact - (1 - alpha).sqrt() * clean
            step = scheduler.step(predicted, timestep, latents)
            torch.testing.assert_close(clean_estimate(scheduler, step), clean, atol=2e-3, rtol=0)
            latents = step.prev_sample
        assert (latents - clean).abs().max() < 0.2  # DDIM of Stable Diffusion ends a little above no noise at all


def test_previews_with_unipc_are_estimates(sd_pipeline, photo):
    before, states = sd_pipeline.scheduler, []
    sd_pipeline.scheduler = choose_scheduler("unipc", before)
    try:
        restored(sd_pipeline, photo, callback_on_step_end=lambda *given: states.append(given[3]) or {})
    finally:
        sd_pipeline.scheduler = before
    # an estimate differs from the latents of its own step by far more than rounding, as those are still full of noise
    assert all((state["estimate"] - state["latents"]).abs().mean() > 0.05 for state in states[:-1])
    assert states[0]["preview"]()[0].size == (96, 80)


def test_only_known_schedulers_and_none_in_the_fast_mode():
    assert type(choose_scheduler("ddim", choose_scheduler("unipc", DDIMScheduler()))) is DDIMScheduler
    with pytest.raises(ParameterError, match="scheduler is 'euler'; accepted: one of ddim, unipc"):
        choose_scheduler("euler", DDIMScheduler())
    with pytest.raises(ParameterError, match="fast mode"):
        choose_scheduler("unipc", LCMScheduler())


def test_upscale_takes_the_scheduler(sd, photo, capsys):
    photo.save(sd / "a.png")
    upscale = ["upscale", str(sd / "a.png"), "--preset", "sd", "--device", "cpu", "--seed", "1", "--steps", "2"]
    for name in ("ddim", "unipc"):
        assert cli.main([*upscale, "--scheduler", name, "-o", str(sd / f"{name}.png")]) == 0
    assert cli.main([*upscale, "-o", str(sd / "own.png")]) == 0
    own, ddim, unipc = (Image.open(sd / f"{name}.png").tobytes() for name in ("own", "ddim", "unipc"))
    assert own == ddim != unipc
    assert read_made_with(sd / "unipc.png")["scheduler"] == "unipc"
    assert cli.main([*upscale, "--scheduler", "unipc", "-o", str(sd / "ddim.png")]) == 0
    assert Image.open(sd / "ddim.png").tobytes() == unipc, "another scheduler is another request"
    capsys.readouterr()
    assert cli.main([*upscale, "--fast", "--scheduler", "unipc", "-o", str(sd / "fast.png")]) == 2
    assert "--scheduler is 'unipc'; accepted: none in the fast mode" in capsys.readouterr().err
