"""The compact autoencoder and the image encoder: shapes, identities, saving."""

from __future__ import annotations

import torch
from conftest import tiny_components

from sisrm.autoencoder import CompactAutoencoder
from sisrm.image_encoder import ImageEncoder


def test_shapes_and_round_trip_through_files(tmp_path):
    vae = tiny_components()["vae"]
    image = torch.rand(2, 3, 32, 48) * 2 - 1
    latents = vae.encode(image).latents
    assert latents.shape == (2, 4, 4, 6)
    assert vae.decode(latents).sample.shape == image.shape
    vae.save_pretrained(tmp_path)
    again = CompactAutoencoder.from_pretrained(tmp_path)
    assert torch.equal(again(image).sample, vae(image).sample)
    assert all(again.config[name] == vae.config[name] for name in ("width", "latent_channels", "scaling_factor"))


def test_untrained_lr_fusion_is_the_plain_decoder_and_a_trained_one_is_not():
    latents, features = torch.randn(1, 4, 4, 4), torch.randn(1, 8, 8, 8)
    untrained, trained = tiny_components(trained=False)["vae"], tiny_components()["vae"]
    assert torch.equal(untrained.decode(latents, lr_features=features).sample, untrained.decode(latents).sample)
    assert not torch.allclose(trained.decode(latents, lr_features=features).sample, trained.decode(latents).sample)


def test_low_precision_keeps_the_last_layer_fine():
    vae = tiny_components()["vae"].to(torch.bfloat16)
    with torch.no_grad():
        sample = vae.decode(torch.randn(1, 4, 8, 8, dtype=torch.bfloat16)).sample
    assert sample.dtype == torch.float32
    assert (sample.to(torch.bfloat16).float() != sample).float().mean() > 0.9


def test_image_encoder_meets_decoder_and_latents():
    encoder = ImageEncoder(latent_channels=4, width=8, depth=1, latent_width=8, latent_depth=1, condition_channels=3)
    encoding = encoder(torch.rand(2, 3, 16, 24))
    assert encoding.features.shape == (2, 8, 16, 24)
    assert encoding.latents.shape == (2, 4, 8, 12)
    assert encoding.condition.shape == (2, 7, 8, 12)
    assert torch.equal(encoding.condition[:, :4], encoding.latents)


def test_untrained_image_encoder_leaves_the_lr_image_as_it_is():
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(tiny_components(trained=False)["image_encoder"](image).lr_image, image)
    assert not torch.allclose(tiny_components()["image_encoder"](image).lr_image, image)


def test_activations_in_place_change_neither_result_nor_gradient():
    given = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    results = []
    for in_place in (True, False):
        torch.manual_seed(0)
        model = CompactAutoencoder(latent_channels=4, width=8)
        activations = [module for module in model.modules() if isinstance(module, torch.nn.ReLU)]
        assert len(activations) > 20 and all(module.inplace for module in activations)
        for module in activations:
            module.inplace = in_place
        sample = model(given).sample
        sample.square().mean().backward()
        results.append([sample, *(weight.grad for weight in model.parameters())])
    assert len(results[0]) > 40 and all(torch.equal(one, other) for one, other in zip(*results))
