"""The image encoder (eq 4): what it may change of the LR image."""

from __future__ import annotations

import torch

from sisrm.color import low_frequencies
from sisrm.image_encoder import ImageEncoder


def encoder(**settings) -> ImageEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ImageEncoder(latent_channels=4, width=8, depth=1, latent_width=8, latent_depth=1, **settings)
        torch.nn.init.normal_(made.to_lr_image.weight, std=0.05)
        torch.nn.init.constant_(made.to_lr_image.bias, 0.1)
    return made.eval()


@torch.no_grad()
def test_noise_is_taken_away_and_colours_stay():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    change = encoder()(image).lr_image - image
    assert change.abs().mean() > 0.01  # it does change the picture
    assert low_frequencies(change, 4).abs().max() < 0.1 * change.abs().max()
    assert change.mean((2, 3)).abs().max() < 0.01


@torch.no_grad()
def test_without_levels_all_frequencies_may_change():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    change = encoder(color_levels=0)(image).lr_image - image
    assert change.mean((2, 3)).abs().max() > 0.03


def test_the_setting_travels_with_the_weights(tmp_path):
    encoder(color_levels=3).save_pretrained(tmp_path)
    assert ImageEncoder.from_pretrained(tmp_path, local_files_only=True).config.color_levels == 3
