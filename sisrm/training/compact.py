"""The compact preset from nothing: its architecture, with random weights, as one pipeline folder that every stage goes on from.

After this the architecture lives in the folder's `config.json` files; nothing else repeats it.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from sisrm.autoencoder import CompactAutoencoder
from sisrm.controlnet import SegmentationControlNet
from sisrm.image_encoder import ImageEncoder
from sisrm.labels import CLASS_NAMES
from sisrm.mff import MaskFeatureFusion
from sisrm.pipeline import SISRMPipeline
from sisrm.sape import SAPE
from sisrm.unet import SegmentationUNet

PROMPT_LENGTH = 32  # tokens: ten labels of two words and their commas fit
TEXT_WIDTH = 128


def label_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the class names, plus comma, start, end and padding."""
    words = sorted({word for name in CLASS_NAMES for word in re.findall(r"\w+", name)})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<start>", "<end>", "<unknown>", ",", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    ends = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    tokenizer.post_processor = TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=PROMPT_LENGTH,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unknown>",
    )


def build_compact(seed: int = 0) -> SISRMPipeline:
    """The compact preset with random weights (at most 20 M parameters, s3.6 / table 3 allows 48 M). ControlNet cloned from the U-Net."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = label_tokenizer()
        unet = SegmentationUNet(
            sample_size=64,
            in_channels=16,
            out_channels=16,
            block_out_channels=(64, 96, 144),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=(2, 3, 4),  # heads per level: the U-Net's historical name for it
            norm_num_groups=16,
        )
        text_config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        segmenter_config = SegformerConfig(
            num_labels=len(CLASS_NAMES),
            decoder_hidden_size=128,
            drop_path_rate=0.0,
            classifier_dropout_prob=0.0,
            id2label=dict(enumerate(CLASS_NAMES)),
            label2id={name: index for index, name in enumerate(CLASS_NAMES)},
        )
        return SISRMPipeline(
            vae=CompactAutoencoder(lr_feature_channels=64, scaling_factor=2.0),
            text_encoder=CLIPTextModel(text_config).eval(),
            tokenizer=tokenizer,
            unet=unet.eval(),
            controlnet=clone_controlnet(unet),
            image_encoder=ImageEncoder(depth=8),
            segmenter=SegformerForSemanticSegmentation(segmenter_config).eval(),
            sape=SAPE(cross_attention_dim=TEXT_WIDTH),
            mff=MaskFeatureFusion(),
            scheduler=DDIMScheduler(
                num_train_timesteps=1000,
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=True,
                timestep_spacing="trailing",
            ),
            num_inference_steps=4,
            guidance_scale=1.0,
            start_strength=0.12,
            color_fix_levels=3,
            coring=0.006,
            top_k=5,
            label_floor=0.1,  # below it a label is wrong more often than right (`extractor`'s last table)
        )


def clone_controlnet(unet: SegmentationUNet) -> SegmentationControlNet:
    """The ControlNet cloned from the U-Net's encoder, SCA included (s2.3); it reads the image encoder's condition (32 channels)."""
    return SegmentationControlNet.from_unet(
        unet, conditioning_channels=32, conditioning_embedding_out_channels=(64,)
    ).eval()


def initialise(output: Path, seed: int = 0) -> None:
    """Write a fresh compact pipeline folder."""
    build_compact(seed).save_pretrained(output)
