"""MFF, mask feature fusion (s2.4, eq 10): y_t = F(x_t; theta) + M * G(x_t; c_f).

F is the U-Net's block, G the ControlNet's, M in {0, 1} the locally controlled region at that block's resolution. The sum itself is
diffusers' own (the U-Net adds the residuals it is given); what is left to do is the product, on the residuals in between.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from sisrm.errors import ParameterError
from sisrm.remembering import once


class MaskFeatureFusion(ModelMixin, ConfigMixin):
    """Builds M and multiplies it onto ControlNet residuals. It has no weights.

    Args:
        threshold: a user-drawn region counts where it is at least this (0..1), or at most minus this.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, threshold: float = 0.5):
        super().__init__()
        # `device` and `dtype` of a ModelMixin are those of its tensors, so there is one
        self.register_buffer("cutoff", torch.tensor(threshold))

    def region(
        self, class_map: torch.Tensor, label_indices: list[int], user_region: torch.Tensor | np.ndarray | None = None
    ) -> torch.Tensor:
        """M: where the class is among the chosen labels, joined with what the user drew, without what the user protected.

        Args:
            class_map: (H, W) class indices.
            label_indices: the chosen labels.
            user_region: (h, w) of any size, bool or -1..1: positive adds to M, negative takes out of it; resized by nearest neighbour.
        Returns: (H, W) bool. Raises ParameterError for a region that is not two-dimensional or not finite.
        """
        chosen = torch.tensor(label_indices, dtype=class_map.dtype, device=class_map.device)
        mask = torch.isin(class_map, chosen)
        if user_region is not None:
            drawn = torch.as_tensor(np.asarray(user_region, dtype=np.float32), device=class_map.device)
            if drawn.ndim != 2 or not drawn.numel() or not bool(torch.isfinite(drawn).all()):
                raise ParameterError(
                    "region_mask", f"array of shape {tuple(drawn.shape)}", "a (height, width) mask of finite values"
                )
            # Before it is enlarged: a byte per pixel and no more. 1 is M as it is.
            drawn = 1 + (drawn >= self.cutoff).to(torch.uint8) - (drawn <= -self.cutoff).to(torch.uint8)
            drawn = F.interpolate(drawn[None, None], size=tuple(class_map.shape), mode="nearest-exact")[0, 0]
            mask = (mask | (drawn == 2)) & (drawn != 0)
        return mask

    def forward(
        self, down_residuals: tuple[torch.Tensor, ...], mid_residual: torch.Tensor, mask: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """M * G for every residual. mask: (B, 1, H, W), 0 or 1 or bool; B may be 1 for all. Ones leave the residuals as they are."""

        def masked(residual: torch.Tensor) -> torch.Tensor:
            size = residual.shape[-2:]
            return residual * once(
                ("M", size, residual.dtype), mask, lambda: resize_mask(mask, size).to(residual.device, residual.dtype)
            )

        return tuple(masked(residual) for residual in down_residuals), masked(mid_residual)


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(B, 1, H, W) -> (B, 1, *size), nearest neighbour, so that 0 and 1 stay 0 and 1."""
    return F.interpolate(mask.float(), size=tuple(size), mode="nearest-exact")
