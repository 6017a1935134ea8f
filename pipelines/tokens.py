"""Tokens: texts to ids, and the end of a text that an encoder does not take.

B batch of texts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers.utils import logging
from torch import Tensor
from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class TruncatedText:
    """The end of a prompt that an encoder did not read.

    name: the argument, "prompt" or "negative_prompt". encoder: the component, "text_encoder" or "text_encoder_2".
    num_tokens, max_tokens: of the whole prompt, and those that the encoder takes. text: what was cut off.
    """

    name: str
    encoder: str
    num_tokens: int
    max_tokens: int
    text: str


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int) -> tuple[Tensor, Tensor]:
    """Tokenize texts to ids and a mask, both (B, max_length); a longer text is cut, with a warning."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=max_length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    for text, mask in zip(texts, tokens.attention_mask, strict=True):
        if mask.all():  # only a full row can have been cut
            num_tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
            if num_tokens > max_length:
                logger.warning(
                    f"a prompt of {num_tokens} tokens was cut to the {max_length} that {type(tokenizer).__name__} "
                    f"of this model takes; it begins {text[:40]!r}"
                )
    return tokens.input_ids, tokens.attention_mask


def list_truncated_texts(
    prompts: Mapping[str, str | Sequence[str] | None],
    encoders: Mapping[str, tuple[PreTrainedTokenizerBase | None, int]],
) -> list[TruncatedText]:
    """List the ends of prompts, by the name of their argument, that encoders cut off.

    encoders: tokenizer and number of tokens by the name of the component; without a tokenizer nothing is cut.
    """
    truncated = []
    for name, texts in prompts.items():
        for text in [texts] if isinstance(texts, str) else dict.fromkeys(texts or []):
            for encoder, (tokenizer, max_tokens) in encoders.items():
                count, rest = (0, "") if tokenizer is None else _cut_text(tokenizer, text, max_length=max_tokens)
                if count > max_tokens:
                    limits = {"num_tokens": count, "max_tokens": max_tokens}
                    truncated.append(TruncatedText(name=name, encoder=encoder, text=rest, **limits))
    return truncated


def _cut_text(tokenizer: PreTrainedTokenizerBase, text: str, *, max_length: int) -> tuple[int, str]:
    """Count the tokens of a text, and find the end that is cut off."""
    ids = tokenizer(text, truncation=False, verbose=False).input_ids
    if len(ids) <= max_length:
        return len(ids), ""
    cut = tokenizer(
        text, truncation=True, max_length=max_length, return_offsets_mapping=tokenizer.is_fast, verbose=False
    )
    if tokenizer.is_fast:
        end = max(stop for _, stop in cut.offset_mapping)
        return len(ids), text[end:].strip()
    num_special = tokenizer.num_special_tokens_to_add()
    return len(ids), tokenizer.decode(ids[max_length - num_special :], skip_special_tokens=True)
