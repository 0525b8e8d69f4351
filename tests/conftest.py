"""Real classes at tiny size, shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, SegformerConfig, SegformerForSemanticSegmentation

from sisrm.autoencoder import CompactAutoencoder
from sisrm.controlnet import SegmentationControlNet
from sisrm.image_encoder import ImageEncoder
from sisrm.labels import CLASS_NAMES
from sisrm.mff import MaskFeatureFusion
from sisrm.pipeline import SISRMPipeline
from sisrm.sape import SAPE
from sisrm.training.compact import label_tokenizer
from sisrm.unet import SegmentationUNet

torch.set_num_threads(int(os.environ.get("SISRM_TEST_THREADS", "1")))

# Few tests that take long: they come first, so that the processes that share the tests end together.
LONG_FILES = (
    "test_training_processes",
    "test_load",
    "test_resume",
    "test_sizes",
    "test_environment",
    "test_complexity",
    "test_cli",
    "test_evaluation_runs",
    "test_large",
    "test_zero_gpu",
    "test_tiling",
    "test_training_killed",
    "test_session_browser",
    "test_accessibility",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}


def tiny_components(trained: bool = True) -> dict:
    """Every component at 4 to 16 channels. `trained` gives zero-initialised layers random weights, as training would;
    without it the new branches are the exact identities that they start as."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = label_tokenizer()
        unet = SegmentationUNet(**UNET)
        components = {
            "vae": CompactAutoencoder(
                latent_channels=4,
                width=8,
                num_encoder_blocks=(1, 1, 1),
                num_decoder_blocks=(1, 1, 1),
                lr_feature_channels=8,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=16,
                    intermediate_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=tokenizer.model_max_length,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            "tokenizer": tokenizer,
            "unet": unet,
            "controlnet": SegmentationControlNet.from_unet(
                unet, conditioning_channels=8, conditioning_embedding_out_channels=(8,)
            ),
            "image_encoder": ImageEncoder(
                latent_channels=4, width=8, depth=1, latent_width=8, latent_depth=1, condition_channels=4
            ),
            "segmenter": SegformerForSemanticSegmentation(
                SegformerConfig(
                    num_labels=len(CLASS_NAMES),
                    hidden_sizes=[8, 8, 16, 16],
                    depths=[1, 1, 1, 1],
                    num_attention_heads=[1, 1, 2, 2],
                    decoder_hidden_size=16,
                    classifier_dropout_prob=0.0,
                    drop_path_rate=0.0,
                )
            ),
            "sape": SAPE(embedding_channels=8, cross_attention_dim=16, grid=2),
            "mff": MaskFeatureFusion(),
            "scheduler": DDIMScheduler(
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
                clip_sample=False,
                timestep_spacing="trailing",
            ),
        }
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
                if trained:
                    for parameter in component.parameters():
                        if parameter.ndim > 1 and not parameter.detach().any():
                            torch.nn.init.normal_(parameter, std=0.2)
        if trained:
            # random logits are nearly flat; sharper ones give labels and regions that differ between pictures
            torch.nn.init.normal_(components["segmenter"].decode_head.classifier.weight, std=2.0)
            torch.nn.init.normal_(components["sape"].label_generator.weight, std=2.0)
    return components


def tiny_pipe(trained: bool = True) -> SISRMPipeline:
    """A pipeline of tiny components that is quick enough to be called in every test."""
    pipe = SISRMPipeline(
        **tiny_components(trained), num_inference_steps=2, guidance_scale=1.5, top_k=3, start_strength=0.5
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def tiny_pipeline() -> SISRMPipeline:
    return tiny_pipe()


@pytest.fixture(scope="session")
def compact_pipeline() -> SISRMPipeline:
    """The bundled model."""
    from sisrm.presets import load_pipeline

    pipe = load_pipeline("compact", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def photo() -> Image.Image:
    """24 x 20: smooth colours, an edge and some texture, so that every branch has something to react to."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:20, 0:24]
    pixels = np.stack([columns * 8, rows * 10, 120 + 60 * np.sin(columns)], axis=-1)
    pixels[8:14, 6:18] = (200, 60, 40)
    return Image.fromarray(np.clip(pixels + rng.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def sd_parts(tmp_path_factory):
    """Tiny folders in the publishers' layouts; a test that damages them takes a copy."""
    from public_layouts import write_parts

    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def sd_pipeline(sd_parts) -> SISRMPipeline:
    """The `sd` preset's pipeline at tiny size, untrained."""
    pipe = SISRMPipeline.from_parts(sd_parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def trained_weights(sd_parts, tmp_path):
    """The pipeline with weights as training would leave them, and the folder they were saved to."""
    from sisrm.assembly import save_trained
    from sisrm.attention import is_segmentation_key

    pipe = SISRMPipeline.from_parts(sd_parts)
    for model in (pipe.unet, pipe.controlnet, pipe.sape):
        for key, value in model.state_dict().items():
            if is_segmentation_key(key) or model is not pipe.unet:
                value.add_(0.1)
    save_trained(pipe, tmp_path / "trained")
    return pipe, tmp_path / "trained"


@pytest.fixture
def sd(sd_parts, tmp_path, monkeypatch):
    """The `sd` preset with the tiny parts in the hub's place."""
    from public_layouts import write_lora

    from sisrm import presets, public_parts

    write_lora(tmp_path / "lora")
    folders = {
        "stable_diffusion": sd_parts.stable_diffusion,
        "controlnet": sd_parts.controlnet,
        "segmenter": sd_parts.segmenter,
    }
    by_part = {public_parts.PINS[name]: folder for name, folder in folders.items()}
    by_part[public_parts.PINS["lcm_lora"]] = tmp_path / "lora"
    monkeypatch.setattr(presets, "fetch", by_part.__getitem__)
    monkeypatch.setattr(presets.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(presets, "BUNDLED", sd_parts.sape.parent)
    return tmp_path


@pytest.fixture(scope="session")
def app_url(tmp_path_factory):
    """app.py in a process of its own, with the tiny pipeline's folder as its preset; one for all browser tests."""
    from app_process import running

    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_pipe().save_pretrained(folder)
    with running(tmp_path_factory.mktemp("app") / "files", SISRM_PRESET=str(folder)) as address:
        yield address


@pytest.fixture(scope="module")
def upload_folder(tmp_path_factory):
    """Where `app` keeps uploads and results."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def app(upload_folder):
    """The app around the tiny pipeline, served by this process; one for all tests of a file."""
    from serving import served

    with served(upload_folder) as running:
        yield running


@pytest.fixture(scope="module")
def url(app):
    return app.local_url.rstrip("/")


@pytest.fixture(scope="module")
def web(url):
    """Plain HTTP to `app`."""
    import httpx

    with httpx.Client(base_url=url, timeout=30) as session:
        yield session


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    """A script's connection to `app`."""
    from gradio_client import Client

    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="session")
def browser():
    from browsing import chromium

    with chromium() as instance:
        yield instance


@pytest.fixture
def garden(tmp_path, photo):
    """The photo as a file."""
    photo.save(tmp_path / "garden.png")
    return tmp_path / "garden.png"
