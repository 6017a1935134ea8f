"""From prompts to text states: both encoders, positive and negative prompts in one batch each.

B batch of pictures, L text tokens, T width of an encoder's states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Text:
    """The states of both encoders for a batch of pictures, each (B, L, T) with its mask (B, L).

    The negative half is None where guidance is off. Fields are named as the pipeline's arguments.
    """

    prompt_embeds: Tensor
    prompt_attention_mask: Tensor
    prompt_embeds_2: Tensor
    prompt_attention_mask_2: Tensor
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_prompt_embeds_2: Tensor | None = None
    negative_prompt_attention_mask_2: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.prompt_embeds.shape[0]

    def inputs(self, *, guided: bool) -> dict[str, Tensor]:
        """What `DiT` takes, under its names; where guided, the negative prompts come first: (2B, ...)."""

        def both(name: str) -> Tensor:
            positive = getattr(self, name)
            return torch.cat([getattr(self, f"negative_{name}"), positive]) if guided else positive

        return {
            "encoder_hidden_states": both("prompt_embeds"),
            "text_embedding_mask": both("prompt_attention_mask"),
            "encoder_hidden_states_t5": both("prompt_embeds_2"),
            "text_embedding_mask_t5": both("prompt_attention_mask_2"),
        }


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, length); a text that is too long is cut, with a warning."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    for text, mask in zip(texts, tokens.attention_mask, strict=True):
        if mask.all():  # full: only then can anything have been cut
            num_tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
            if num_tokens > length:
                logger.warning(
                    f"a prompt of {num_tokens} tokens was cut to the {length} that {type(tokenizer).__name__} "
                    f"of this model takes; it begins {text[:40]!r}"
                )
    return tokens.input_ids, tokens.attention_mask


@dataclass(frozen=True, kw_only=True)
class States:
    """What one encoder made of the prompts: as many rows as it has length."""

    embeds: Tensor  # (B, L, T)
    mask: Tensor  # (B, L), 1 for text

    @classmethod
    def of(cls, embeds: Tensor | None, mask: Tensor | None) -> "States | None":
        return None if embeds is None or mask is None else cls(embeds=embeds, mask=mask)

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, index: list[int]) -> "States":
        return States(embeds=self.embeds[index], mask=self.mask[index])

    def per_picture(self, num_images_per_prompt: int) -> "States":
        """Each prompt repeated for its pictures: a b -> a a b b."""
        return self.rows([row for row in range(len(self)) for _ in range(num_images_per_prompt)])

    def to(self, device: torch.device, dtype: torch.dtype) -> "States":
        return States(embeds=self.embeds.to(device, dtype), mask=self.mask.to(device))


def encode(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    length: int,
    device: torch.device,
) -> States:
    """The last hidden states of all texts, in one batch; a text that comes up again is not read again."""
    different = list(dict.fromkeys(texts))
    ids, mask = (tensor.to(device) for tensor in tokenize(tokenizer, different, length=length))
    states = States(embeds=text_encoder(ids, attention_mask=mask)[0], mask=mask)
    return states.rows([different.index(text) for text in texts])


def encode_missing(
    positive: States | Sequence[str],
    negative: States | Sequence[str] | None,
    encode_texts: Callable[[Sequence[str]], States],
) -> tuple[States, States | None]:
    """Encode what is still text, in one batch; pass on what is encoded already, or absent."""
    texts = [] if isinstance(positive, States) else list(positive)
    count = len(texts)
    if negative is not None and not isinstance(negative, States):
        texts += negative
    if texts:
        encoded = encode_texts(texts)
        if count:
            positive = encoded.rows(list(range(count)))
        if len(texts) > count:
            negative = encoded.rows(list(range(count, len(texts))))
    assert isinstance(positive, States)
    assert negative is None or isinstance(negative, States)
    return positive, negative
