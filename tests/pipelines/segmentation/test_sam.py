"""SAM and SAM 2 with tiny random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.segmentation.sam import SamSegmenter

SIDE = 64
DECODER = {
    "hidden_size": 16,
    "mlp_dim": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}


def make_sam():
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        window_size=2,
        global_attn_indexes=[0],
        mlp_dim=16,
        num_pos_feats=8,
        initializer_range=0.5,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
    parts = {"prompt_encoder_config": prompt, "mask_decoder_config": SamMaskDecoderConfig(**DECODER)}
    return SamModel(SamConfig(vision_config=vision, **parts, initializer_range=0.5))


def make_sam2():
    backbone = Sam2HieraDetConfig(
        hidden_size=8,
        num_attention_heads=1,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 1, 1],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[0],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
    parts = {"prompt_encoder_config": prompt, "mask_decoder_config": Sam2MaskDecoderConfig(**DECODER)}
    return Sam2Model(Sam2Config(vision_config=vision, **parts, initializer_range=0.5))


@pytest.fixture(params=[make_sam, make_sam2], ids=["SAM", "SAM 2"])
def folder(request, tmp_path):
    torch.manual_seed(0)
    request.param().save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


def make_image(height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_mask_has_the_size_of_the_image_which_is_embedded_once(folder, monkeypatch):
    sam, calls = SamSegmenter.from_pretrained(folder), []
    embed = sam.model.get_image_embeddings
    monkeypatch.setattr(sam.model, "get_image_embeddings", lambda *a, **k: calls.append(1) or embed(*a, **k))
    sam.set_image(make_image())
    masks = [sam.predict([Point(x=x, y=20)]) for x in (3, 40)]
    assert calls == [1]
    assert {(mask.shape, mask.dtype) for mask in masks} == {((40, 50), np.dtype(bool))}


def test_a_negative_point_changes_the_mask_logits(folder):
    sam = SamSegmenter.from_pretrained(folder)
    sam.set_image(make_image())
    logits_of_calls = []
    sam._resize_logits = lambda logits: logits_of_calls.append(logits) or np.zeros((1, 1))
    sam.predict([Point(x=10, y=10), Point(x=30, y=30)])
    sam.predict([Point(x=10, y=10), Point(x=30, y=30, positive=False)])
    assert (logits_of_calls[0] - logits_of_calls[1]).abs().max() > 1e-6


def test_image_and_mask_are_those_of_the_processor_of_transformers():
    torch.manual_seed(0)
    sam = SamSegmenter(make_sam())
    sam.set_image(make_image())
    processor = SamImageProcessorPil(
        size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}, mask_size={"longest_edge": 16}
    )
    inputs = processor(Image.fromarray(make_image()), return_tensors="pt")
    with torch.no_grad():
        embeddings = sam.model.get_image_embeddings(inputs["pixel_values"])
    torch.testing.assert_close(sam.image_embeddings, embeddings, rtol=1e-3, atol=1e-3)
    logits = torch.randn(1, 1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    (expected,) = processor.post_process_masks(logits, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    np.testing.assert_array_equal(sam._resize_logits(logits[0, 0, 0]) > 0, expected[0, 0].numpy())


def test_a_folder_without_sam_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no SAM"):
        SamSegmenter.from_pretrained(tmp_path)
