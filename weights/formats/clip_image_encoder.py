"""Image towers of CLIP for IP-Adapters: folders of transformers, and Tencent's Chinese CLIP (`clip_img_encoder.pt`).

Source: Tencent-Hunyuan/HunyuanDiT, hydit/utils/img_clip_emb.py: OpenAI's CLIP with a ViT-H/14.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ChineseCLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection, PreTrainedModel

from dianjing.weights.formats.lazy_tensors import CHECKPOINT_SUFFIXES, LazyTensors, open_checkpoint
from dianjing.weights.manifest import WeightsError, read_config_json, summarize_names

VISUAL_PREFIX = "visual."
BLOCK_PATTERN = re.compile(r"transformer\.resblocks\.(\d+)\.(.*)\.(weight|bias)")
HEAD_WIDTH_BY_WIDTH = {1280: 80}  # of ViT-H; other towers have heads of 64
DEFAULT_HEAD_WIDTH = 64
# modules outside the blocks, and inside each of them
OUTER_NAMES = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}
BLOCK_MODULES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
# in OpenAI's own names, or those of the tower with flash attention
FUSED_QKV_NAMES = {
    "attn.in_proj_weight": "weight",
    "attn.in_proj_bias": "bias",
    "attn.Wqkv.weight": "weight",
    "attn.Wqkv.bias": "bias",
}


def load_image_encoder(path: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Load an image tower: a folder of `CLIPVisionModelWithProjection` or `ChineseCLIPModel`, or Tencent's file.

    Raises: WeightsError for anything else.
    """
    if path.is_dir():
        return _load_folder(path, dtype=dtype)
    if not path.is_file() or path.suffix not in CHECKPOINT_SUFFIXES:
        raise WeightsError("image_encoder_not_found", path=str(path))
    tensors = {name.removeprefix("module."): tensor for name, tensor in open_checkpoint(path).items()}
    visual = {
        name.removeprefix(VISUAL_PREFIX): each for name, each in tensors.items() if name.startswith(VISUAL_PREFIX)
    }
    if "class_embedding" not in visual or "proj" not in visual:
        raise WeightsError("image_encoder_unknown", path=str(path), names=summarize_names(list(tensors)))
    with torch.device("meta"):
        encoder = CLIPVisionModelWithProjection(_infer_config(visual))
    state = convert_openai_tower(visual)
    missing = sorted(set(encoder.state_dict()) - set(state))
    if missing:
        raise WeightsError("image_encoder_lacks_tensors", path=str(path), names=summarize_names(missing))
    encoder.load_state_dict(state, assign=True)
    embeddings: Any = encoder.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions).expand(1, -1)  # a buffer that no file holds
    return encoder.to(dtype).eval()


def _load_folder(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    config = read_config_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    model_class: Any = ChineseCLIPModel if config.get("model_type") == "chinese_clip" else CLIPVisionModelWithProjection
    if config.get("model_type") not in ("chinese_clip", "clip_vision_model", "clip"):
        raise WeightsError("image_encoder_folder_unknown", path=str(folder), model_type=str(config.get("model_type")))
    try:
        return model_class.from_pretrained(folder, dtype=dtype, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise WeightsError("image_encoder_unusable", path=str(folder), reason=reason) from None


def _infer_config(visual: LazyTensors) -> CLIPVisionConfig:
    """The configuration of a tower, from the shapes of its tensors."""
    width, _, patch_size, _ = visual["conv1.weight"].shape
    blocks = {int(match[1]) for match in map(BLOCK_PATTERN.match, visual) if match is not None}
    num_positions = visual["positional_embedding"].shape[0]
    hidden_dim = visual["transformer.resblocks.0.mlp.c_fc.weight"].shape[0] if blocks else 4 * width
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=hidden_dim,
        num_hidden_layers=len(blocks),
        num_attention_heads=max(1, width // HEAD_WIDTH_BY_WIDTH.get(width, DEFAULT_HEAD_WIDTH)),
        image_size=round((num_positions - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
        projection_dim=visual["proj"].shape[1],
        hidden_act="quick_gelu",
    )


def convert_openai_tower(visual: LazyTensors) -> dict[str, Tensor]:
    """Convert the tensors of OpenAI's CLIP tower, without their prefix, to those of `CLIPVisionModelWithProjection`."""
    state = {OUTER_NAMES[name]: tensor.read() for name, tensor in visual.items() if name in OUTER_NAMES}
    state["visual_projection.weight"] = visual["proj"].read().T.contiguous()
    for name, tensor in visual.items():
        match = re.match(r"transformer\.resblocks\.(\d+)\.(.*)", name)
        if match is None:
            continue
        block, rest = f"vision_model.encoder.layers.{match[1]}", match[2]
        if rest in FUSED_QKV_NAMES:
            for part, rows in zip("qkv", tensor.read().chunk(3), strict=True):
                state[f"{block}.self_attn.{part}_proj.{FUSED_QKV_NAMES[rest]}"] = rows.contiguous()
        else:
            module, _, parameter = rest.rpartition(".")
            if module in BLOCK_MODULES:
                state[f"{block}.{BLOCK_MODULES[module]}.{parameter}"] = tensor.read()
    return state
