"""SCA, segmentation cross-attention (s2.3, eq 7 and 8), inside diffusers' own transformer block.

The paper places SCA after text cross-attention (TCA) in every cross-attention block:

    Attn_t = softmax(Q K_t^T / sqrt d) V_t                  (eq 7)
    Attn_m = softmax((Q + Attn_t) K_m^T / sqrt d) V_m       (eq 8)
    h = Q + Attn_t + Attn_m

K_m and V_m come from the segmentation tokens ("semantic anchors") of `sisrm.sape`.
"""

from __future__ import annotations

import functools

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from sisrm.remembering import RememberingLinear

SEGMENTATION_TOKENS = "segmentation_tokens"


class SegmentationTransformerBlock(BasicTransformerBlock):
    """BasicTransformerBlock with SCA. Zero-initialised: until it is trained it is exactly the block it replaces.

    The tokens, (B, L_m, cross_attention_dim), travel in `cross_attention_kwargs["segmentation_tokens"]`, as GLIGEN's do; without them
    SCA is skipped, which is the paper's "without SCA".
    """

    @functools.wraps(BasicTransformerBlock.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm_segmentation = nn.LayerNorm(self.dim)
        # A stock Attention keeps xformers, SDPA and attention slicing working on it like on its neighbours.
        self.segmentation_attention = Attention(
            query_dim=self.dim,
            cross_attention_dim=self.cross_attention_dim,
            heads=self.num_attention_heads,
            dim_head=self.attention_head_dim,
            upcast_attention=self.attn2.upcast_attention,
        )
        nn.init.zeros_(self.segmentation_attention.to_out[0].weight)
        nn.init.zeros_(self.segmentation_attention.to_out[0].bias)
        # What these four read stays as it is during a run. Only `forward` differs, so that weights, empty ones too, stay where they are.
        for attention in (self.attn2, self.segmentation_attention):
            attention.to_k.__class__ = attention.to_v.__class__ = RememberingLinear

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        timestep: torch.LongTensor | None = None,
        cross_attention_kwargs: dict | None = None,
        class_labels: torch.LongTensor | None = None,
        added_cond_kwargs: dict | None = None,
    ) -> torch.Tensor:
        """hidden_states: (B, L, dim) -> the same shape."""
        kwargs = dict(cross_attention_kwargs or {})
        segmentation_tokens = kwargs.pop(SEGMENTATION_TOKENS, None)
        h = hidden_states
        h = h + self.attn1(self.norm1(h), attention_mask=attention_mask, **kwargs)
        h = h + self.attn2(  # TCA, eq 7
            self.norm2(h), encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask, **kwargs
        )
        if segmentation_tokens is not None:  # SCA, eq 8
            h = h + self.segmentation_attention(self.norm_segmentation(h), encoder_hidden_states=segmentation_tokens)
        return h + self.ff(self.norm3(h))


def add_segmentation_attention(model: nn.Module) -> None:
    """Replace every transformer block of a diffusers U-Net or ControlNet with one that has SCA, keeping names and weights.

    Raises TypeError for a block that is not Stable Diffusion's kind (layer norm, self-attention then text cross-attention).
    """
    for transformer in (module for module in model.modules() if isinstance(module, Transformer2DModel)):
        for index, plain in enumerate(transformer.transformer_blocks):
            if (
                plain.norm_type != "layer_norm"
                or plain.attn2 is None
                or plain.only_cross_attention
                or plain.pos_embed is not None
            ):
                raise TypeError(
                    "SCA needs blocks with layer norm, self-attention and text cross-attention, as Stable Diffusion has"
                )
            block = SegmentationTransformerBlock(
                plain.dim,
                plain.num_attention_heads,
                plain.attention_head_dim,
                dropout=plain.dropout,
                cross_attention_dim=plain.cross_attention_dim,
                activation_fn=plain.activation_fn,
                attention_bias=plain.attention_bias,
                upcast_attention=plain.attn2.upcast_attention,
                norm_type=plain.norm_type,
                norm_eps=plain.norm1.eps,
            )
            missing, unexpected = block.load_state_dict(plain.state_dict(), strict=False)
            if unexpected or not all(is_segmentation_key(key) for key in missing):
                raise TypeError(f"the block does not fit: missing {missing}, unexpected {unexpected}")
            transformer.transformer_blocks[index] = block


def is_segmentation_key(key: str) -> bool:
    """Whether a state-dict key belongs to SCA: the only keys that plain Stable Diffusion weights lack."""
    return "norm_segmentation." in key or "segmentation_attention." in key
