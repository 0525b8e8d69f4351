"""Training: seeded samples, every stage takes a step that lowers nothing but its own weights, resume is exact, folders chain."""

from __future__ import annotations

import copy
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from conftest import tiny_pipe
from PIL import Image
from safetensors.torch import load_file

from sisrm import cli
from sisrm.controlnet import SegmentationControlNet
from sisrm.errors import ParameterError, WeightsError
from sisrm.evaluation.teacher import Teacher
from sisrm.pipeline import SISRMPipeline
from sisrm.training.autoencoder import AutoencoderStage
from sisrm.training.backbone import BackboneStage, diffusion_target
from sisrm.training.compact import build_compact, label_tokenizer
from sisrm.training.conditions import (
    class_shares,
    presence_targets,
    prompts_from_classes,
    random_region,
    read_semantics,
)
from sisrm.training.data import UNSURE, Crops, CropSettings, Photos
from sisrm.training.finishing import FinishingStage
from sisrm.training.it2ic import It2icStage, condition_on
from sisrm.training.label_head import fit_linear, pooled_embeddings, refit
from sisrm.training.loop import LoopSettings, train
from sisrm.training.sape import LabelsStage, SapeStage, cross_entropy
from sisrm.training.segmenter import SegmenterStage, mix, random_rectangles
from sisrm.training.teacher_answers import TeacherAnswers
from sisrm.training.texture import energy_l1, grid_l1, soften, spectrum_l1


def encoded(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """Three photos of 96 x 80 with class maps: left half sky, right half tree, a strip not sure."""
    path = tmp_path_factory.mktemp("data") / "train-00.tar"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as archive:
        for index in range(3):
            pixels = rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)
            classes = np.full((80, 96), 5, np.uint8)
            classes[:, :48] = 3
            classes[:8] = 0
            photo = Image.fromarray(pixels).resize((96, 80), Image.Resampling.BICUBIC)
            files = {f"src{index % 2}_{index}.jpg": encoded(photo, format="JPEG", quality=95),
                     f"src{index % 2}_{index}.seg.png": encoded(Image.fromarray(classes), format="PNG")}  # fmt: skip
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def photos(shard):
    return Photos([shard])


def stages(pipe, photos):
    torch.manual_seed(0)
    teacher = Teacher().requires_grad_(False).eval()
    return {
        "autoencoder": lambda: AutoencoderStage(pipe.vae, crop=32),
        "segmenter": lambda: SegmenterStage(pipe.segmenter, TeacherAnswers(teacher, photos), crop=64),
        "labels": lambda: LabelsStage(pipe, crop=64, side=64),
        "sape": lambda: SapeStage(pipe, crop=64, side=64, rank=2),
        "backbone": lambda: BackboneStage(pipe, crop=64),
        "it2ic": lambda: It2icStage(pipe, crop=64, train_unet=False),
        "finishing": lambda: FinishingStage(pipe, teacher, crop=64, warmup=1),
        "finishing with a frozen U-Net": lambda: FinishingStage(pipe, teacher, crop=64, warmup=1, train_unet=False),
    }


# which components each stage may move; all others must stay as they were, bit for bit
TRAINED = {
    "autoencoder": {"vae"},
    "segmenter": {"segmenter"},
    "labels": {"sape"},
    "sape": {"segmenter", "sape"},
    "backbone": {"unet", "text_encoder", "controlnet"},
    "it2ic": {"unet", "controlnet", "image_encoder", "sape"},
    "finishing": {"vae", "unet", "controlnet", "image_encoder"},
    "finishing with a frozen U-Net": {"vae", "image_encoder"},
}


def settings(output, **changes) -> LoopSettings:
    options = {"steps": 2, "batch": 2, "learning_rate": 1e-2, "warmup": 1, "workers": 0, "ema_decay": 0.0}
    return LoopSettings(output=str(output), **(options | changes))


