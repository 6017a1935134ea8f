"""The benchmarks lie beside the package, so the root of the checkout has to be on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def tiny():
    """A tiny size of model."""
    from benchmarks.model_sizes import ModelSize

    config = {
        "num_layers": 6,
        "num_attention_heads": 3,
        "attention_head_dim": 8,
        "hidden_size": 24,
        "in_channels": 4,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "sample_size": 8,
        "text_len": 7,
        "text_len_t5": 9,
        "cross_attention_dim": 16,
        "cross_attention_dim_t5": 24,
        "pooled_projection_dim": 16,
        "use_style_cond_and_image_meta_size": True,
    }
    return ModelSize(name="tiny", weights="random", config=config, latent_size=8, num_inference_steps=3, min_pairs=6)


@pytest.fixture(autouse=True)
def _one_thread():
    """Use one thread: on a busy machine two would wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
