"""Prompts to embeddings: texts to ids, ids through both text encoders, one batch each, and what an encoder cuts off.

B batch of images or videos, L text tokens, T width of an encoder's states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.base import PipelineBase
from dianjing.pipelines.embeds import ENCODER_SUFFIXES, PromptEmbeds, TextEncoderOutput, get_embed_names
from dianjing.pipelines.prompting.normalization.normalizer import KnownWordsMixin
from dianjing.pipelines.tensor_checks import check_embeds

logger = logging.get_logger(__name__)

DEFAULT_MAX_SEQUENCE_LENGTHS = (77, 256)  # of Hunyuan-DiT, for a pipeline without a transformer


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


def encode_texts(
    text_encoder: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    device: torch.device,
) -> TextEncoderOutput:
    """Encode texts to last hidden states in one batch, each different text once."""
    unique = list(dict.fromkeys(texts))
    ids, mask = (tensor.to(device) for tensor in tokenize(tokenizer, unique, max_length=max_length))
    output = TextEncoderOutput(embeds=text_encoder(ids, attention_mask=mask)[0], attention_mask=mask)
    return output.index_batch([unique.index(text) for text in texts])


def encode_missing_prompts(
    prompts: TextEncoderOutput | Sequence[str],
    negative_prompts: TextEncoderOutput | Sequence[str] | None,
    encode_fn: Callable[[Sequence[str]], TextEncoderOutput],
) -> tuple[TextEncoderOutput, TextEncoderOutput | None]:
    """Encode what is still text, in one batch; pass on what is encoded already, or None."""
    texts = [] if isinstance(prompts, TextEncoderOutput) else list(prompts)
    num_prompts = len(texts)
    if negative_prompts is not None and not isinstance(negative_prompts, TextEncoderOutput):
        texts += negative_prompts
    if texts:
        encoded = encode_fn(texts)
        if num_prompts:
            prompts = encoded.index_batch(list(range(num_prompts)))
        if len(texts) > num_prompts:
            negative_prompts = encoded.index_batch(list(range(num_prompts, len(texts))))
    assert isinstance(prompts, TextEncoderOutput)
    assert negative_prompts is None or isinstance(negative_prompts, TextEncoderOutput)
    return prompts, negative_prompts


class PromptPipelineBase(PipelineBase, KnownWordsMixin):
    """Base of pipelines over text_encoder and tokenizer (BERT), text_encoder_2 and tokenizer_2 (T5), transformer."""

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
        """Encode prompts and negative prompts by one encoder, in one batch.

        text_encoder_index: 0 for BERT, 1 for T5. Returns the states (B, L, T) of prompts and negative prompts, then
        their masks (B, L); those of negative prompts are None without guidance.
        """
        device = device or self._execution_device
        positive = TextEncoderOutput.from_optional(prompt_embeds, prompt_attention_mask)
        prompts = positive or validation.check_prompts(prompt)
        negative_prompts: TextEncoderOutput | list[str] | None = None
        if do_classifier_free_guidance:
            negative = TextEncoderOutput.from_optional(negative_prompt_embeds, negative_prompt_attention_mask)
            negative_prompts = negative or validation.check_negative_prompts(negative_prompt, len(prompts))
        encode_fn = partial(self._encode_by, text_encoder_index, device=device, max_length=max_sequence_length)
        positive, negative = (
            output and output.repeat_per_image(num_images_per_prompt).to(device, dtype or self._text_dtype)
            for output in encode_missing_prompts(prompts, negative_prompts, encode_fn)
        )
        assert positive is not None
        if negative is None:
            return positive.embeds, None, positive.attention_mask, None
        return positive.embeds, negative.embeds, positive.attention_mask, negative.attention_mask

    def encode_texts(self, texts: Sequence[str]) -> PromptEmbeds:
        """Encode prompts, also empty ones, by both encoders, without negative prompts."""
        tensors: dict[str, Tensor] = {}
        for encoder in range(len(ENCODER_SUFFIXES)):
            output = self._encode_by(encoder, texts, device=self._execution_device)
            output = output.to(self._execution_device, self._text_dtype)
            states_name, _, mask_name, _ = get_embed_names(encoder)
            tensors |= {states_name: output.embeds, mask_name: output.attention_mask}
        return PromptEmbeds(**tensors)

    def _encode_by(
        self, encoder: int, texts: Sequence[str], *, device: torch.device, max_length: int | None = None
    ) -> TextEncoderOutput:
        suffix = ENCODER_SUFFIXES[encoder]
        text_encoder, tokenizer = getattr(self, f"text_encoder{suffix}"), getattr(self, f"tokenizer{suffix}")
        max_length = max_length or self._max_sequence_lengths[encoder]
        return encode_texts(text_encoder, tokenizer, texts, max_length=max_length, device=device)

    def _encode_prompts(
        self, prompt: Any, negative_prompt: Any, encoded: PromptEmbeds, *, num_per_prompt: int
    ) -> PromptEmbeds:
        """Encode what is not encoded yet by both encoders."""
        tensors: dict[str, Any] = {}
        for encoder in range(len(ENCODER_SUFFIXES)):
            names = get_embed_names(encoder)
            tensors_of_encoder = self.encode_prompt(
                prompt,
                num_images_per_prompt=num_per_prompt,
                do_classifier_free_guidance=self.do_classifier_free_guidance,
                negative_prompt=negative_prompt,
                text_encoder_index=encoder,
                **{argument: getattr(encoded, name) for argument, name in zip(get_embed_names(0), names, strict=True)},
            )
            tensors |= dict(zip(names, tensors_of_encoder, strict=True))
        return PromptEmbeds(**tensors)

    def _check_prompt_inputs(self, prompt: Any, negative_prompt: Any, encoded: PromptEmbeds) -> int:
        """Check prompts and prompt embeddings, and return the number of prompts.

        Raises: DianjingError for a prompt given twice or not at all, and for embeddings of a wrong shape.
        """
        num_prompts = None if prompt is None else len(validation.check_prompts(prompt))
        for text, name in ((prompt, "prompt"), (negative_prompt, "negative_prompt")):
            if text is not None and getattr(encoded, f"{name}_embeds") is not None:
                raise DianjingError("prompt_and_embeds_given", name=name)
        for negative in (False, True):
            for encoder, suffix in enumerate(ENCODER_SUFFIXES):
                names = get_embed_names(encoder)
                states_name, mask_name = names[int(negative)], names[2 + int(negative)]
                rows = check_embeds(
                    getattr(encoded, states_name),
                    getattr(encoded, mask_name),
                    states_name,
                    max_length=self._max_sequence_lengths[encoder],
                    embed_dim=self._text_embed_dims[encoder],
                    num_prompts=num_prompts,
                )
                if rows is None and not negative and prompt is None:
                    raise DianjingError("prompt_missing", embeds_name=states_name)
                is_needed = not negative or self.do_classifier_free_guidance
                if rows is None and is_needed and getattr(self, f"text_encoder{suffix}") is None:
                    raise DianjingError("text_encoder_missing", suffix=suffix, embeds_name=states_name)
                num_prompts = num_prompts or rows
        assert num_prompts is not None
        validation.check_negative_prompts(negative_prompt, num_prompts)
        return num_prompts

    def find_truncated(
        self, prompt: str | list[str] | None, negative_prompt: str | list[str] | None = None
    ) -> list[TruncatedText]:
        """List the ends of prompts that are too long for an encoder, which that encoder does not read."""
        encoders = {
            f"text_encoder{suffix}": (getattr(self, f"tokenizer{suffix}"), max_length)
            for suffix, max_length in zip(ENCODER_SUFFIXES, self._max_sequence_lengths, strict=True)
        }
        return list_truncated_texts({"prompt": prompt, "negative_prompt": negative_prompt}, encoders)

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
        """Dtype of the transformer, or of the first encoder if there is none."""
        models = (self.transformer, self.text_encoder_2, self.text_encoder)
        return next(model.dtype for model in models if model is not None)
