"""Which published model a LoRA is for, by the names and sizes of its tensors.

Source: keys that kohya's sd-scripts and musubi-tuner, diffusers and the models' own repositories write.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from dianjing.errors import DianjingError

CROSS_ATTENTION_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # of the text
UNET = re.compile(r"^(lora_unet_|unet\.|diffusion_model\.)?((down|up|input|output)_blocks[._]\d|mid(dle)?_block[._])")
TEXT_TO_UNET = re.compile(r"attn2[._]to_[kv][._].*(lora_A|lora_down|\.down|lokr_w2_b|hada_w1_b)")
# HunyuanVideo has 20 double and 40 single blocks with the attention names of Flux, which has 19 and 38
TWENTIETH_DOUBLE_BLOCK = re.compile(r"(?<!single_)(double|transformer)_blocks[._]19[._]")
SINGLE_BLOCK = re.compile(r"single_(transformer_)?blocks[._]\d")
PATTERNS = (  # of keys; the first that is found says the model
    (re.compile(r"token_refiner|(img|txt)_mlp[._]fc\d|\.(img|txt)_attn_qkv"), "HunyuanVideo"),
    (re.compile(r"(img|txt)_mod[._]linear|single_blocks[._]\d+[._]modulation[._]linear"), "HunyuanVideo"),
    (re.compile(r"(self|cross)_attn[._](q|k|v|o|k_img|v_img)[._](?!proj)|blocks[._]\d+[._]ffn[._]"), "Wan"),
    (re.compile(r"joint_blocks[._]|joint_transformer_blocks[._]"), "Stable Diffusion 3"),
    (re.compile(r"(double|single)_blocks[._]\d+|single_transformer_blocks[._]"), "Flux"),
    (
        re.compile(r"transformer_blocks[._]\d+[._]attn[._](add_[qkv]_proj|to_add_out)"),
        "Stable Diffusion 3 or Qwen-Image",
    ),
    (re.compile(r"text_model[._]encoder[._]layers[._]"), "Stable Diffusion or SDXL"),
    (re.compile(r"layers[._]\d+[._](self_attn[._][qkvo]_proj|mlp[._](gate|up|down)_proj)"), "a language model"),
    (re.compile(r"motion_modules[._]"), "AnimateDiff"),
    (re.compile(r"^lora_prior_"), "Stable Cascade"),
)


def find_architecture(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the model that a LoRA is for, if its keys say so and it is not Hunyuan-DiT."""
    if any(UNET.match(key) for key in tensors):
        widths = (tensor.shape[-1] for key, tensor in tensors.items() if TEXT_TO_UNET.search(key) and tensor.ndim == 2)
        known = next((CROSS_ATTENTION_WIDTHS[width] for width in widths if width in CROSS_ATTENTION_WIDTHS), None)
        return known or "Stable Diffusion or SDXL"
    if all(any(pattern.search(key) for key in tensors) for pattern in (TWENTIETH_DOUBLE_BLOCK, SINGLE_BLOCK)):
        return "HunyuanVideo"
    return next((model for pattern, model in PATTERNS if any(pattern.search(key) for key in tensors)), None)


def refuse_other_architecture(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise DianjingError that names the model of a LoRA that is not for Hunyuan-DiT."""
    model = find_architecture(tensors)
    if model is not None:
        raise DianjingError("adapter_of_named_model", path=source, model=model)
