"""Tensors of Hunyuan-DiT and its ControlNets under Tencent's own names and under diffusers' names.

Tencent keeps query, key and value as one projection, calls norm2 what diffusers calls norm3, and stores shift before
scale in the last modulation.

Source: Tencent-Hunyuan/HunyuanDiT, hydit/modules/models.py and controlnet.py; diffusers' HunyuanDiT2DModel.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dianjing.weights.formats.lazy_tensors import LazyTensor, LazyTensors


@dataclass(frozen=True)
class NameRule:
    """A module of Tencent's and the modules of diffusers that hold its rows in turn; {i} stands for a number."""

    tencent: str
    diffusers: tuple[str, ...]
    swap_halves: bool = False


RULES = (
    NameRule("text_embedding_padding", ("text_embedding_padding",)),
    NameRule("x_embedder.proj", ("pos_embed.proj",)),
    NameRule("t_embedder.mlp.0", ("time_extra_emb.timestep_embedder.linear_1",)),
    NameRule("t_embedder.mlp.2", ("time_extra_emb.timestep_embedder.linear_2",)),
    NameRule("extra_embedder.0", ("time_extra_emb.extra_embedder.linear_1",)),
    NameRule("extra_embedder.2", ("time_extra_emb.extra_embedder.linear_2",)),
    NameRule("style_embedder", ("time_extra_emb.style_embedder",)),
    NameRule("pooler", ("time_extra_emb.pooler",)),
    NameRule("pooler.k_proj", ("time_extra_emb.pooler.k_proj",)),
    NameRule("pooler.q_proj", ("time_extra_emb.pooler.q_proj",)),
    NameRule("pooler.v_proj", ("time_extra_emb.pooler.v_proj",)),
    NameRule("pooler.c_proj", ("time_extra_emb.pooler.c_proj",)),
    NameRule("mlp_t5.0", ("text_embedder.linear_1",)),
    NameRule("mlp_t5.2", ("text_embedder.linear_2",)),
    NameRule("blocks.{i}.norm1", ("blocks.{i}.norm1.norm",)),
    NameRule("blocks.{i}.default_modulation.1", ("blocks.{i}.norm1.linear",)),
    NameRule("blocks.{i}.norm2", ("blocks.{i}.norm3",)),
    NameRule("blocks.{i}.norm3", ("blocks.{i}.norm2",)),
    NameRule("blocks.{i}.attn1.Wqkv", tuple(f"blocks.{{i}}.attn1.to_{part}" for part in "qkv")),
    NameRule("blocks.{i}.attn2.q_proj", ("blocks.{i}.attn2.to_q",)),
    NameRule("blocks.{i}.attn2.kv_proj", tuple(f"blocks.{{i}}.attn2.to_{part}" for part in "kv")),
    *(
        NameRule(f"blocks.{{i}}.{attention}.{tencent}", (f"blocks.{{i}}.{attention}.{diffusers}",))
        for attention in ("attn1", "attn2")
        for tencent, diffusers in (("q_norm", "norm_q"), ("k_norm", "norm_k"), ("out_proj", "to_out.0"))
    ),
    NameRule("blocks.{i}.mlp.fc1", ("blocks.{i}.ff.net.0.proj",)),
    NameRule("blocks.{i}.mlp.fc2", ("blocks.{i}.ff.net.2",)),
    NameRule("blocks.{i}.skip_norm", ("blocks.{i}.skip_norm",)),
    NameRule("blocks.{i}.skip_linear", ("blocks.{i}.skip_linear",)),
    NameRule("final_layer.adaLN_modulation.1", ("norm_out.linear",), swap_halves=True),
    NameRule("final_layer.linear", ("proj_out",)),
    # ControlNets
    NameRule("before_proj", ("input_block",)),
    NameRule("after_proj_list.{i}", ("controlnet_blocks.{i}",)),
)
PARAMETERS = ("weight", "bias", "positional_embedding")
_NAME_PATTERN = re.compile(rf"(.*?)(?:\.({'|'.join(PARAMETERS)}))?")


def split_name(name: str) -> tuple[str, str, str]:
    """Split the name of a tensor into its module with {i} for the number of a block, the number, and the parameter."""
    module, parameter = _NAME_PATTERN.fullmatch(name).groups()  # type: ignore[union-attr]
    found = re.match(r"(blocks|after_proj_list|controlnet_blocks)\.(\d+)", module)
    if found is None:
        return module, "", parameter or ""
    return f"{found[1]}.{{i}}{module[found.end() :]}", found[2], parameter or ""


def _join_name(module: str, number: str, parameter: str) -> str:
    return ".".join(filter(None, (module.replace("{i}", number), parameter)))


def find_unknown_names(names: Mapping[str, object]) -> list[str]:
    """The names that are none of Tencent's."""
    known = {rule.tencent for rule in RULES}
    return [name for name in names if split_name(name)[0] not in known]


def convert_to_diffusers(tensors: LazyTensors) -> LazyTensors:
    """Tensors under Tencent's names as those of diffusers. Raises: KeyError for a name that is none of Tencent's."""
    rules = {rule.tencent: rule for rule in RULES}
    converted = {}
    for name, tensor in tensors.items():
        module, number, parameter = split_name(name)
        rule = rules[module]
        if rule.swap_halves:
            tensor = _swap_halves(tensor)
        num_rows = tensor.shape[0] // len(rule.diffusers) if tensor.shape else 0
        for index, part in enumerate(rule.diffusers):
            rows = tensor if len(rule.diffusers) == 1 else tensor.take_rows(index * num_rows, (index + 1) * num_rows)
            converted[_join_name(part, number, parameter)] = rows
    return converted


def convert_to_tencent(tensors: LazyTensors) -> LazyTensors:
    """Tensors under diffusers' names as those of Tencent. Raises: KeyError for a name that is none of diffusers'."""
    rules = {part: rule for rule in RULES for part in rule.diffusers}
    converted = {}
    for name in tensors:
        module, number, parameter = split_name(name)
        rule = rules[module]
        if module != rule.diffusers[0]:
            continue  # goes with the first part
        parts = [tensors[_join_name(part, number, parameter)] for part in rule.diffusers]
        tensor = parts[0] if len(parts) == 1 else LazyTensor.concatenate(parts)
        converted[_join_name(rule.tencent, number, parameter)] = _swap_halves(tensor) if rule.swap_halves else tensor
    return converted


def _swap_halves(tensor: LazyTensor) -> LazyTensor:
    half = tensor.shape[0] // 2
    return LazyTensor.concatenate([tensor.take_rows(half, 2 * half), tensor.take_rows(0, half)])
