"""SCA and IT2IC (eq 7, 8): exact identity before training, an influence after, and cloned with the ControlNet."""

from __future__ import annotations

import pytest
import torch
from conftest import UNET, tiny_components
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention

from sisrm.attention import SegmentationTransformerBlock, add_segmentation_attention, is_segmentation_key
from sisrm.controlnet import SegmentationControlNet
from sisrm.unet import SegmentationUNet

BATCH = 2


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(BATCH, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([10, 400]),
        "encoder_hidden_states": torch.randn(BATCH, 5, 16, generator=generator),
    }


@pytest.fixture
def tokens():
    return torch.randn(BATCH, 4, 16, generator=torch.Generator().manual_seed(1))


def plain_twin(model, kind):
    """The plain diffusers model with the same weights; everything but SCA must fit."""
    plain = kind.from_config({key: value for key, value in model.config.items() if not key.startswith("_")})
    weights = {key: value for key, value in model.state_dict().items() if not is_segmentation_key(key)}
    plain.load_state_dict(weights, strict=True)
    return plain.eval()


def test_untrained_unet_is_the_plain_unet(inputs, tokens):
    unet = SegmentationUNet(**UNET).eval()
    with torch.no_grad():
        ours = unet(**inputs, cross_attention_kwargs={"segmentation_tokens": tokens}).sample
        plain = plain_twin(unet, UNet2DConditionModel)(**inputs).sample
    assert (ours - plain).abs().max() == 0.0


def test_untrained_controlnet_is_the_plain_controlnet(inputs, tokens):
    controlnet = SegmentationControlNet.from_unet(
        SegmentationUNet(**UNET), conditioning_channels=8, conditioning_embedding_out_channels=(8,)
    ).eval()
    for parameter in controlnet.controlnet_down_blocks.parameters():
        torch.nn.init.normal_(parameter)  # or every residual would be zero and the comparison empty
    inputs["controlnet_cond"] = torch.rand(BATCH, 8, 8, 8)
    with torch.no_grad():
        ours, _ = controlnet(**inputs, cross_attention_kwargs={"segmentation_tokens": tokens}, return_dict=False)
        plain, _ = plain_twin(controlnet, ControlNetModel)(**inputs, return_dict=False)
    assert all((a - b).abs().max() == 0.0 for a, b in zip(ours, plain))
    assert any(a.abs().max() > 0 for a in ours)


def test_trained_sca_changes_the_output_and_depends_on_its_tokens(inputs, tokens):
    unet = tiny_components()["unet"]
    with torch.no_grad():
        without = unet(**inputs).sample
        first = unet(**inputs, cross_attention_kwargs={"segmentation_tokens": tokens}).sample
        second = unet(**inputs, cross_attention_kwargs={"segmentation_tokens": tokens.flip(0)}).sample
    assert (first - without).abs().max() > 1e-4
    assert (first - second).abs().max() > 1e-4


def test_every_cross_attention_block_has_sca():
    for model in (SegmentationUNet(**UNET), tiny_components()["controlnet"]):
        blocks = [module for module in model.modules() if isinstance(module, BasicTransformerBlock)]
        assert blocks and all(isinstance(block, SegmentationTransformerBlock) for block in blocks)
        assert all(type(block.segmentation_attention) is Attention for block in blocks)


def test_block_is_equation_8():
    block = SegmentationTransformerBlock(16, 2, 8, cross_attention_dim=16).eval()
    torch.nn.init.normal_(block.segmentation_attention.to_out[0].weight)
    hidden, text, tokens = (torch.randn(1, length, 16) for length in (6, 5, 4))
    with torch.no_grad():
        query = hidden + block.attn1(block.norm1(hidden))
        attn_t = block.attn2(block.norm2(query), encoder_hidden_states=text)
        attn_m = block.segmentation_attention(block.norm_segmentation(query + attn_t), encoder_hidden_states=tokens)
        h = query + attn_t + attn_m
        expected = h + block.ff(block.norm3(h))
        result = block(hidden, encoder_hidden_states=text, cross_attention_kwargs={"segmentation_tokens": tokens})
    torch.testing.assert_close(result, expected)


def test_controlnet_is_cloned_with_sca():
    unet = tiny_components()["unet"]
    controlnet = SegmentationControlNet.from_unet(
        unet, conditioning_channels=8, conditioning_embedding_out_channels=(8,)
    )
    theirs, ours = unet.down_blocks.state_dict(), controlnet.down_blocks.state_dict()
    assert theirs.keys() == ours.keys()
    assert any(is_segmentation_key(key) for key in ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in ours)


def test_plain_weights_load_with_only_scas_keys_missing(tmp_path):
    plain = UNet2DConditionModel(**UNET)
    plain.save_pretrained(tmp_path)
    ours, report = SegmentationUNet.from_pretrained(tmp_path, output_loading_info=True, low_cpu_mem_usage=False)
    assert report["missing_keys"] and all(is_segmentation_key(key) for key in report["missing_keys"])
    assert not report["unexpected_keys"]
    assert torch.equal(ours.conv_in.weight, plain.conv_in.weight)


def test_blocks_of_another_kind_are_refused():
    unet = UNet2DConditionModel(**{**UNET, "only_cross_attention": True})
    with pytest.raises(TypeError, match="self-attention"):
        add_segmentation_attention(unet)
