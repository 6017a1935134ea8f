"""A tiny model folder in diffusers' arrangement: random weights, real classes."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, HunyuanDiT2DModel
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel


def tiny_models() -> dict:
    torch.manual_seed(0)
    return {
        "transformer": HunyuanDiT2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            hidden_size=16,
            in_channels=4,
            patch_size=2,
            num_layers=3,
            sample_size=8,
            cross_attention_dim=16,
            cross_attention_dim_t5=16,
            pooled_projection_dim=16,
            text_len=4,
            text_len_t5=6,
            use_style_cond_and_image_meta_size=False,
        ),
        "vae": AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        ),
        "text_encoder": BertModel(
            BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=10)
        ),
        "text_encoder_2": T5EncoderModel(
            T5Config(d_model=16, d_kv=8, num_layers=1, d_ff=8, num_heads=2, vocab_size=10)
        ),
    }


@pytest.fixture(scope="session")
def pristine_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    index = {"_class_name": "HunyuanDiTPipeline", "_diffusers_version": "0.42.1"}
    for name, model in tiny_models().items():
        model.save_pretrained(folder / name)
        library = "transformers" if name.startswith("text") else "diffusers"
        index[name] = [library, type(model).__name__]
    index["safety_checker"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
