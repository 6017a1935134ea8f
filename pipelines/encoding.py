"""The half of a pipeline that reads: prompts, or what was encoded of them before, to `Text`.

B batch of pictures, L text tokens, T width of an encoder's states.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dianjing.pipelines import inputs
from dianjing.pipelines.text import States, Text, encode, encode_missing

TEXT_LENGTHS = (77, 256)  # of Hunyuan-DiT, where there is no transformer to ask
SUFFIXES = ("", "_2")  # of the names that belong to BERT and to T5


class TextEncodingMixin:
    """For pipelines over text_encoder and tokenizer (BERT), text_encoder_2 and tokenizer_2 (T5), transformer."""

    text_encoder: Any
    text_encoder_2: Any
    transformer: Any
    _execution_device: torch.device

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
        device = device or self._execution_device
        dtype = dtype or self._text_dtype
        positive: Any
        if prompt_embeds is None:
            positive = inputs.check_prompts(prompt)
            count = len(positive)
        else:
            positive, count = States(prompt_embeds, prompt_attention_mask), len(prompt_embeds)
        negative: Any = None
        if do_classifier_free_guidance and negative_prompt_embeds is not None:
            negative = States(negative_prompt_embeds, negative_prompt_attention_mask)
        elif do_classifier_free_guidance:
            negative = inputs.check_negative_prompts(negative_prompt, count)
        suffix = SUFFIXES[text_encoder_index]
        encode_texts = partial(
            encode,
            getattr(self, f"text_encoder{suffix}"),
            getattr(self, f"tokenizer{suffix}"),
            length=max_sequence_length or self._text_lengths[text_encoder_index],
            device=device,
        )
        positive, negative = (
            States(None, None) if states is None else states.per_picture(num_images_per_prompt).to(device, dtype)
            for states in encode_missing(positive, negative, encode_texts)
        )
        return positive.embeds, negative.embeds, positive.mask, negative.mask

    def _encode(
        self, prompt: Any, negative_prompt: Any, given: Mapping[str, Tensor | None], *, num_images_per_prompt: int
    ) -> Text:
        """`given` holds what is encoded already, under the names of a `Text`."""
        fields: dict[str, Tensor | None] = {}
        for index, suffix in enumerate(SUFFIXES):
            names = [
                f"{side}{name}{suffix}"
                for name in ("prompt_embeds", "prompt_attention_mask")
                for side in ("", "negative_")
            ]
            encoded = self.encode_prompt(
                prompt,
                num_images_per_prompt=num_images_per_prompt,
                do_classifier_free_guidance=self.do_classifier_free_guidance,
                negative_prompt=negative_prompt,
                text_encoder_index=index,
                **{name.removesuffix("_2"): given[name] for name in names},
            )
            fields |= zip(names, encoded, strict=True)
        return Text(**fields)

    def _check_text(self, prompt: Any, negative_prompt: Any, given: Mapping[str, Tensor | None]) -> int:
        """Check all that is said, and return the number of prompts."""
        count = None if prompt is None else len(inputs.check_prompts(prompt))
        if prompt is not None and given["prompt_embeds"] is not None:
            raise ValueError("prompt and prompt_embeds are both given; give one of them")
        if negative_prompt is not None and given["negative_prompt_embeds"] is not None:
            raise ValueError("negative_prompt and negative_prompt_embeds are both given; give one of them")
        for side in ("", "negative_"):
            for suffix, length, width in zip(SUFFIXES, self._text_lengths, self._text_widths, strict=True):
                name = f"{side}prompt_embeds{suffix}"
                mask = given[f"{side}prompt_attention_mask{suffix}"]
                found = inputs.check_embeds(given[name], mask, name, length=length, width=width, count=count)
                if found is None and not side and prompt is None:
                    raise ValueError(f"neither prompt nor {name} is given; say what to draw")
                encoded_here = found is None and (not side or self.do_classifier_free_guidance)
                if encoded_here and getattr(self, f"text_encoder{suffix}") is None:
                    raise ValueError(f"this pipeline has no text_encoder{suffix}; give {name}")
                count = count or found
        assert count is not None
        inputs.check_negative_prompts(negative_prompt, count)
        return count

    @property
    def _text_lengths(self) -> tuple[int, int]:
        if self.transformer is None:
            return TEXT_LENGTHS
        return self.transformer.config.text_len, self.transformer.config.text_len_t5

    @property
    def _text_widths(self) -> tuple[int, int]:
        return self.transformer.config.cross_attention_dim, self.transformer.config.cross_attention_dim_t5

    @property
    def _text_dtype(self) -> torch.dtype:
        model = next(m for m in (self.transformer, self.text_encoder_2, self.text_encoder) if m is not None)
        return model.dtype
