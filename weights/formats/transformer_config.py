"""The configuration of a Hunyuan-DiT transformer or ControlNet, read from the shapes of its tensors."""

from collections.abc import Mapping
from typing import Any

from dianjing.weights.formats.lazy_tensors import LazyTensor
from dianjing.weights.manifest import WeightsError

TRAINED_TOKENS_T5 = 256
SAMPLE_SIZE = 128  # latents of the 1024 px that the published weights were trained for


def is_controlnet(tensors: Mapping[str, object]) -> bool:
    """True for the names of a ControlNet of diffusers'."""
    return "input_block.weight" in tensors


def infer_transformer_config(tensors: Mapping[str, LazyTensor], *, sample_size: int = SAMPLE_SIZE) -> dict[str, Any]:
    """Infer the configuration from tensors under diffusers' names.

    sample_size: side of the trained latents, which no tensor tells.

    Raises: WeightsError for tensors that are missing.
    """
    try:
        hidden_size, in_channels, patch_size, _ = tensors["pos_embed.proj.weight"].shape
        head_dim = tensors["blocks.0.attn1.norm_q.weight"].shape[0]
        mlp_size = tensors["blocks.0.ff.net.0.proj.weight"].shape[0]
        text_dim = tensors["text_embedding_padding"].shape[1]
        text_dim_t5 = tensors["text_embedder.linear_1.weight"].shape[1]
        text_len_t5 = tensors["time_extra_emb.pooler.positional_embedding"].shape[0] - 1
        text_len = tensors["text_embedding_padding"].shape[0] - text_len_t5
        pooled_dim = tensors["time_extra_emb.pooler.c_proj.weight"].shape[0]
    except KeyError as error:
        raise WeightsError("checkpoint_lacks_tensor", name=str(error.args[0])) from None
    num_layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    config: dict[str, Any] = {
        "activation_fn": "gelu-approximate",
        "attention_head_dim": head_dim,
        "cross_attention_dim": text_dim,
        "cross_attention_dim_t5": text_dim_t5,
        "hidden_size": hidden_size,
        "in_channels": in_channels,
        "mlp_ratio": _find_mlp_ratio(hidden_size, mlp_size),
        "num_attention_heads": hidden_size // head_dim,
        "patch_size": patch_size,
        "pooled_projection_dim": pooled_dim,
        "sample_size": sample_size,
        "text_len": text_len,
        "text_len_t5": text_len_t5,
        "use_style_cond_and_image_meta_size": "time_extra_emb.style_embedder.weight" in tensors,
    }
    if is_controlnet(tensors):  # holds the first half of a transformer's blocks, the middle one included
        return {
            "_class_name": "HunyuanDiT2DControlNetModel",
            **config,
            "conditioning_channels": 3,
            "transformer_num_layers": 2 * (num_layers + 1),
        }
    if "proj_out.weight" not in tensors:
        raise WeightsError("checkpoint_lacks_tensor", name="proj_out.weight")
    out_channels = tensors["proj_out.weight"].shape[0] // patch_size**2
    return {
        "_class_name": "HunyuanDiT2DModel",
        **config,
        "learn_sigma": out_channels == 2 * in_channels,
        "norm_type": "layer_norm",
        "num_layers": num_layers,
    }


def _find_mlp_ratio(hidden_size: int, mlp_size: int) -> float:
    """A short ratio that gives the size of the MLP exactly, as int(hidden_size * ratio)."""
    for digits in range(1, 17):
        for ratio in (round(mlp_size / hidden_size, digits), round((mlp_size + 0.5) / hidden_size, digits)):
            if int(hidden_size * ratio) == mlp_size:
                return ratio
    raise AssertionError(f"no ratio gives {mlp_size} of {hidden_size}")