@pytest.mark.parametrize("name", list(TRAINED))
def test_each_stage_trains_its_own_parts_and_writes_a_loadable_folder(name, photos, tmp_path):
    pipe = tiny_pipe()
    before = {
        key: copy.deepcopy(part.state_dict())
        for key, part in pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    pipe.save_pretrained(tmp_path / "run" / "model")
    figures = train(stages(pipe, photos)[name](), photos, settings(tmp_path / "run"))
    assert np.isfinite(list(figures.values())).all()
    after = SISRMPipeline.from_pretrained(tmp_path / "run" / "model")
    for key, weights in before.items():
        saved = getattr(after, key).state_dict()
        assert saved.keys() == weights.keys()
        moved = any(not torch.equal(saved[entry], weights[entry]) for entry in weights)
        assert moved == (key in TRAINED[name]), f"{name} {'moved' if moved else 'left'} {key}"


def test_it2ic_with_a_frozen_unet_trains_only_what_the_paper_trains():
    pipe = tiny_pipe()
    stage = It2icStage(pipe, crop=64, train_unet=False)
    names = {key.split(".")[0] for key, value in stage.named_parameters() if value.requires_grad}
    assert names == {"unet", "controlnet", "image_encoder", "sape"}
    trained = [key for key, value in pipe.unet.named_parameters() if value.requires_grad]
    assert trained and all("segmentation_attention" in key or "norm_segmentation" in key for key in trained)


@pytest.mark.parametrize(
    "shares, silent, heard",
    [
        ({"blind_share": 1.0, "truth_share": 0.0}, "vae.lr_fusion.weight", "unet.conv_out.weight"),
        ({"blind_share": 0.0, "truth_share": 1.0}, "unet.conv_out.weight", "vae.lr_fusion.weight"),
    ],
)
def test_finishing_can_take_the_lr_features_or_the_sampler_away_from_the_decoder(shares, silent, heard):
    pipe = tiny_pipe()
    stage = FinishingStage(pipe, None, crop=64, adversarial_weight=0.0, **shares)
    torch.nn.init.normal_(pipe.vae.lr_fusion.weight)
    batch = torch.rand(2, 3, 64, 64)
    lr = batch[..., ::4, ::4]
    result = stage.restore(batch, pipe.encode_image(lr), read_semantics(pipe, lr), torch.Generator().manual_seed(0))
    result.square().sum().backward()
    gradients = {name: part.grad for name, part in stage.named_parameters()}
    assert gradients[silent] is None or not gradients[silent].any()
    assert gradients[heard].any()


def test_the_label_generator_can_be_refitted_on_a_fixed_mask_embedding(photos, tmp_path):
    pipe = tiny_pipe()
    pipe.save_pretrained(tmp_path / "in")
    pooled, targets = pooled_embeddings(pipe, photos, 64, seed=0, passes=2)
    loss_before = float(cross_entropy(pipe.sape.label_generator(pooled), targets))
    loss = refit(tmp_path / "in", tmp_path / "out", photos, 64, passes=2)
    entropy = float(cross_entropy(targets.clamp(min=1e-9).log(), targets))
    assert entropy <= loss < 0.5 * (loss_before + entropy)
    before, after = pipe.sape.state_dict(), load_file(tmp_path / "out" / "sape" / "diffusion_pytorch_model.safetensors")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"label_generator.weight", "label_generator.bias"}


def test_linear_fit_finds_a_known_solution():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 3, generator=generator) * torch.tensor([1e-3, 1.0, 10.0]) + 5
    truth = torch.randn(4, 3, generator=generator) / torch.tensor([1e-3, 1.0, 10.0])
    targets = (inputs @ truth.T).softmax(1)
    weight, bias, _ = fit_linear(inputs, targets, decay=0.0)
    torch.testing.assert_close((inputs @ weight.T + bias).softmax(1), targets, atol=0.02, rtol=0)


def test_a_resumed_run_ends_where_an_unbroken_one_does(photos, tmp_path):
    def trained(folder, **changes):
        pipe = tiny_pipe()
        pipe.save_pretrained(folder / "model")
        train(It2icStage(pipe, crop=64), photos, settings(folder, ema_decay=0.5, **changes))
        return SISRMPipeline.from_pretrained(folder / "model").controlnet.state_dict()

    whole = trained(tmp_path / "whole", steps=4)
    # stopped half-way: the same schedule of four steps, interrupted by time, is what a killed run leaves behind
    pipe = tiny_pipe()
    stage = It2icStage(pipe, crop=64)
    original, calls = stage.forward, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    stage.forward = dying
    with pytest.raises(KeyboardInterrupt):
        train(stage, photos, settings(tmp_path / "broken", steps=4, ema_decay=0.5, checkpoint_minutes=0))
    assert json.loads((tmp_path / "broken/checkpoint/progress.json").read_text())["step"] == 2
    train(It2icStage(tiny_pipe(), crop=64), photos, settings(tmp_path / "broken", steps=4, ema_decay=0.5, resume=True))
    resumed = SegmentationControlNet.from_pretrained(tmp_path / "broken/model/controlnet").state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    # killed between two renames: the new checkpoint is whole and has the old one's place still to take
    (tmp_path / "broken/checkpoint").rename(tmp_path / "broken/checkpoint.new")
    train(It2icStage(tiny_pipe(), crop=64), photos, settings(tmp_path / "broken", steps=4, ema_decay=0.5, resume=True))
    again = SegmentationControlNet.from_pretrained(tmp_path / "broken/model/controlnet").state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    # killed while the new one was written: the old one counts
    (tmp_path / "broken/checkpoint.new").mkdir()
    (tmp_path / "broken/checkpoint.new/model.safetensors").write_text("half")
    train(It2icStage(tiny_pipe(), crop=64), photos, settings(tmp_path / "broken", steps=4, ema_decay=0.5, resume=True))
    assert json.loads((tmp_path / "broken/checkpoint/progress.json").read_text())["step"] == 4
    assert not (tmp_path / "broken/checkpoint.new").exists()


