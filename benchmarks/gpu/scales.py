"""Scales of the benchmark: Hunyuan-DiT at its real size for a GPU, and a tiny one to test every part on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARED_CONFIG = {
    "in_channels": 4,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "learn_sigma": True,
    "use_style_cond_and_image_meta_size": False,
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkScale:
    """Sizes of all models and measurements. transformer, vae, bert, t5: arguments of the classes named beside them."""

    name: str
    transformer: Mapping[str, Any]  # HunyuanDiT2DModel
    vae: Mapping[str, Any]  # AutoencoderKL
    bert: Mapping[str, Any]  # BertModel
    t5: Mapping[str, Any]  # T5EncoderModel
    step_sizes_px: tuple[int, ...]
    step_rounds: int  # one step of every implementation each
    image_px: int
    image_rounds: Mapping[int, int]  # number of steps: images of each implementation
    placement_steps: int
    training_px: int
    training_batch_size: int
    training_steps: int
    matrix_side: int
    copy_bytes: int
    compiler: str  # backend of torch.compile


REAL_SCALE = BenchmarkScale(
    name="Hunyuan-DiT 1.2",
    transformer={
        **SHARED_CONFIG,
        "num_layers": 40,
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "hidden_size": 1408,
        "mlp_ratio": 4.3637,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "pooled_projection_dim": 1024,
        "text_len": 77,
        "text_len_t5": 256,
        "sample_size": 128,
    },
    vae={
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 1024,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "scaling_factor": 0.13025,
    },
    bert={
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 47020,
    },
    t5={
        "d_model": 2048,
        "d_kv": 64,
        "d_ff": 5120,
        "num_layers": 24,
        "num_heads": 32,
        "vocab_size": 250112,
        "feed_forward_proj": "gated-gelu",
    },
    step_sizes_px=(1024, 512),
    step_rounds=12,
    image_px=1024,
    image_rounds={25: 2, 50: 1},
    placement_steps=4,
    training_px=512,
    training_batch_size=4,
    training_steps=5,
    matrix_side=8192,
    copy_bytes=2**31,
    compiler="inductor",
)

TINY_SCALE = BenchmarkScale(
    name="tiny",
    transformer={
        **SHARED_CONFIG,
        "num_layers": 4,
        "num_attention_heads": 3,
        "attention_head_dim": 8,
        "hidden_size": 24,
        "mlp_ratio": 4.0,
        "cross_attention_dim": 16,
        "cross_attention_dim_t5": 24,
        "pooled_projection_dim": 16,
        "text_len": 77,
        "text_len_t5": 256,
        "sample_size": 8,
    },
    vae={
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": 4,
        "sample_size": 64,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
    },
    bert={
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 99,
    },
    t5={
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 2,
        "vocab_size": 99,
        "feed_forward_proj": "gated-gelu",
    },
    step_sizes_px=(64, 32),
    step_rounds=3,
    image_px=64,
    image_rounds={3: 1, 2: 2},
    placement_steps=3,
    training_px=32,
    training_batch_size=2,
    training_steps=2,
    matrix_side=128,
    copy_bytes=2**20,
    compiler="aot_eager",  # finds graph breaks, too, and needs no C++ compiler
)
