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

from dianjing.dit import Conditioning, DiT, MotionControl
from dianjing.pipelines import validation
from dianjing.pipelines.prompt_embeds import ENCODER_SUFFIXES, PromptEmbeds, encode_texts, tokenize
from dianjing.pipelines.prompting.motions import MOTIONS_FILE, MotionVocabulary
from dianjing.pipelines.sampling import (
    SamplingPipelineBase,
    StepCallback,
    decode_latents,
    pixels_to_uint8,
    set_timesteps,
)
from dianjing.pipelines.segmentation.base import Segmenter
from dianjing.pipelines.segmentation.grabcut import GrabCutSegmenter
from dianjing.pipelines.segmentation.unet import SEGMENTER_FOLDER, UNetSegmenter
from dianjing.pipelines.validation import check_fps, check_num_frames
from dianjing.pipelines.video.detail import restore_detail
from dianjing.pipelines.video.motion_request import (
    MotionRequest,
    get_window_control,
    make_cfg_batch,
    precompute_video_conditioning,
    precompute_warp,
)
from dianjing.pipelines.video.windows import (
    WindowedVideo,
    generate_windows,
    get_max_window_size,
    make_windows,
    predict_windows,
)

DECODE_BATCH_SIZE, ENCODE_BATCH_SIZE = 16, 8  # frames
VIDEO_OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")


