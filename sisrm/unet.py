"""IT2IC's backbone (s2.3, fig 5): diffusers' U-Net with segmentation cross-attention in every cross-attention block."""

from __future__ import annotations

import functools

from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401  (diffusers looks ModelMixin up here when it loads a pipeline)

from sisrm.attention import add_segmentation_attention


class SegmentationUNet(UNet2DConditionModel):
    """UNet2DConditionModel with SCA; same configuration, same forward.

    Pass `cross_attention_kwargs={"segmentation_tokens": tokens}`, tokens (B, L_m, cross_attention_dim), to use SCA.
    """

    # The parent's real signature: diffusers reads it to know which configuration keys to pass on.
    @functools.wraps(UNet2DConditionModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        add_segmentation_attention(self)
