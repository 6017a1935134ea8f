"""The half of a pipeline that reads: prompts, or what was encoded of them before, to `Text`.

B batch of pictures, L text tokens, T width of an encoder's states.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dianjing.pipelines import inputs
from dianjing.pipelines.base import Pipeline
from dianjing.pipelines.text import States, Text, encode, encode_missing

TEXT_LENGTHS = (77, 256)  # of Hunyuan-DiT, where there is no transformer to ask
SUFFIXES = ("", "_2")  # of the names that belong to BERT and to T5


class PromptPipeline(Pipeline):
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
        suffix = SUFFIXES[text_encoder_index]
        device = device or self._execution_device
        positive = States.of(prompt_embeds, prompt_attention_mask) or inputs.check_prompts(prompt)
        negative: States | list[str] | None = None
        if do_classifier_free_guidance:
            negative = States.of(negative_prompt_embeds, negative_prompt_attention_mask)
            negative = negative or inputs.check_negative_prompts(negative_prompt, len(positive))
        encode_texts = partial(
            encode,
            getattr(self, f"text_encoder{suffix}"),
            getattr(self, f"tokenizer{suffix}"),
            length=max_sequence_length or self._text_lengths[text_encoder_index],
            device=device,
        )
        yes, no = (
            None if states is None else states.per_picture(num_images_per_prompt).to(device, dtype or self._text_dtype)
            for states in encode_missing(positive, negative, encode_texts)
        )
        assert yes is not None
        return yes.embeds, None if no is None else no.embeds, yes.mask, None if no is None else no.mask

    def _encode(
        self, prompt: Any, negative_prompt: Any, given: Mapping[str, Tensor | None], *, num_images_per_prompt: int
    ) -> Text:
        """`given` holds what is encoded already, under the names of a `Text`."""
        fields: dict[str, Any] = {}
        for index, suffix in enumerate(SUFFIXES):
            encoded = self.encode_prompt(
                prompt,
                num_images_per_prompt=num_images_per_prompt,
                do_classifier_free_guidance=self.do_classifier_free_guidance,
                negative_prompt=negative_prompt,
                prompt_embeds=given[f"prompt_embeds{suffix}"],
                prompt_attention_mask=given[f"prompt_attention_mask{suffix}"],
                negative_prompt_embeds=given[f"negative_prompt_embeds{suffix}"],
                negative_prompt_attention_mask=given[f"negative_prompt_attention_mask{suffix}"],
                text_encoder_index=index,
            )
            names = (
                "prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask",
            )  # fmt: skip
            fields |= {f"{name}{suffix}": tensor for name, tensor in zip(names, encoded, strict=True)}
        return Text(**fields)

    def _check_text(self, prompt: Any, negative_prompt: Any, given: Mapping[str, Tensor | None]) -> int:
        """Check all that is said, and return the number of prompts."""
        count = None if prompt is None else len(inputs.check_prompts(prompt))
        for text, name in ((prompt, "prompt"), (negative_prompt, "negative_prompt")):
            if text is not None and given[f"{name}_embeds"] is not None:
                raise ValueError(f"{name} and {name}_embeds are both given; give one of them")
        for side in ("", "negative_"):
            for suffix, length, width in zip(SUFFIXES, self._text_lengths, self._text_widths, strict=True):
                name = f"{side}prompt_embeds{suffix}"
                mask = given[f"{side}prompt_attention_mask{suffix}"]
                found = inputs.check_embeds(given[name], mask, name, length=length, width=width, count=count)
                if found is None and not side and prompt is None:
                    raise ValueError(f"neither prompt nor {name} is given; say what to draw")
                needed = not side or self.do_classifier_free_guidance
                if found is None and needed and getattr(self, f"text_encoder{suffix}") is None:
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
        """Of the transformer, or of the first encoder there is."""
        models = (self.transformer, self.text_encoder_2, self.text_encoder)
        return next(model.dtype for model in models if model is not None)
