"""From prompts to text states: both encoders, positive and negative prompts in one batch each.

B batch of pictures, L text tokens, T width of an encoder's states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dianjing.pipelines import validation
from dianjing.pipelines.base import PipelineBase

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PromptEmbeds:
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

    def get_model_inputs(self, *, guided: bool) -> dict[str, Tensor]:
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


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, max_length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, length); a text that is too long is cut, with a warning."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=max_length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    for text, mask in zip(texts, tokens.attention_mask, strict=True):
        if mask.all():  # full: only then can anything have been cut
            num_tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
            if num_tokens > max_length:
                logger.warning(
                    f"a prompt of {num_tokens} tokens was cut to the {max_length} that {type(tokenizer).__name__} "
                    f"of this model takes; it begins {text[:40]!r}"
                )
    return tokens.input_ids, tokens.attention_mask


@dataclass(frozen=True, kw_only=True)
class TextEncoderOutput:
    """What one encoder made of the prompts: as many rows as it has length."""

    embeds: Tensor  # (B, L, T)
    attention_mask: Tensor  # (B, L), 1 for text

    @classmethod
    def from_optional(cls, embeds: Tensor | None, attention_mask: Tensor | None) -> "TextEncoderOutput | None":
        return None if embeds is None or attention_mask is None else cls(embeds=embeds, attention_mask=attention_mask)

    def __len__(self) -> int:
        return len(self.embeds)

    def index_batch(self, batch_indices: list[int]) -> "TextEncoderOutput":
        return TextEncoderOutput(embeds=self.embeds[batch_indices], attention_mask=self.attention_mask[batch_indices])

    def repeat_per_image(self, num_images_per_prompt: int) -> "TextEncoderOutput":
        """Each prompt repeated for its pictures: a b -> a a b b."""
        return self.index_batch([row for row in range(len(self)) for _ in range(num_images_per_prompt)])

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextEncoderOutput":
        return TextEncoderOutput(embeds=self.embeds.to(device, dtype), attention_mask=self.attention_mask.to(device))


def encode_texts(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    device: torch.device,
) -> TextEncoderOutput:
    """The last hidden states of all texts, in one batch; a text that comes up again is not read again."""
    different = list(dict.fromkeys(texts))
    ids, mask = (tensor.to(device) for tensor in tokenize(tokenizer, different, max_length=max_length))
    states = TextEncoderOutput(embeds=text_encoder(ids, attention_mask=mask)[0], attention_mask=mask)
    return states.index_batch([different.index(text) for text in texts])


def encode_missing_prompts(
    prompts: TextEncoderOutput | Sequence[str],
    negative_prompts: TextEncoderOutput | Sequence[str] | None,
    encode_fn: Callable[[Sequence[str]], TextEncoderOutput],
) -> tuple[TextEncoderOutput, TextEncoderOutput | None]:
    """Encode what is still text, in one batch; pass on what is encoded already, or absent."""
    texts = [] if isinstance(prompts, TextEncoderOutput) else list(prompts)
    count = len(texts)
    if negative_prompts is not None and not isinstance(negative_prompts, TextEncoderOutput):
        texts += negative_prompts
    if texts:
        encoded = encode_fn(texts)
        if count:
            prompts = encoded.index_batch(list(range(count)))
        if len(texts) > count:
            negative_prompts = encoded.index_batch(list(range(count, len(texts))))
    assert isinstance(prompts, TextEncoderOutput)
    assert negative_prompts is None or isinstance(negative_prompts, TextEncoderOutput)
    return prompts, negative_prompts


DEFAULT_MAX_SEQUENCE_LENGTHS = (77, 256)  # of Hunyuan-DiT, where there is no transformer to ask
ENCODER_SUFFIXES = ("", "_2")  # of the names that belong to BERT and to T5


class PromptPipelineBase(PipelineBase):
    """For pipelines over text_encoder and tokenizer (BERT), text_encoder_2 and tokenizer_2 (T5), transformer."""

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        max_sequence_length: int | None = None,
        text_encoder_index: int = 0,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """States (B, L, T) of one encoder for the prompts and the negative ones, then their masks (B, L).

        text_encoder_index: 0 for BERT, 1 for T5. All that is still text goes through it in one batch.
        """
        suffix = ENCODER_SUFFIXES[text_encoder_index]
        device = device or self._execution_device
        positive = TextEncoderOutput.from_optional(prompt_embeds, prompt_attention_mask) or validation.check_prompts(
            prompt
        )
        negative: TextEncoderOutput | list[str] | None = None
        if do_classifier_free_guidance:
            negative = TextEncoderOutput.from_optional(negative_prompt_embeds, negative_prompt_attention_mask)
            negative = negative or validation.check_negative_prompts(negative_prompt, len(positive))
        encode_fn = partial(
            encode_texts,
            getattr(self, f"text_encoder{suffix}"),
            getattr(self, f"tokenizer{suffix}"),
            max_length=max_sequence_length or self._max_sequence_lengths[text_encoder_index],
            device=device,
        )
        yes, no = (
            None
            if states is None
            else states.repeat_per_image(num_images_per_prompt).to(device, dtype or self._text_dtype)
            for states in encode_missing_prompts(positive, negative, encode_fn)
        )
        assert yes is not None
        return (
            yes.embeds,
            None if no is None else no.embeds,
            yes.attention_mask,
            None if no is None else no.attention_mask,
        )

    def _encode_prompts(
        self,
        prompt: Any,
        negative_prompt: Any,
        embeds_by_name: Mapping[str, Tensor | None],
        *,
        num_images_per_prompt: int,
    ) -> PromptEmbeds:
        """`given` holds what is encoded already, under the names of a `Text`."""
        fields: dict[str, Any] = {}
        for index, suffix in enumerate(ENCODER_SUFFIXES):
            encoded = self.encode_prompt(
                prompt,
                num_images_per_prompt=num_images_per_prompt,
                do_classifier_free_guidance=self.do_classifier_free_guidance,
                negative_prompt=negative_prompt,
                prompt_embeds=embeds_by_name[f"prompt_embeds{suffix}"],
                prompt_attention_mask=embeds_by_name[f"prompt_attention_mask{suffix}"],
                negative_prompt_embeds=embeds_by_name[f"negative_prompt_embeds{suffix}"],
                negative_prompt_attention_mask=embeds_by_name[f"negative_prompt_attention_mask{suffix}"],
                text_encoder_index=index,
            )
            names = (
                "prompt_embeds",
                "negative_prompt_embeds",
                "prompt_attention_mask",
                "negative_prompt_attention_mask",
            )
            fields |= {f"{name}{suffix}": tensor for name, tensor in zip(names, encoded, strict=True)}
        return PromptEmbeds(**fields)

    def _check_prompt_inputs(
        self, prompt: Any, negative_prompt: Any, embeds_by_name: Mapping[str, Tensor | None]
    ) -> int:
        """Check all that is said, and return the number of prompts."""
        count = None if prompt is None else len(validation.check_prompts(prompt))
        for text, name in ((prompt, "prompt"), (negative_prompt, "negative_prompt")):
            if text is not None and embeds_by_name[f"{name}_embeds"] is not None:
                raise ValueError(f"{name} and {name}_embeds are both given; give one of them")
        for side in ("", "negative_"):
            for suffix, length, width in zip(
                ENCODER_SUFFIXES, self._max_sequence_lengths, self._text_embed_dims, strict=True
            ):
                name = f"{side}prompt_embeds{suffix}"
                mask = embeds_by_name[f"{side}prompt_attention_mask{suffix}"]
                found = validation.check_embeds(
                    embeds_by_name[name], mask, name, max_length=length, embed_dim=width, num_prompts=count
                )
                if found is None and not side and prompt is None:
                    raise ValueError(f"neither prompt nor {name} is given; say what to draw")
                needed = not side or self.do_classifier_free_guidance
                if found is None and needed and getattr(self, f"text_encoder{suffix}") is None:
                    raise ValueError(f"this pipeline has no text_encoder{suffix}; give {name}")
                count = count or found
        assert count is not None
        validation.check_negative_prompts(negative_prompt, count)
        return count

    @property
    def _max_sequence_lengths(self) -> tuple[int, int]:
        if self.transformer is None:
            return DEFAULT_MAX_SEQUENCE_LENGTHS
        return self.transformer.config.text_len, self.transformer.config.text_len_t5

    @property
    def _text_embed_dims(self) -> tuple[int, int]:
        return self.transformer.config.cross_attention_dim, self.transformer.config.cross_attention_dim_t5

    @property
    def _text_dtype(self) -> torch.dtype:
        """Of the transformer, or of the first encoder there is."""
        models = (self.transformer, self.text_encoder_2, self.text_encoder)
        return next(model.dtype for model in models if model is not None)


NO_PROMPT_EMBEDS = dict.fromkeys(
    f"{side}prompt_{what}{suffix}"
    for side in ("", "negative_")
    for what in ("embeds", "attention_mask")
    for suffix in ("", "_2")
)
