"""The parts of a LoRA file for the transformer and for the text encoders, told apart by the prefixes of their keys."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# diffusers writes the name of the component, kohya's sd-scripts lora_te1_ and lora_te2_, or lora_te_ for the only one
PREFIXES = {
    "text_encoder": re.compile(r"text_encoder\.|lora_te1?_"),
    "text_encoder_2": re.compile(r"text_encoder_2\.|lora_te2_"),
}
# of BERT, T5 and CLIP; PEFT saves them beside a LoRA if the vocabulary is not that of the model it was made for
WORD_EMBEDDINGS = re.compile(
    r"(?:.+\.)?(?:word_embeddings|shared|embed_tokens|token_embedding)(?:\.base_layer)?\.weight"
)


def split_components(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split the tensors of a file by component; those of text encoders lose their prefix, others stay as they are."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        component, name = "transformer", key
        for each, prefix in PREFIXES.items():
            if found := prefix.match(key):
                component, name = each, key[found.end() :]
        parts.setdefault(component, {})[name] = tensor
    return parts or {"transformer": {}}


def select_word_embeddings(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the whole word embeddings (tokens, width) that PEFT saved beside the LoRA of a text encoder."""
    return {key: tensor for key, tensor in tensors.items() if WORD_EMBEDDINGS.fullmatch(key)}


def select_component_config(metadata: Mapping[str, Any], component: str) -> dict[str, Any]:
    """Select the configuration of a component from the metadata of a file by diffusers."""
    prefix = f"{component}."
    has_prefixes = any(key.partition(".")[0] in ("transformer", *PREFIXES) for key in metadata)
    if not has_prefixes:
        return dict(metadata)
    return {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
