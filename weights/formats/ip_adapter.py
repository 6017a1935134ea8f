"""IP-Adapters of Hunyuan-DiT in Tencent's layout (`ipa.pt`), under the names of `IPAdapter`.

Source: Tencent-Hunyuan/HunyuanDiT, hydit/modules/models.py and attn_layers.py.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dianjing.dit import DiT
from dianjing.dit.ip_adapter import IPAdapter
from dianjing.weights.formats.lazy_tensors import CHECKPOINT_SUFFIXES, LazyTensors, flatten_tensors, open_checkpoint
from dianjing.weights.manifest import WeightsError, summarize_names

IN_MEMORY = "the given tensors"
MARK = "ip_adapter"  # in the name of every tensor; a checkpoint of a training run may hold others beside them
# modules of Tencent's and of `IPAdapter`
RULES = (
    (re.compile(r"ip_adapter_clip_len_trans_block\.(\w+)"), r"image_proj.\1"),
    (re.compile(r"ip_adapter_img_norm_cond\.(\w+)"), r"norm.\1"),
    (re.compile(r"blocks\.(\d+)\.attn2\.kv_proj_ip_adapter\.(\w+)"), r"layers.\1.to_kv.\2"),
    (re.compile(r"blocks\.(\d+)\.attn2\.k_norm_ip_adapter\.(\w+)"), r"layers.\1.norm_k.\2"),
)
# names in IP-Adapters of other models, and what else is taken for one, for the message
OTHER_MODELS = {
    "ip_adapter_double_stream": "Flux",
    "double_blocks": "Flux",
    "image_proj.latents": "Stable Diffusion 3 or an IP-Adapter Plus of Stable Diffusion",
    "to_k_ip": "Stable Diffusion",
    "lora": "LoRA",
    "attn2.kv_proj": "Hunyuan-DiT, without an IP-Adapter",
    "attn2.to_k": "Hunyuan-DiT, without an IP-Adapter",
}
STABLE_DIFFUSION_BY_TEXT_DIM = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2", 2048: "SDXL"}


def read_ip_adapter(source: Path | Mapping[str, Any], transformer: DiT) -> IPAdapter:
    """Read an IP-Adapter for a transformer from a file or from tensors under Tencent's names.

    Raises: WeightsError for a file that is none, is one of another model, or lacks or breaks a tensor.
    """
    name = IN_MEMORY if isinstance(source, Mapping) else str(source)
    renamed = _rename(flatten_tensors(source), name) if isinstance(source, Mapping) else check_ip_adapter_names(source)
    adapter = _build(renamed, transformer, name)
    state: dict[str, Tensor] = {}
    for key, tensor in renamed.items():
        state[key] = tensor.read()
        if not torch.isfinite(state[key]).all():
            raise WeightsError("ip_adapter_not_finite", path=name, name=_get_tencent_name(key))
    adapter.load_state_dict(state, assign=True)
    return adapter.requires_grad_(False).eval()


def check_ip_adapter_names(path: Path) -> LazyTensors:
    """Open the tensors of an IP-Adapter under the names of `IPAdapter`; none is read.

    Raises: WeightsError for a file that is none, or is one of another model.
    """
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise WeightsError("convert_source_suffix", path=str(path), allowed=list(CHECKPOINT_SUFFIXES))
    return _rename(open_checkpoint(path), str(path))


def _rename(tensors: LazyTensors, source: str) -> LazyTensors:
    """The tensors of the IP-Adapter under the names of `IPAdapter`."""
    renamed: LazyTensors = {}
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        for pattern, template in RULES:
            if (match := pattern.fullmatch(name)) is not None:
                renamed[match.expand(template)] = tensor
    if renamed:
        return renamed
    model = next((model for part, model in OTHER_MODELS.items() if any(part in name for name in tensors)), None)
    if model is None:
        raise WeightsError("ip_adapter_unknown", path=source, names=summarize_names(list(tensors)))
    if model == "Stable Diffusion":
        text_dim = next(tensor.shape[-1] for name, tensor in tensors.items() if "to_k_ip" in name)
        model = STABLE_DIFFUSION_BY_TEXT_DIM.get(text_dim, model)
    raise WeightsError("ip_adapter_of_another_model", path=source, model=model)


def _build(tensors: LazyTensors, transformer: DiT, source: str) -> IPAdapter:
    """An `IPAdapter` without weights for a transformer, if the tensors fit it."""
    config = transformer.config
    projection = tensors.get("image_proj.weight")
    text_dim = config.cross_attention_dim
    if projection is None:
        raise WeightsError("ip_adapter_lacks_tensors", path=source, names=[_get_tencent_name("image_proj.weight")])
    num_layers = 1 + max((int(name.split(".")[1]) for name in tensors if name.startswith("layers.")), default=-1)
    rows, embed_dim = projection.shape
    sizes = {
        "num_layers": len(transformer.blocks),
        "heads": config.num_attention_heads,
        "head_dim": config.attention_head_dim,
        "text_dim": text_dim,
    }
    width = 2 * sizes["heads"] * sizes["head_dim"]
    actual = tensors["layers.0.to_kv.weight"].shape if "layers.0.to_kv.weight" in tensors else (width, text_dim)
    if rows % text_dim or num_layers != sizes["num_layers"] or actual != (width, text_dim):
        raise WeightsError(
            "ip_adapter_does_not_fit",
            path=source,
            num_layers=num_layers,
            width=actual[0] // 2,
            expected_layers=sizes["num_layers"],
            expected_width=width // 2,
        )
    with torch.device("meta"):
        adapter = IPAdapter(**sizes, embed_dim=embed_dim, num_tokens=rows // text_dim)
    _check_shapes(tensors, adapter, source)
    return adapter


def _check_shapes(tensors: LazyTensors, adapter: nn.Module, source: str) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in adapter.state_dict().items()}
    missing = [_get_tencent_name(name) for name in expected if name not in tensors]
    if missing:
        raise WeightsError("ip_adapter_lacks_tensors", path=source, names=summarize_names(missing))
    for name, tensor in tensors.items():
        if expected.get(name) != tensor.shape:
            raise WeightsError(
                "ip_adapter_tensor_shape",
                path=source,
                name=_get_tencent_name(name),
                shape=str(tensor.shape),
                expected=str(expected.get(name, ())),
            )


def _get_tencent_name(name: str) -> str:
    """The name in the file of a parameter of `IPAdapter`."""
    name = name.replace("image_proj.", "ip_adapter_clip_len_trans_block.", 1)
    name = re.sub(r"^norm\.", "ip_adapter_img_norm_cond.", name)
    name = re.sub(r"^layers\.(\d+)\.to_kv", r"blocks.\1.attn2.kv_proj_ip_adapter", name)
    return re.sub(r"^layers\.(\d+)\.norm_k", r"blocks.\1.attn2.k_norm_ip_adapter", name)