@dataclass
class VideoOutput(BaseOutput):
    """Films in the form that `output_type` asked for.

    "pil": a list of frames for each film; "np" and "pt": numbers on [0, 1], (B, F, H, W, 3) and (B, F, 3, H, W);
    "uint8": levels (B, F, H, W, 3); "latent": (B, C, F, Y, X).
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor


class VideoPipelineBase(SamplingPipelineBase):
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
        default_continuation_steps: int | None = None,
        default_continuation_guidance_scale: float | None = None,
    ):
        super().__init__()
        if not getattr(transformer.config, "use_motion_blocks", False):
            raise ValueError(
                "this transformer draws pictures only; film needs one trained with use_motion_blocks "
                "(train/recipes/sticker_film.toml goes on from a picture model)"
            )
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
            default_num_frames=default_num_frames,
            default_fps=default_fps,
            default_continuation_steps=default_continuation_steps,
            default_continuation_guidance_scale=default_continuation_guidance_scale,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self.motion_vocabulary = MotionVocabulary()
        self.segmenter: Segmenter = GrabCutSegmenter()
        self.unet_segmenter: UNetSegmenter | None = None

    def _load_extra_files(self, folder: Path) -> None:
        super()._load_extra_files(folder)
        if (folder / MOTIONS_FILE).is_file():
            self.motion_vocabulary = MotionVocabulary.from_file(folder / MOTIONS_FILE)
        if (folder / SEGMENTER_FOLDER).is_dir():
            self.unet_segmenter = UNetSegmenter.from_pretrained(folder / SEGMENTER_FOLDER)

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **options: Any) -> None:
        super().save_pretrained(save_directory, *args, **options)
        if self.motion_vocabulary.motions:
            self.motion_vocabulary.save(Path(save_directory) / MOTIONS_FILE)
        if self.unet_segmenter is not None:
            self.unet_segmenter.unet.save_pretrained(Path(save_directory) / SEGMENTER_FOLDER)

    def _get_continuation_params(
        self, num_inference_steps: int | None, guidance_scale: float | None
    ) -> tuple[int | None, float | None]:
        """Steps and guidance of frames that go on from a given one."""
        return (
            validation.value_or_default(num_inference_steps, self.config.default_continuation_steps),
            validation.value_or_default(guidance_scale, self.config.default_continuation_guidance_scale),
        )

    def _check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        multiple_px = self.vae_scale_factor * self.transformer.config.patch_size
        own_px = self.transformer.config.sample_size * self.vae_scale_factor
        return (
            validation.check_side_px(own_px if height is None else height, "height", multiple_px=multiple_px),
            validation.check_side_px(own_px if width is None else width, "width", multiple_px=multiple_px),
        )

    def _get_latent_shape(self, batch_size: int, num_frames: int, *, height: int, width: int) -> tuple[int, ...]:
        """Of the latents."""
        sides = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        return (batch_size, self.transformer.config.in_channels, num_frames, *sides)

    def _check_num_frames(
        self, num_frames: object, duration_s: object, fps: float | None, *, height: int, width: int, batch_size: int
    ) -> tuple[int, float]:
        """num_frames and fps."""
        fps = check_fps(self.config.default_fps if fps is None else fps)
        latents = self.transformer.config.in_channels * height * width // self.vae_scale_factor**2
        bytes_a_frame = batch_size * (3 * height * width + 6 * 4 * latents)  # uint8, and copies of float32 latents
        asked = check_num_frames(num_frames, duration_s, fps, bytes_per_frame=bytes_a_frame)
        return self.config.default_num_frames if asked is None else asked, fps

    def _sample(
        self,
        latents: Tensor,
        embeds: PromptEmbeds,
        *,
        motion_control: MotionControl | None,
        steps: int,
        window_size: int,
        extra_step_kwargs: Mapping[str, Any],
        step_callback: StepCallback | None,
        get_control: Callable[[slice], MotionControl] | None = None,
    ) -> Tensor:
        """Noise to latents (B, C, F, Y, X): all frames together, the model sees as many at once as a window has.

        clicks: what is asked of some of the frames, where that is not the same for all.
        """
        device, num_frames = self._execution_device, latents.shape[2]
        timesteps = set_timesteps(self.scheduler, steps, device=device)
        numbers = count()

        def predict(scaled: Tensor, condition: Conditioning) -> tuple[Tensor, ...]:
            def condition_of(frames: slice) -> Conditioning:
                if get_control is None or condition.video is None:
                    return condition.truncate(frames.stop - frames.start)
                now = get_control(frames)
                now = now if condition.batch_size == len(latents) else make_cfg_batch(now)
                return replace(condition, video=condition.video.with_control(self.transformer.motion_conditioner, now))

            windows = make_windows(num_frames, window_size=window_size, step=next(numbers))
            return predict_windows(self.transformer, scaled, windows, get_conditioning=condition_of)

        rows, columns = latents.shape[-2:]
        own_px = (rows * self.vae_scale_factor, columns * self.vae_scale_factor)
        ahead = partial(
            precompute_video_conditioning,
            self.transformer,
            latent_size=(rows, columns),
            image_meta_size=(*own_px, *own_px, 0, 0),
            num_frames=min(num_frames, get_max_window_size(window_size)),
            motion_control=motion_control if num_frames > 1 else None,
        )
        noise = latents.to(device, torch.float32) * self.scheduler.init_noise_sigma
        return self._denoise(
            noise,
            timesteps,
            embeds,
            extra_step_kwargs=extra_step_kwargs,
            step_callback=step_callback,
            precompute=ahead,
            predict=predict,
        )

    def _make_null_control(self, first_frame: Tensor) -> MotionControl | None:
        """A click that asks nothing, on a first frame (B, C, Y, X); zeros where none is given."""
        regions, batch_size = self.transformer.config.max_regions, len(first_frame)
        if not regions:
            return None
        rows = (batch_size, regions)
        return MotionControl(
            first_frame=first_frame,
            masks=first_frame.new_zeros(*rows, *first_frame.shape[-2:]),
            phrase_embeds=first_frame.new_zeros(*rows, 1, self.transformer.config.cross_attention_dim),
            phrase_mask=torch.zeros(*rows, 1, dtype=torch.long, device=first_frame.device),
            strengths=torch.zeros(*rows, device=first_frame.device),
        )

    def _generate_windows(
        self,
        noise: Tensor,
        motion_request: MotionRequest,
        *,
        window_size: int,
        sample: Callable[..., Tensor],
        joint: bool = False,
    ) -> WindowedVideo:
        """Films that begin with the pictures in which something is asked to move; noise is (B, C, F, Y, X).

        Window after window or, together, all windows at once.
        """
        click, sizes = motion_request.motion_control, {"num_frames": noise.shape[2], "window_size": window_size}
        followed = precompute_warp(
            self.transformer.motion_conditioner,
            click,
            motion_request.pixels,
            motion_request.masks,
            **sizes,
            encode=self._encode_pixels,
        )
        moved, levels = followed or (None, None)
        if joint and moved is not None:

            def clicks(frames: slice) -> MotionControl:
                return get_window_control(click, moved, frames, moved.frames[:, frames.start])

            first = clicks(slice(0, min(noise.shape[2], get_max_window_size(window_size))))
            film = sample(noise, motion_control=first, window_size=window_size, get_control=clicks)
        else:
            film = generate_windows(
                click,
                moved,
                noise,
                window_size=window_size,
                is_interrupted=lambda: self._interrupt,
                sample_window=lambda part, now: sample(part, motion_control=now, window_size=part.shape[2]),
            )
        return WindowedVideo(
            latents=film, warped_latents=moved and moved.frames.transpose(1, 2).to(film), warped_frames=levels
        )

    def _encode_motion_request(
        self, pixels: Tensor, masks: Sequence[np.ndarray], phrases_and_speeds: Sequence[Sequence[tuple[str, float]]]
    ) -> MotionRequest:
        """What is to move in pictures (B, 3, H, W): for each its masks (R, H, W), phrases and speeds."""
        device, dtype, most = self._execution_device, self.transformer.dtype, self.transformer.config.max_regions
        first_frame = self._encode_pixels(pixels)
        whole = torch.zeros(len(pixels), most, *pixels.shape[-2:], device=device)
        strengths = torch.zeros(len(pixels), most, device=device)
        phrases = [
            [self.motion_vocabulary.canonicalize(phrase) for phrase, _ in each] + [""] * (most - len(each))
            for each in phrases_and_speeds
        ]
        for row, (own, each) in enumerate(zip(masks, phrases_and_speeds, strict=True)):
            whole[row, : len(own)] = torch.from_numpy(np.asarray(own)).to(whole)
            strengths[row, : len(each)] = torch.tensor([speed for _, speed in each], device=device)
        flat = [phrase for each in phrases for phrase in each]
        length = min(max(map(len, self.tokenizer(flat).input_ids)), self.transformer.config.text_len)
        ids, mask = (tensor.to(device) for tensor in tokenize(self.tokenizer, flat, max_length=length))
        states = self.text_encoder(ids, attention_mask=mask)[0]
        is_said = torch.tensor([bool(phrase) for phrase in flat], device=device)
        click = MotionControl(
            first_frame=first_frame.to(dtype),
            strengths=strengths,
            masks=adaptive_avg_pool2d(whole, (first_frame.shape[-2], first_frame.shape[-1])).to(dtype),
            phrase_embeds=states.to(dtype).unflatten(0, (-1, most)),
            phrase_mask=(mask * is_said.unsqueeze(-1)).unflatten(0, (-1, most)),
        )
        return MotionRequest(motion_control=click, pixels=pixels, masks=whole)

    def _encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """States of prompts, also of empty ones, under the names of a `Text`."""
        given: dict[str, Tensor] = {}
        for suffix, length in zip(ENCODER_SUFFIXES, self._max_sequence_lengths, strict=True):
            encoder, tokenizer = getattr(self, f"text_encoder{suffix}"), getattr(self, f"tokenizer{suffix}")
            states = encode_texts(encoder, tokenizer, texts, max_length=length, device=self._execution_device)
            states = states.to(self._execution_device, self._text_dtype)
            given |= {f"prompt_embeds{suffix}": states.embeds, f"prompt_attention_mask{suffix}": states.attention_mask}
        return given

    def _to_pixels(self, frames: np.ndarray) -> Tensor:
        """uint8 (N, H, W, 3) to (N, 3, H, W), from -1 to 1."""
        numbers = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)
        return numbers.to(self._execution_device, self.vae.dtype) / 127.5 - 1

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W), from -1 to 1, to latents."""
        parts = [
            self.vae.encode(part).latent_dist.mode() for part in pixels.to(self.vae.dtype).split(ENCODE_BATCH_SIZE)
        ]
        return torch.cat(parts) * self.vae.config.scaling_factor

    def _decode_with_detail(self, video: WindowedVideo) -> np.ndarray:
        """Levels (B, F, H, W, 3), with the details of what was moved."""
        frames = self.decode(video.latents)
        if video.warped_latents is None or video.warped_frames is None:
            return frames
        moved = video.warped_frames[:, : frames.shape[1]].permute(0, 1, 3, 4, 2).numpy()
        films = zip(frames, moved, self.decode(video.warped_latents[:, :, : frames.shape[1]]), strict=True)
        return np.stack([restore_detail(*film) for film in films])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Latents (B, C, F, Y, X), as output_type "latent" gives them, to levels: uint8 (B, F, H, W, 3)."""
        frames = []
        for part in latents.transpose(1, 2).flatten(0, 1).split(DECODE_BATCH_SIZE):
            pixels = decode_latents(self.vae, part)
            frames.append(pixels_to_uint8(pixels).permute(0, 2, 3, 1).numpy())
        together = np.concatenate(frames)
        return together.reshape(len(latents), -1, *together.shape[1:])


def postprocess_frames(frames: np.ndarray, output_type: str) -> list[list[Image.Image]] | np.ndarray | Tensor:
    """Levels (B, F, H, W, 3) in the form asked for."""
    if output_type == "uint8":
        return frames
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in film] for film in frames]
    numbers = frames.astype(np.float32) / 255
    return numbers if output_type == "np" else torch.from_numpy(numbers).permute(0, 1, 4, 2, 3)
