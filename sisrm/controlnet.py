"""IT2IC's controller (s2.3, fig 5): a ControlNet cloned from the U-Net's encoder, SCA included."""

from __future__ import annotations

import functools

from diffusers import ControlNetModel, ModelMixin  # noqa: F401  (diffusers looks ModelMixin up here when it loads a pipeline)
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from sisrm.attention import add_segmentation_attention
from sisrm.remembering import Remembering


class RememberingEmbedding(Remembering, ControlNetConditioningEmbedding):
    """The conditioning embedding; its condition is the same at every step."""


class SegmentationControlNet(ControlNetModel):
    """ControlNetModel with SCA; same configuration, same forward. `from_unet(SegmentationUNet)` clones SCA too, as the paper says."""

    @functools.wraps(ControlNetModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        add_segmentation_attention(self)
        self.controlnet_cond_embedding.__class__ = RememberingEmbedding