def test_finishing_goes_on_with_its_discriminator_where_it_was(photos, tmp_path):
    def run(folder, dies_at=None, **changes):
        torch.manual_seed(0)  # of the discriminator's first weights
        stage = FinishingStage(tiny_pipe(), None, crop=64, warmup=1)
        stage.pipe.save_pretrained(folder / "model")
        original, calls = stage.forward, []

        def counted(*arguments):
            calls.append(1)
            if len(calls) == dies_at:
                raise KeyboardInterrupt
            return original(*arguments)

        stage.forward = counted
        train(stage, photos, settings(folder, steps=3, ema_decay=0.5, **changes))
        return stage.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", dies_at=5, checkpoint_minutes=0)  # two roles a step: in the third
    torch.manual_seed(1)
    stage = FinishingStage(tiny_pipe(), None, crop=64, warmup=1)
    train(stage, photos, settings(tmp_path / "broken", steps=3, ema_decay=0.5, resume=True))
    resumed = stage.state_dict()
    assert any("discriminator" in key for key in whole) and int(resumed["batches"]) == 3
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_decoder_sees_what_every_number_of_steps_leaves_in_the_latents(monkeypatch):
    pipe = tiny_pipe()
    stage = FinishingStage(pipe, None, crop=64, adversarial_weight=0.0)
    lr = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    encoding, semantics = pipe.encode_image(lr), read_semantics(pipe, lr)
    made, counts = pipe.prepare_timesteps, []
    monkeypatch.setattr(pipe, "prepare_timesteps", lambda *given: counts.append(len(made(*given))) or made(*given))
    with torch.no_grad():
        for seed in range(30):
            stage.sample(encoding, semantics, torch.Generator().manual_seed(seed))
    assert set(counts) == {1, 2, 4, 8} and counts.count(8) < counts.count(1)


def test_resuming_nothing_is_an_error(photos, tmp_path):
    with pytest.raises(WeightsError, match="progress.json"):
        train(AutoencoderStage(tiny_pipe().vae, crop=32), photos, settings(tmp_path, resume=True))


def test_samples_depend_on_seed_and_number_alone(photos):
    crop = CropSettings(crop=64, scale=(0.7, 1.0), degradations=(("light", 1.0), ("seesr", 1.0)))
    first, second, other = Crops(photos, crop, seed=1), Crops(photos, crop, seed=1), Crops(photos, crop, seed=2)
    second[3]  # drawing another sample before must not matter
    a, b, c = first[7], second[7], other[7]
    assert a["hr"].shape == (3, 64, 64) and a["lr"].shape == (3, 16, 16) and a["classes"].shape == (64, 64)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["hr"], c["hr"])
    assert sorted(first.photo_of(number) for number in range(3)) == [0, 1, 2]
    assert set(a["classes"].unique().tolist()) <= {2, 4, UNSURE}


def test_label_maps_stay_on_their_pixels(photos):
    """A crop's left part is sky where the photo's left half was, mirrored or not."""
    whole = Crops(photos, CropSettings(crop=80), seed=0)
    for number in range(6):
        row = whole[number]["classes"][40]
        changes = (row[1:] != row[:-1]).sum()
        assert changes == 1 and {int(row[0]), int(row[-1])} == {2, 4}


