"""What the pipelines for film share: the parts they are made of, how long a film is, and frames from latents.

B batch of films, F frames; latents are B C F Y X.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from transformers import BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.dit import Click, Condition, DiT
from dianjing.pipelines import inputs, request
from dianjing.pipelines.denoising import CallBack, DenoisingPipeline
from dianjing.pipelines.details import keep_details
from dianjing.pipelines.encoding import SUFFIXES
from dianjing.pipelines.latents import decode_latents
from dianjing.pipelines.lengths import check_fps, check_num_frames
from dianjing.pipelines.motions import FILE_NAME, Motions
from dianjing.pipelines.own_segmenting import FOLDER as SEGMENTER_FOLDER
from dianjing.pipelines.own_segmenting import OwnSegmenter
from dianjing.pipelines.prediction import look_ahead
from dianjing.pipelines.rolling import Rolled, follow, of_window, roll, to_levels
from dianjing.pipelines.schedule import set_schedule
from dianjing.pipelines.segmenting import GrabCut, Segmenter
from dianjing.pipelines.text import Text, encode, tokenize
from dianjing.pipelines.windows import longest, predict_windows, split

DECODED_AT_ONCE, ENCODED_AT_ONCE = 16, 8  # frames
OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")
NOTHING_GIVEN = dict.fromkeys(
    f"{side}prompt_{what}{suffix}"
    for side in ("", "negative_") for what in ("embeds", "attention_mask") for suffix in ("", "_2")
)  # fmt: skip


@dataclass
class FilmOutput(BaseOutput):
    """Films in the form that `output_type` asked for.

    "pil": a list of frames for each film; "np" and "pt": numbers on [0, 1], (B, F, H, W, 3) and (B, F, 3, H, W);
    "uint8": levels (B, F, H, W, 3); "latent": (B, C, F, Y, X).
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Pictures (B, 3, H, W), masks of regions in them (B, R, H, W), and what these are asked to do."""

    click: Click
    pixels: Tensor
    masks: Tensor

    @classmethod
    def nothing(cls, click: Click, pixels: Tensor) -> "Asked":
        """A click that asks nothing."""
        return cls(click=click, pixels=pixels, masks=pixels.new_zeros(*click.masks.shape[:2], *pixels.shape[-2:]))


def look_ahead_film(
    transformer: DiT, timesteps: Tensor, text: Text, *, guided: bool, click: Click | None, **sizes: Any
) -> Condition:
    """As `look_ahead`, for clips; where guided, the negative half sees the same picture and is asked nothing."""
    if click is not None and guided:
        click = without_phrases_first(click)
    return look_ahead(transformer, timesteps, text, guided=guided, click=click, **sizes)


def without_phrases_first(click: Click) -> Click:
    """2B rows: first those of the click without its phrases, then as it is."""
    both = click.apply(lambda tensor: torch.cat([tensor, tensor]))
    return replace(both, phrases_mask=torch.cat([torch.zeros_like(click.phrases_mask), click.phrases_mask]))


class FilmPipeline(DenoisingPipeline):
    """For films by a `DiT` with motion blocks. The defaults are those of a call that names none; frames that go on from
    a given one may take fewer steps and less guidance than a picture that is drawn from noise alone.

    `segmenter` makes a mask of clicks: GrabCut, which needs no weights, unless it is set. `own_segmenter`, where one
    came with the model, knows the pictures that this model draws.
    Raises: ValueError for a transformer that draws pictures only.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: BertModel,
        tokenizer: PreTrainedTokenizerBase,
        transformer: DiT,
        scheduler: SchedulerMixin,
        text_encoder_2: T5EncoderModel,
        tokenizer_2: PreTrainedTokenizerBase,
        default_num_inference_steps: int = 50,
        default_guidance_scale: float = 5.0,
        default_num_frames: int = 16,
        default_fps: float = 8.0,
        default_film_steps: int | None = None,
        default_film_guidance_scale: float | None = None,
    ):
        super().__init__()
        if not getattr(transformer.config, "use_motion_blocks", False):
            raise ValueError(
                "this transformer draws pictures only; film needs one trained with use_motion_blocks "
                "(train/recipes/sticker_film.toml goes on from a picture model)"
            )
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler,
            text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2,
        )  # fmt: skip
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps, default_guidance_scale=default_guidance_scale,
            default_num_frames=default_num_frames, default_fps=default_fps,
            default_film_steps=default_film_steps, default_film_guidance_scale=default_film_guidance_scale,
        )  # fmt: skip
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self.motions = Motions()
        self.segmenter: Segmenter = GrabCut()
        self.own_segmenter: OwnSegmenter | None = None

    def _read_extras(self, folder: Path) -> None:
        super()._read_extras(folder)
        if (folder / FILE_NAME).is_file():
            self.motions = Motions.from_file(folder / FILE_NAME)
        if (folder / SEGMENTER_FOLDER).is_dir():
            self.own_segmenter = OwnSegmenter.from_pretrained(folder / SEGMENTER_FOLDER)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **options: Any) -> None:
        super().save_pretrained(save_directory, *args, **options)
        if self.motions.motions:
            self.motions.save(Path(save_directory) / FILE_NAME)
        if self.own_segmenter is not None:
            self.own_segmenter.network.save_pretrained(Path(save_directory) / SEGMENTER_FOLDER)

    def _going_on(
        self, num_inference_steps: int | None, guidance_scale: float | None
    ) -> tuple[int | None, float | None]:
        """Steps and guidance of frames that go on from a given one."""
        return (
            inputs.or_default(num_inference_steps, self.config.default_film_steps),
            inputs.or_default(guidance_scale, self.config.default_film_guidance_scale),
        )

    def _check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        multiple_px = self.vae_scale_factor * self.transformer.config.patch_size
        own_px = self.transformer.config.sample_size * self.vae_scale_factor
        return (
            request.check_side(own_px if height is None else height, "height", multiple_px=multiple_px),
            request.check_side(own_px if width is None else width, "width", multiple_px=multiple_px),
        )

    def _shape(self, batch_size: int, num_frames: int, *, height: int, width: int) -> tuple[int, ...]:
        """Of the latents."""
        sides = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        return (batch_size, self.transformer.config.in_channels, num_frames, *sides)

    def _check_length(
        self, num_frames: object, duration_s: object, fps: float | None, *, height: int, width: int, batch_size: int
    ) -> tuple[int, float]:
        """num_frames and fps."""
        fps = check_fps(self.config.default_fps if fps is None else fps)
        latents = self.transformer.config.in_channels * height * width // self.vae_scale_factor**2
        bytes_a_frame = batch_size * (3 * height * width + 6 * 4 * latents)  # uint8, and copies of float32 latents
        asked = check_num_frames(num_frames, duration_s, fps, bytes_a_frame=bytes_a_frame)
        return self.config.default_num_frames if asked is None else asked, fps

    def _draw(
        self,
        latents: Tensor,
        text: Text,
        *,
        click: Click | None,
        steps: int,
        window: int,
        options: Mapping[str, Any],
        call_back: CallBack | None,
        clicks: Callable[[slice], Click] | None = None,
    ) -> Tensor:
        """Noise to latents (B, C, F, Y, X): all frames together, the model sees as many at once as a window has.

        clicks: what is asked of some of the frames, where that is not the same for all.
        """
        device, num_frames = self._execution_device, latents.shape[2]
        timesteps = set_schedule(self.scheduler, steps, device=device)
        numbers = count()

        def predict(scaled: Tensor, condition: Condition) -> tuple[Tensor, ...]:
            def condition_of(frames: slice) -> Condition:
                if clicks is None or condition.film is None:
                    return condition.frames(frames.stop - frames.start)
                now = clicks(frames)
                now = now if condition.batch_size == len(latents) else without_phrases_first(now)
                return replace(condition, film=condition.film.seen(self.transformer.click, now))

            windows = split(num_frames, window=window, step=next(numbers))
            return predict_windows(self.transformer, scaled, windows, condition_of=condition_of)

        rows, columns = latents.shape[-2:]
        own_px = (rows * self.vae_scale_factor, columns * self.vae_scale_factor)
        ahead = partial(
            look_ahead_film, self.transformer, size=(rows, columns), image_meta_size=(*own_px, *own_px, 0, 0),
            num_frames=min(num_frames, longest(window)), click=click if num_frames > 1 else None,
        )  # fmt: skip
        noise = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        return self._denoise(
            noise, timesteps, text, options=options, call_back=call_back, look_ahead=ahead, predict=predict
        )

    def _nothing_asked(self, first_frame: Tensor) -> Click | None:
        """A click that asks nothing, on a first frame (B, C, Y, X); zeros where none is given."""
        regions, batch_size = self.transformer.config.max_regions, len(first_frame)
        if not regions:
            return None
        rows = (batch_size, regions)
        return Click(
            first_frame=first_frame,
            masks=first_frame.new_zeros(*rows, *first_frame.shape[-2:]),
            phrases=first_frame.new_zeros(*rows, 1, self.transformer.config.cross_attention_dim),
            phrases_mask=torch.zeros(*rows, 1, dtype=torch.long, device=first_frame.device),
            strengths=torch.zeros(*rows, device=first_frame.device),
        )

    def _roll(
        self, noise: Tensor, asked: Asked, *, window: int, draw: Callable[..., Tensor], together: bool = False
    ) -> Rolled:
        """Films that begin with the pictures in which something is asked to move; noise is (B, C, F, Y, X).

        Window after window or, together, all windows at once.
        """
        click, sizes = asked.click, {"num_frames": noise.shape[2], "window": window}
        followed = follow(
            self.transformer.click, click, asked.pixels, asked.masks, **sizes, encode=self._encode_pixels
        )  # fmt: skip
        moved, levels = followed or (None, None)
        if together and moved is not None:

            def clicks(frames: slice) -> Click:
                return of_window(click, moved, frames, moved.frames[:, frames.start])

            first = clicks(slice(0, min(noise.shape[2], longest(window))))
            film = draw(noise, click=first, window=window, clicks=clicks)
        else:
            film = roll(
                click, moved, noise, window=window, is_interrupted=lambda: self._interrupt,
                draw=lambda part, now: draw(part, click=now, window=part.shape[2]),
            )  # fmt: skip
        return Rolled(
            latents=film, moved_latents=moved and moved.frames.transpose(1, 2).to(film), moved_levels=levels
        )  # fmt: skip

    def _ask(self, pixels: Tensor, masks: Sequence[np.ndarray], said: Sequence[Sequence[tuple[str, float]]]) -> Asked:
        """What is to move in pictures (B, 3, H, W): for each its masks (R, H, W), phrases and speeds."""
        device, dtype, most = self._execution_device, self.transformer.dtype, self.transformer.config.max_regions
        first_frame = self._encode_pixels(pixels)
        whole = torch.zeros(len(pixels), most, *pixels.shape[-2:], device=device)
        strengths = torch.zeros(len(pixels), most, device=device)
        phrases = [[self.motions.usual(phrase) for phrase, _ in each] + [""] * (most - len(each)) for each in said]
        for row, (own, each) in enumerate(zip(masks, said, strict=True)):
            whole[row, : len(own)] = torch.from_numpy(np.asarray(own)).to(whole)
            strengths[row, : len(each)] = torch.tensor([speed for _, speed in each], device=device)
        flat = [phrase for each in phrases for phrase in each]
        length = min(max(map(len, self.tokenizer(flat).input_ids)), self.transformer.config.text_len)
        ids, mask = (tensor.to(device) for tensor in tokenize(self.tokenizer, flat, length=length))
        states = self.text_encoder(ids, attention_mask=mask)[0]
        is_said = torch.tensor([bool(phrase) for phrase in flat], device=device)
        click = Click(
            first_frame=first_frame.to(dtype), strengths=strengths,
            masks=adaptive_avg_pool2d(whole, (first_frame.shape[-2], first_frame.shape[-1])).to(dtype),
            phrases=states.to(dtype).unflatten(0, (-1, most)),
            phrases_mask=(mask * is_said.unsqueeze(-1)).unflatten(0, (-1, most)),
        )  # fmt: skip
        return Asked(click=click, pixels=pixels, masks=whole)

    def _states_of(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """States of prompts, also of empty ones, under the names of a `Text`."""
        given: dict[str, Tensor] = {}
        for suffix, length in zip(SUFFIXES, self._text_lengths, strict=True):
            encoder, tokenizer = getattr(self, f"text_encoder{suffix}"), getattr(self, f"tokenizer{suffix}")
            states = encode(encoder, tokenizer, texts, length=length, device=self._execution_device)
            states = states.to(self._execution_device, self._text_dtype)
            given |= {f"prompt_embeds{suffix}": states.embeds, f"prompt_attention_mask{suffix}": states.mask}
        return given

    def _to_pixels(self, frames: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) to (N, 3, H, W), from -1 to 1."""
        numbers = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
        return numbers.to(self._execution_device, self.vae.dtype) / 127.5 - 1

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), from -1 to 1, to latents."""
        parts = [self.vae.encode(part).latent_dist.mode() for part in pixels.to(self.vae.dtype).split(ENCODED_AT_ONCE)]
        return torch.cat(parts) * self.vae.config.scaling_factor

    def _frames_of(self, rolled: Rolled) -> np.ndarray:
        """Levels (B, F, H, W, 3), with the details of what was moved."""
        frames = self.decode(rolled.latents)
        if rolled.moved_latents is None or rolled.moved_levels is None:
            return frames
        moved = rolled.moved_levels[:, : frames.shape[1]].permute(0, 1, 3, 4, 2).numpy()
        films = zip(frames, moved, self.decode(rolled.moved_latents[:, :, : frames.shape[1]]), strict=True)
        return np.stack([keep_details(*film) for film in films])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, F, Y, X), as output_type "latent" gives them, to levels: uint8 (B, F, H, W, 3)."""
        frames = []
        for part in latents.transpose(1, 2).flatten(0, 1).split(DECODED_AT_ONCE):
            pixels = decode_latents(self.vae, part)
            frames.append(to_levels(pixels).permute(0, 2, 3, 1).numpy())
        together = np.concatenate(frames)
        return together.reshape(len(latents), -1, *together.shape[1:])


def as_output(frames: np.ndarray, output_type: str) -> list[list[Image.Image]] | np.ndarray | Tensor:
    """Levels (B, F, H, W, 3) in the form asked for."""
    if output_type == "uint8":
        return frames
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in film] for film in frames]
    numbers = frames.astype(np.float32) / 255
    return numbers if output_type == "np" else torch.from_numpy(numbers).permute(0, 1, 4, 2, 3)
