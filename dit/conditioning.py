"""Conditioning: everything that `DiT` takes besides the latents, computed once and used at every step.

S steps, B batch, F frames, N image tokens, L text tokens, D width, H heads, E head width, T text width;
latents are B C F Y X.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dianjing.dit.attention import KeyValue, ScaledKeyValue
from dianjing.dit.blocks import BlockConditioning
from dianjing.dit.fused_cpu import FusedBlock
from dianjing.dit.ip_adapter import ImagePrompt
from dianjing.dit.motion.video_conditioning import VideoConditioning
from dianjing.errors import DianjingError

KEY_MULTIPLE = 16  # CPU attention in bfloat16 is several times slower over other numbers of keys


@dataclass(frozen=True, kw_only=True)
class Conditioning:
    """Every input of `DiT` but the latents, for a batch of prompts and the steps of a schedule.

    `DiT.compute_conditioning` makes it and includes what each block computes from text and time: text_keys, text_values
    and shifts. Where these are None, the blocks compute them from text and temb at every call.
    """

    text_keys: tuple[Tensor, ...] | None = None  # one for each block, (B, L, H, E)
    text_values: tuple[Tensor, ...] | None = None  # like text_keys
    shifts: Tensor | None = None  # modulation of the blocks, (S, depth, B, D)
    text: Tensor | None = None  # text tokens, (B, L, T)
    temb: Tensor | None = None  # timestep embedding, (S, B, D)
    attention_mask: Tensor | None  # (1, 1, 1, L), added to scores: 0 for text, -inf for padding; None without padding
    scale_shift: Tensor  # modulation of the last norm, (S, B, 2D)
    rotary_table: Tensor  # float32 (N, E/2, 2), see `rope`
    latent_size: tuple[int, int]  # height and width in latents
    fused_blocks: tuple[FusedBlock, ...] | None = None  # weights for inference in bfloat16 on a CPU
    video: VideoConditioning | None = None  # None for an image
    blend_coefficients: Tensor | None = None  # see `WarpGuidance.compute_blend_coefficients`
    image_prompts: tuple[ImagePrompt, ...] = ()  # pictures of IP-Adapters

    @property
    def num_steps(self) -> int:
        return self.scale_shift.shape[0]

    @property
    def batch_size(self) -> int:
        return self.scale_shift.shape[1]

    @property
    def num_frames(self) -> int:
        return 1 if self.video is None else self.video.num_frames

    def select_step(self, step: int) -> "Conditioning":
        """Return the conditioning of one step, as `DiT.forward` takes it; tensors are views.

        Raises: IndexError for a step outside the schedule.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is outside the schedule of {self.num_steps} steps")
        names = ("shifts", "temb", "scale_shift", "blend_coefficients")
        tensors = {name: getattr(self, name) for name in names}
        return replace(
            self, **{name: tensor[step : step + 1] for name, tensor in tensors.items() if tensor is not None}
        )

    def truncate(self, num_frames: int) -> "Conditioning":
        """Return the conditioning of the first `num_frames` frames; tensors are views.

        Raises: DianjingError for more frames than there are.
        """
        if num_frames > self.num_frames:
            raise DianjingError("conditioning_has_fewer_frames", num_frames=num_frames, available=self.num_frames)
        return self if self.video is None else replace(self, video=self.video.truncate(num_frames))

    def index_batch(self, index: slice | list[int] | Tensor) -> "Conditioning":
        """Return the conditioning of the prompts at `index` of the batch.

        A slice picks a part; a list also repeats: [0, 0, 1, 1] for two images of each of two prompts.
        """
        if isinstance(index, list):
            index = torch.tensor(index, device=self.scale_shift.device)
        return replace(
            self,
            text_keys=self.text_keys and tuple(key[index] for key in self.text_keys),
            text_values=self.text_values and tuple(value[index] for value in self.text_values),
            shifts=None if self.shifts is None else self.shifts[:, :, index],
            text=None if self.text is None else self.text[index],
            temb=None if self.temb is None else self.temb[:, index],
            scale_shift=self.scale_shift[:, index],
            video=self.video and self.video.map_tensors(lambda tensor: tensor[index]),
            image_prompts=tuple(prompt.index_batch(index) for prompt in self.image_prompts),
        )

    def get_block_conditioning(self, layer: int) -> BlockConditioning | None:
        """Return what block `layer` takes at the only step, or None where the block has to compute it."""
        if self.shifts is None or self.text_keys is None or self.text_values is None:
            return None
        image_prompts = tuple(
            ScaledKeyValue(keys[layer], values[layer], scale) for keys, values, scale in self.image_prompts
        )
        key_value = KeyValue(self.text_keys[layer], self.text_values[layer])
        return BlockConditioning(self.shifts[0, layer], key_value, image_prompts)

    def check_latents(self, latents: Tensor) -> None:
        """Check that this is of one step and made for latents (B, C, F, Y, X) of this size.

        Raises: DianjingError if not.
        """
        if self.num_steps != 1:
            raise DianjingError("conditioning_has_several_steps", num_steps=self.num_steps)
        expected = (self.batch_size, self.num_frames, *self.latent_size)
        actual = (len(latents), *latents.shape[2:])
        if expected != actual:
            raise DianjingError("conditioning_latents_mismatch", expected=str(expected), actual=str(actual))


def pad_text_tokens(text: Tensor) -> tuple[Tensor, Tensor | None]:
    """Pad text (B, L, T) on a CPU to a multiple of KEY_MULTIPLE tokens.

    Returns the text and the attention mask (1, 1, 1, L) to be added to scores, or None where nothing is padded.
    """
    padding = -text.shape[1] % KEY_MULTIPLE
    if text.device.type != "cpu" or not padding:
        return text, None
    mask = text.new_zeros(1, 1, 1, text.shape[1] + padding)
    mask[..., -padding:] = -torch.inf
    return F.pad(text, (0, 0, 0, padding)), mask
