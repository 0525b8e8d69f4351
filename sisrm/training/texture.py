"""What the finishing stage asks of texture: how much there is, at which frequencies, and none that repeats with the decoder's stride."""

from __future__ import annotations

import torch
import torch.nn.functional as F

FLAT = 4 / 255
"""Mean gradient, both directions together, at which an area counts half as a flat one."""


def soften(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur, (B, C, H, W) to the same in float32; 0 is none.

    Photos that were made smaller, as training sets have them, are three to five times as strong at the finest frequencies as what a camera
    gives pixel for pixel (RealSR's originals). A network that is asked for all of it where it cannot know it draws hatching.
    """
    if not sigma:
        return images
    images, radius = images.float(), max(1, round(3 * sigma))
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (places / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    channels = images.shape[1]
    with torch.autocast(images.device.type, enabled=False):  # in bfloat16 a photo would have 256 levels at most
        wide = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), kernel, groups=channels)
        return F.conv2d(F.pad(wide, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3), groups=channels)


def energy_l1(a: torch.Tensor, b: torch.Tensor, window: int = 8) -> torch.Tensor:
    """Difference of local gradient energy: how much texture there is in each window, not where exactly it lies.

    L1 alone prefers no texture to texture that is a pixel off; this term does not. a, b: (B, C, H, W).
    """
    return sum(
        F.l1_loss(F.avg_pool2d(a.diff(dim=axis).abs(), window), F.avg_pool2d(b.diff(dim=axis).abs(), window))
        for axis in (2, 3)
    )


def grid_l1(a: torch.Tensor, b: torch.Tensor, period: int = 8, window: int = 96) -> torch.Tensor:
    """What of the difference repeats with the decoder's stride: the mean error of each of period x period pixel positions in a window.

    Sub-pixel convolutions draw such a grid, too faint for L1 to mind and plain to the eye on flat areas. There it is looked for: where b
    has texture the errors are much larger than the grid, and their mean says nothing of it. a, b: (B, C, H, W).
    """
    window = min(window, *(side // period * period for side in a.shape[-2:]))
    height, width = (side // window * window for side in a.shape[-2:])
    a, b = a.float()[..., :height, :width], b.float()[..., :height, :width]
    pads = ((2, (0, 0, 0, 1)), (3, (0, 1, 0, 0)))
    steps = sum(F.avg_pool2d(F.pad(b, pad, mode="replicate").diff(dim=axis).abs(), period) for axis, pad in pads)
    flat = 1 / (1 + steps.mean(dim=1, keepdim=True) / FLAT)  # B, 1, rows, columns of periods

    def blocks(image: torch.Tensor, side: int) -> torch.Tensor:  # B, C, rows, within, side, columns, within, side
        parts = image.unflatten(3, (width // window, window // period, side))
        return parts.unflatten(2, (height // window, window // period, side))

    weight = blocks(flat, 1)
    total = weight.sum(dim=(3, 6), keepdim=True)
    means = (blocks(a - b, period) * weight / total).sum(dim=(3, 6))  # B, C, rows, period, columns, period
    strength = (means - means.mean(dim=(3, 5), keepdim=True)).abs()
    return (strength * weight.mean(dim=(3, 6))).sum() / (weight.mean(dim=(3, 6)).expand_as(strength).sum())


def spectrum_l1(a: torch.Tensor, b: torch.Tensor, patch: int = 16, window: int = 64) -> torch.Tensor:
    """Mean difference of the logarithms of local power spectra: as much of every frequency as the photo has there.

    `energy_l1` sums over the frequencies: a picture may make up for the middle ones that it lacks by a fine hatching that no photo has.
    Here each has to be right by itself, wherever its waves lie. a, b: (B, 3, H, W) around [0, 1], at least `patch` a side.
    """
    return (_log_spectrum(a, patch, window) - _log_spectrum(b, patch, window)).abs().mean()


def _log_spectrum(images: torch.Tensor, patch: int, window: int) -> torch.Tensor:
    """Power per frequency of the luma in overlapping patches, averaged over windows -> (B, patch * (patch / 2 + 1) - 1, h, w)."""
    red, green, blue = images.float().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    stride = patch // 2
    patches = luma.unfold(1, patch, stride).unfold(2, patch, stride)  # B, rows, columns, patch, patch
    patches = patches - patches.mean(dim=(3, 4), keepdim=True)
    taper = torch.hann_window(patch, device=images.device)
    spectra = torch.view_as_real(torch.fft.rfft2(patches * taper[:, None] * taper)).square().sum(-1)
    power = spectra.flatten(3)[..., 1:].permute(0, 3, 1, 2)  # without the mean
    rows, columns = (min(window // stride - 1, side) for side in power.shape[2:])
    power = F.avg_pool2d(power, (rows, columns), stride=((rows + 1) // 2, (columns + 1) // 2))
    floor = 1e-3  # noise of 1.4 grey levels: fainter texture is taken back at the end, see `sisrm.coring`
    return (power + floor).log()