def test_photos_come_from_shards_or_folders_and_sources_can_be_left_out(shard, tmp_path):
    assert len(Photos([shard])) == len(Photos([shard.parent])) == 3
    assert len(Photos([shard], exclude_sources=("src0",))) == 1
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    folder = Photos([tmp_path])
    assert len(folder) == 1 and folder.read(0)[2] is None
    assert (Crops(folder, CropSettings(crop=32), 0)[0]["classes"] == UNSURE).all()
    for wrong in (tmp_path / "nowhere", tmp_path / "a.png"):
        with pytest.raises(ParameterError, match="data"):
            Photos([wrong])


def test_prompt_targets():
    classes = torch.full((1, 10, 10), 2)
    classes[0, :, 8:] = 4
    classes[0, 0] = UNSURE
    assert class_shares(classes)[0, [2, 4]].tolist() == pytest.approx([0.8, 0.2])
    assert presence_targets(classes)[0, [2, 4]].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert prompts_from_classes(classes, torch.Generator(), dropout=1.0) == [""]
    assert set(prompts_from_classes(classes.repeat(20, 1, 1), torch.Generator(), dropout=0.0)) == {"sky", "sky, tree"}
    assert set(random_region((16, 16), 4, torch.Generator()).unique().tolist()) == {0.0, 1.0}


def test_shallow_teacher_features_are_the_first_of_all():
    torch.manual_seed(0)
    teacher, image = Teacher().eval(), torch.rand(1, 3, 65, 65)
    everything, shallow = teacher.features(image), teacher.features(image, 8)
    assert len(everything) == 18 and len(shallow) == 8
    assert all(torch.equal(a, b) for a, b in zip(everything, shallow))


def test_energy_loss_asks_how_much_texture_not_where():
    flat, stripes = torch.full((1, 1, 32, 32), 0.5), torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1.0
    moved = stripes.roll(1, dims=-1)
    assert energy_l1(stripes, moved) < 1e-6 < 0.1 < energy_l1(stripes, flat)


def test_grid_loss_sees_a_pattern_of_the_decoders_stride_and_no_other():
    reference = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    grid = torch.zeros_like(reference)
    grid[..., ::4, ::4] = 0.1
    assert grid_l1(reference + 0.3, reference) < 1e-6 < 0.005 < grid_l1(reference + grid, reference)
    noise = 0.1 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    assert grid_l1(reference + noise, reference) < noise.abs().mean() / 8
    assert grid_l1(reference[..., :40, :20], reference[..., :40, :20] + 0.1) < 1e-6  # smaller than a window


def test_grid_loss_hears_a_faint_grid_on_a_flat_area_beside_texture():
    generator = torch.Generator().manual_seed(0)
    reference = torch.full((1, 3, 96, 96), 0.5)
    reference[..., 48:] = torch.rand(1, 3, 96, 48, generator=generator)
    errors, grid = torch.zeros_like(reference), torch.zeros_like(reference)
    errors[..., 48:] = 0.1 * torch.randn(1, 3, 96, 48, generator=generator)
    grid[..., ::8, ::8] = 0.02
    strength = float((grid[0, 0, :8, :8] - grid.mean()).abs().mean())
    assert grid_l1(reference + grid, reference) == pytest.approx(strength, rel=0.01)
    assert grid_l1(reference + errors, reference) < strength < grid_l1(reference + errors + grid, reference)


def test_softened_photos_keep_what_is_coarse():
    photo = coarse_texture(seed=1)
    assert soften(photo, 0) is photo
    stripes = (torch.arange(96) % 2 * 2.0 - 1).expand(1, 3, 96, 96)
    assert soften(stripes, 0.7)[..., 8:-8].abs().max() < 0.2 * 1.0
    waves = torch.sin(torch.arange(96) * 2 * torch.pi / 24).expand(1, 3, 96, 96)
    soft = soften(waves, 0.7)
    assert torch.allclose(soft[..., 8:-8, 8:-8], waves[..., 8:-8, 8:-8], atol=0.04)
    assert torch.allclose(soften(waves.transpose(2, 3), 0.7), soft.transpose(2, 3), atol=1e-5)
    assert torch.allclose(soften(torch.full_like(photo, 0.3), 0.7), torch.full_like(photo, 0.3))


