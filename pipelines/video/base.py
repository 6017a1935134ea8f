"""Base of the video pipelines: components, length and size of a video, motion requests, and frames from latents.

B batch, F frames, R regions; latents are B C F Y X.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import BaseOutput, logging
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from transformers import BertModel, PreTrainedTokenizerBase, T5EncoderModel

from dianjing.dit import DiT, MotionControl
from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.prompt_embeds import TruncatedText, tokenize
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.sampling import SamplingCall, SamplingPipelineBase
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.pipelines.segmentation.own_images import DefaultSegmenterMixin
from dianjing.pipelines.segmentation.unet import UNetSegmenter
from dianjing.pipelines.vae import decode_result, encode_images, pixels_to_uint8
from dianjing.pipelines.video.denoiser import VideoDenoiser
from dianjing.pipelines.video.detail import restore_detail
from dianjing.pipelines.video.motion_request import MotionRequest, WarpedVideo, get_window_control
from dianjing.pipelines.video.windows import get_max_window_size, make_autoregressive_windows
from dianjing.weights.image_sizes import get_scale_factor

logger = logging.get_logger(__name__)

DECODE_BATCH_SIZE = 16  # frames
VIDEO_OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")


@dataclass
class VideoOutput(BaseOutput):
    """Videos in the form of `output_type`.

    "pil": a list of frames for each video. "np" and "pt": on [0, 1], (B, F, H, W, 3) and (B, F, 3, H, W). "uint8":
    (B, F, H, W, 3). "latent": (B, C, F, Y, X). truncated: ends of prompts that an encoder did not read.
    """

    frames: list[list[Image.Image]] | np.ndarray | Tensor
    truncated: list[TruncatedText]


@dataclass(frozen=True, kw_only=True)
class SampledVideo:
    """Sampled latents (B, C, F, Y, X), with the first frame warped to the same length if the model has a flow field."""

    latents: Tensor
    warped: WarpedVideo | None = None


class VideoPipelineBase(DefaultSegmenterMixin, SamplingPipelineBase):
    """Base of pipelines over a `DiT` with motion blocks.

    default_*: settings of a call without; continuation is the sampling of frames after a first frame, which may take
    fewer steps and less guidance than an image from noise. `unet_segmenter` came with the model, if any, for the images
    that it generates.
    Raises: DianjingError for a transformer without motion blocks.
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
            raise DianjingError("transformer_without_motion_blocks")
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.trained_scheduler = scheduler
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps,
            default_guidance_scale=default_guidance_scale,
            default_num_frames=default_num_frames,
            default_fps=default_fps,
            default_continuation_steps=default_continuation_steps,
            default_continuation_guidance_scale=default_continuation_guidance_scale,
        )
        self.vae_scale_factor = get_scale_factor(vae.config)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    def _load_extra_files(self, folder: Path) -> None:
        super()._load_extra_files(folder)
        if (folder / SEGMENTER_FOLDER).is_dir():
            self.unet_segmenter = UNetSegmenter.from_pretrained(folder / SEGMENTER_FOLDER)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> np.ndarray:
        """Decode latents (B, C, F, Y, X), as output_type "latent" returns them, to frames uint8 (B, F, H, W, 3)."""
        frames = []
        for batch in latents.transpose(1, 2).flatten(0, 1).split(DECODE_BATCH_SIZE):
            frames.append(pixels_to_uint8(decode_result(self.vae, batch)).permute(0, 2, 3, 1).numpy())
        all_frames = np.concatenate(frames)
        return all_frames.reshape(len(latents), -1, *all_frames.shape[1:])

    def _check_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        height = validation.coalesce(height, self.default_size_px)
        width = validation.coalesce(width, self.default_size_px)
        return (
            validation.check_side_px(height, "height", multiple_px=self.size_multiple_px),
            validation.check_side_px(width, "width", multiple_px=self.size_multiple_px),
        )

    @property
    def _prompt_motions(self) -> MotionVocabulary:
        return self.motion_vocabulary

    def _check_num_frames(
        self, num_frames: object, duration_s: object, fps: float | None, *, height: int, width: int, batch_size: int
    ) -> int:
        """Resolve the number of frames from a number or a duration; the default is the model's."""
        fps = validation.check_fps(self.config.default_fps if fps is None else fps)
        num_latents = self.transformer.config.in_channels * height * width // self.vae_scale_factor**2
        bytes_per_frame = batch_size * (3 * height * width + 6 * 4 * num_latents)  # uint8, copies of float32 latents
        resolved = validation.check_num_frames(num_frames, duration_s, fps, bytes_per_frame=bytes_per_frame)
        return self.config.default_num_frames if resolved is None else resolved

    def _get_latent_shape(self, batch_size: int, num_frames: int, *, height: int, width: int) -> tuple[int, ...]:
        """Shape of the latents of videos of height x width px."""
        scale = self.vae_scale_factor
        return batch_size, self.transformer.config.in_channels, num_frames, height // scale, width // scale

    def _sample_frames(
        self,
        noise: Tensor,
        embeds: PromptEmbeds,
        call: SamplingCall,
        *,
        motion_control: MotionControl | None,
        window_size: int,
        get_control: Callable[[slice], MotionControl] | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Sample latents from noise (B, C, F, Y, X) in one run, in which the model sees a window at a time.

        get_control: motion control of a window, if it is not the same for all. num_inference_steps: the call's by
        default.
        """
        rows, columns = noise.shape[-2:]
        size_px = (rows * self.vae_scale_factor, columns * self.vae_scale_factor)
        denoiser = VideoDenoiser(
            transformer=self.transformer,
            latent_size=(rows, columns),
            image_meta_size=(*size_px, *size_px, 0, 0),
            num_frames=noise.shape[2],
            window_size=window_size,
            motion_control=motion_control,
            get_control=get_control,
        )
        transformer = self.transformer
        has_windows = noise.shape[2] > get_max_window_size(window_size)  # which move from step to step
        if has_windows and transformer.is_cache_enabled:
            logger.warning("the cache over the steps is off for frames that are denoised together in several windows")
        with transformer.without_cache() if has_windows else nullcontext():
            return self._sample(noise, embeds, denoiser, call, num_inference_steps=num_inference_steps)

    def _sample_windows(
        self,
        noise: Tensor,
        embeds: PromptEmbeds,
        call: SamplingCall,
        request: MotionRequest,
        *,
        window_size: int,
        num_inference_steps: int | None = None,
        joint: bool = False,
    ) -> SampledVideo:
        """Sample videos that begin with the images of a request, from noise (B, C, F, Y, X).

        Autoregressive, one run for each window, or joint: all windows in one run, which takes a flow field.
        """
        num_frames, control = noise.shape[2], request.motion_control
        warped = request.precompute_warp(
            self.transformer.motion_conditioner,
            num_frames=num_frames,
            window_size=window_size,
            encode=partial(encode_images, self.vae),
        )
        warp = None if warped is None else warped.warp
        sample = partial(self._sample_frames, embeds=embeds, call=call, num_inference_steps=num_inference_steps)
        if joint and warp is not None:

            def get_control(window: slice) -> MotionControl:
                return get_window_control(control, warp, window, warp.frames[:, window.start])

            longest = slice(0, min(num_frames, get_max_window_size(window_size)))
            latents = sample(
                noise, motion_control=get_control(longest), window_size=window_size, get_control=get_control
            )
        else:
            latents = control.first_frame.unsqueeze(2).to(noise)
            for window in make_autoregressive_windows(num_frames, window_size=window_size):
                if self._interrupt:
                    break
                window_control = get_window_control(control, warp, window, latents[:, :, -1])
                size = window.stop - window.start
                sampled = sample(noise[:, :, window], motion_control=window_control, window_size=size)
                latents = torch.cat([latents, sampled[:, :, 1:]], dim=2)
        return SampledVideo(latents=latents, warped=warped)

    def _make_null_control(self, first_frame: Tensor) -> MotionControl | None:
        """Motion control without active regions on latents (B, C, Y, X); None for a model without motion control."""
        max_regions = self.transformer.config.max_regions
        if not max_regions:
            return None
        rows = (len(first_frame), max_regions)
        return MotionControl(
            first_frame=first_frame,
            masks=first_frame.new_zeros(*rows, *first_frame.shape[-2:]),
            phrase_embeds=first_frame.new_zeros(*rows, 1, self.transformer.config.cross_attention_dim),
            phrase_mask=torch.zeros(*rows, 1, dtype=torch.long, device=first_frame.device),
            strengths=torch.zeros(*rows, device=first_frame.device),
        )

    def _encode_motion_request(
        self, pixels: Tensor, masks: Sequence[np.ndarray], phrases_and_speeds: Sequence[Sequence[tuple[str, float]]]
    ) -> MotionRequest:
        """Encode images (B, 3, H, W) on [-1, 1] and, for each, its masks (R, H, W), phrases and speeds."""
        device, dtype = self._execution_device, self.transformer.dtype
        max_regions = self.transformer.config.max_regions
        first_frame = encode_images(self.vae, pixels)
        full_masks = torch.zeros(len(pixels), max_regions, *pixels.shape[-2:], device=device)
        strengths = torch.zeros(len(pixels), max_regions, device=device)
        phrases: list[str] = []
        for row, (image_masks, motions) in enumerate(zip(masks, phrases_and_speeds, strict=True)):
            full_masks[row, : len(image_masks)] = torch.from_numpy(np.asarray(image_masks)).to(full_masks)
            strengths[row, : len(motions)] = torch.tensor([speed for _, speed in motions], device=device)
            phrases += [self.motion_vocabulary.canonicalize(phrase) for phrase, _ in motions]
            phrases += [""] * (max_regions - len(motions))
        length = min(max(map(len, self.tokenizer(phrases).input_ids)), self.transformer.config.text_len)
        ids, mask = (tensor.to(device) for tensor in tokenize(self.tokenizer, phrases, max_length=length))
        states = self.text_encoder(ids, attention_mask=mask)[0]
        is_active = torch.tensor([bool(phrase) for phrase in phrases], device=device)
        motion_control = MotionControl(
            first_frame=first_frame.to(dtype),
            strengths=strengths,
            masks=adaptive_avg_pool2d(full_masks, (first_frame.shape[-2], first_frame.shape[-1])).to(dtype),
            phrase_embeds=states.to(dtype).unflatten(0, (-1, max_regions)),
            phrase_mask=(mask * is_active.unsqueeze(-1)).unflatten(0, (-1, max_regions)),
        )
        return MotionRequest(motion_control=motion_control, pixels=pixels, masks=full_masks)

    def _decode_video(self, video: SampledVideo) -> np.ndarray:
        """Decode to frames uint8 (B, F, H, W, 3), with the detail of the warped first frames."""
        frames = self.decode(video.latents)
        if video.warped is None:
            return frames
        num_frames = frames.shape[1]
        warped_frames = video.warped.frames[:, :num_frames].permute(0, 1, 3, 4, 2).numpy()
        warped_latents = video.warped.warp.frames[:, :num_frames].transpose(1, 2).to(video.latents)
        videos = zip(frames, warped_frames, self.decode(warped_latents), strict=True)
        return np.stack([restore_detail(*each, scale_factor=self.vae_scale_factor) for each in videos])


def postprocess_frames(frames: np.ndarray, output_type: str) -> list[list[Image.Image]] | np.ndarray | Tensor:
    """Convert frames uint8 (B, F, H, W, 3) to an output type other than "latent"."""
    if output_type == "uint8":
        return frames
    if output_type == "pil":
        return [[Image.fromarray(frame) for frame in video] for video in frames]
    numbers = frames.astype(np.float32) / 255
    return numbers if output_type == "np" else torch.from_numpy(numbers).permute(0, 1, 4, 2, 3)
