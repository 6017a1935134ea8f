"""Prompt embeddings as data: the states of both text encoders, positive and negative.

B batch of images or videos, L text tokens, T width of an encoder's states.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

ENCODER_SUFFIXES = ("", "_2")  # of argument names, for BERT and T5


@dataclass(frozen=True, kw_only=True)
class TextEncoderOutput:
    """States of one encoder for a batch of texts."""

    embeds: Tensor  # (B, L, T)
    attention_mask: Tensor  # (B, L), 1 for text

    @classmethod
    def from_optional(cls, embeds: Tensor | None, attention_mask: Tensor | None) -> "TextEncoderOutput | None":
        """Combine states and their mask; None if either is None."""
        return None if embeds is None or attention_mask is None else cls(embeds=embeds, attention_mask=attention_mask)

    def __len__(self) -> int:
        return len(self.embeds)

    def index_batch(self, batch_indices: list[int]) -> "TextEncoderOutput":
        """Select or repeat texts."""
        return TextEncoderOutput(embeds=self.embeds[batch_indices], attention_mask=self.attention_mask[batch_indices])

    def repeat_per_image(self, num_images_per_prompt: int) -> "TextEncoderOutput":
        """Repeat each prompt for its images: a b -> a a b b."""
        return self.index_batch([row for row in range(len(self)) for _ in range(num_images_per_prompt)])

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextEncoderOutput":
        """Move to a device; the states also to a dtype."""
        return TextEncoderOutput(embeds=self.embeds.to(device, dtype), attention_mask=self.attention_mask.to(device))


@dataclass(frozen=True, kw_only=True)
class PromptEmbeds:
    """States (B, L, T) and masks (B, L) of both encoders, under the names of the pipelines' arguments.

    As arguments of a call any may be None; encoded prompts lack the negative half if guidance is off.
    """

    prompt_embeds: Tensor | None = None
    prompt_attention_mask: Tensor | None = None
    prompt_embeds_2: Tensor | None = None
    prompt_attention_mask_2: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    negative_prompt_attention_mask: Tensor | None = None
    negative_prompt_embeds_2: Tensor | None = None
    negative_prompt_attention_mask_2: Tensor | None = None

    @property
    def batch_size(self) -> int:
        assert self.prompt_embeds is not None, "prompts are encoded"
        return self.prompt_embeds.shape[0]

    def updated_by(self, other: "PromptEmbeds") -> "PromptEmbeds":
        """Replace the tensors that `other` has."""
        return replace(self, **{name: tensor for name, tensor in vars(other).items() if tensor is not None})

    def select_negative(self) -> "PromptEmbeds":
        """Return the negative prompts as prompts; without negative prompts, the prompts."""
        if self.negative_prompt_embeds is None:
            return self
        names = [name for name in vars(self) if name.startswith("negative_")]
        return PromptEmbeds(**{name.removeprefix("negative_"): getattr(self, name) for name in names})

    def get_model_inputs(self, *, guided: bool) -> dict[str, Tensor]:
        """Arguments of `DiT.forward` for the text: of B rows, or 2B with the negative prompts first if guided."""

        def join(name: str) -> Tensor:
            positive = getattr(self, name)
            return torch.cat([getattr(self, f"negative_{name}"), positive]) if guided else positive

        return {
            "encoder_hidden_states": join("prompt_embeds"),
            "text_embedding_mask": join("prompt_attention_mask"),
            "encoder_hidden_states_t5": join("prompt_embeds_2"),
            "text_embedding_mask_t5": join("prompt_attention_mask_2"),
        }


def get_embed_names(encoder: int) -> tuple[str, str, str, str]:
    """Field names of `PromptEmbeds` for an encoder, in the order in which `encode_prompt` returns the tensors."""
    suffix = ENCODER_SUFFIXES[encoder]
    states, mask = f"prompt_embeds{suffix}", f"prompt_attention_mask{suffix}"
    return states, f"negative_{states}", mask, f"negative_{mask}"