def test_spectrum_loss_asks_for_every_frequency_but_not_for_its_place():
    """Moved texture is as good as the photo's; too little of it is not, nor a fine hatching of the same energy in its place."""
    photo = coarse_texture(seed=0)
    hatching = (torch.arange(96) % 2 * 2.0 - 1).expand(1, 3, 96, 96) * photo.std()
    moved = spectrum_l1(photo.roll(5, dims=3), photo)
    assert spectrum_l1(photo, photo) == 0.0
    assert 1.5 * moved < spectrum_l1(photo * 0.6 + photo.mean() * 0.4, photo)
    assert 3 * moved < spectrum_l1(photo.mean() + hatching, photo)
    flat = torch.full_like(photo, 0.5)
    assert spectrum_l1(flat, flat + 0.002 * torch.randn_like(flat)) < 0.3  # half a grey level is not seen
    small = photo[..., :20, :24].clone().requires_grad_()
    spectrum_l1(small, torch.flip(photo, (2,))[..., :20, :24]).backward()
    assert torch.isfinite(small.grad).all() and small.grad.abs().sum() > 0


def coarse_texture(seed: int) -> torch.Tensor:
    """Smooth noise, (1, 3, 96, 96), with little in the highest frequencies."""
    noise = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, scale_factor=4, mode="bicubic").clamp(0, 1)


def test_target_is_the_noise_or_the_velocity():
    pipe = tiny_pipe()
    latents, noise, steps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([10, 500])
    assert torch.equal(
        diffusion_target(pipe.scheduler, latents, noise, steps), pipe.scheduler.get_velocity(latents, noise, steps)
    )
    pipe.scheduler.register_to_config(prediction_type="epsilon")
    assert torch.equal(diffusion_target(pipe.scheduler, latents, noise, steps), noise)


def test_publishing_halves_the_weights_and_keeps_other_files(tmp_path):
    tiny_pipe().save_pretrained(tmp_path / "run")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("card")
    assert cli.main(["train", "publish", "--model", str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    published = SISRMPipeline.from_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "card"
    assert published.defaults == tiny_pipe().defaults
    weights = load_file(tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}


def test_compact_architecture_is_within_its_budget_and_its_tokens_know_every_class():
    pipe = build_compact()
    parameters = sum(
        p.numel() for part in pipe.components.values() if isinstance(part, torch.nn.Module) for p in part.parameters()
    )
    assert parameters <= 20e6
    from sisrm.labels import CLASS_NAMES

    tokenizer = label_tokenizer()
    for name in CLASS_NAMES:
        assert tokenizer.unk_token_id not in tokenizer(name).input_ids
    assert tokenizer("zeppelin").input_ids[1] == tokenizer.unk_token_id
    longest = ", ".join(sorted(CLASS_NAMES, key=lambda name: -len(name.split()))[:8])
    assert len(tokenizer(longest).input_ids) <= tokenizer.model_max_length


def test_conditions_leave_out_what_the_switches_leave_out(tiny_pipeline):
    lr = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = read_semantics(tiny_pipeline, lr)
        drawn = [condition_on(tiny_pipeline, seen, torch.Generator().manual_seed(seed), 0.5) for seed in range(40)]
        whole = [condition_on(tiny_pipeline, seen, torch.Generator().manual_seed(seed), 0.0) for seed in range(8)]
    kinds = {(tokens is None, any(prompts), mask is None) for tokens, prompts, mask in drawn}
    assert {(True, False, False), (True, True, False), (False, True, False), (True, False, True)} <= kinds
    assert all(tokens is not None and all(prompts) for tokens, prompts, _ in whole)


def test_training_prompts_have_the_weights_floor(tiny_pipeline):
    lr = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = read_semantics(tiny_pipeline, lr)
        _, many, _ = condition_on(tiny_pipeline, seen, torch.Generator().manual_seed(0), 0.0)
        tiny_pipeline.register_to_config(label_floor=1.0)
        _, first, _ = condition_on(tiny_pipeline, seen, torch.Generator().manual_seed(0), 0.0)
    assert any("," in prompt for prompt in many) and first == [prompt.split(",")[0] for prompt in many]


def test_cutmix_moves_the_same_cells_of_everything():
    paste = random_rectangles(2, 4, torch.Generator().manual_seed(3))
    assert all(0 < mask.mean() < 1 for mask in paste)
    image, feature = (
        torch.stack([torch.zeros(3, 128, 128), torch.ones(3, 128, 128)]),
        torch.tensor([0.0, 1.0]).view(2, 1, 1, 1),
    )
    mixed, coarse = mix(image, paste), mix(feature.expand(2, 5, 4, 4), paste)
    assert torch.equal(mixed[0], paste[0].repeat_interleave(32, 1).repeat_interleave(32, 2).expand(3, -1, -1))
    assert torch.equal(torch.nn.functional.avg_pool2d(mixed, 32)[:, :1], coarse[:, :1])
    assert mix(image, None) is image
