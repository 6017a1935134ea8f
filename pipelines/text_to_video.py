"""Text to video of any length.

B batch of videos, F frames; latents are B C F Y X.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers.guiders import BaseGuidance
from diffusers.utils import logging
from torch import Tensor

from dianjing.errors import DianjingError, Message, get_language
from dianjing.pipelines import validation
from dianjing.pipelines.embeds import PromptEmbeds
from dianjing.pipelines.guiders import with_guidance_scale
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt, MotionPromptParser
from dianjing.pipelines.prompting.placement import DEFAULT_MOTION_STRENGTH
from dianjing.pipelines.sampling import CallbackOnStepEnd, Generators, SamplingCall, SamplingParams
from dianjing.pipelines.vae import decode_result
from dianjing.pipelines.video.base import (
    VIDEO_OUTPUT_TYPES,
    SampledVideo,
    VideoOutput,
    VideoPipelineBase,
    postprocess_frames,
)
from dianjing.pipelines.video.motion_request import MotionRequest
from dianjing.pipelines.video.subjects import find_subjects
from dianjing.pipelines.video.warped_image import WarpedImage
from dianjing.pipelines.video.windows import LONG_VIDEO_MODES, LongVideo, resolve_long_video

logger = logging.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ContinuationParams(SamplingParams):
    """Settings of a call whose frames continue a first frame: those of the first frame, and of the frames after it."""

    continuation_steps: int
    continuation_guidance_scale: float


class TextToVideoPipeline(VideoPipelineBase):
    """Generate videos from prompts in Chinese or English, by a `DiT` with motion blocks and its two text encoders.

    A model that takes first frames generates an image and animates it, as Emu Video does (arXiv 2311.10709): motions
    that it was trained on by name are parsed from the prompt, and what performs them is localized in the image. A video
    longer than the model was trained on takes windows: "autoregressive" samples one after the other, each from the last
    frame before it; "joint" denoises all frames together, in windows that move from step to step, and without a first
    frame if the model has no flow field. "autoregressive" is the default of a model that takes first frames.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        duration_s: float | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_videos_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        prompt_embeds_2: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_2: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        prompt_attention_mask_2: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask_2: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        long_video: LongVideo | None = None,
        continuation_steps: int | None = None,
        continuation_guidance_scale: float | None = None,
        guider: BaseGuidance | str | None = None,
    ) -> VideoOutput | tuple:
        """Generate `num_videos_per_prompt` videos of num_frames frames, or duration_s seconds at fps, for each prompt.

        continuation_steps, continuation_guidance_scale: of the frames after a first frame; num_inference_steps and
        guidance_scale by default if these are given, else the model's own. guider: of all frames, after the first one
        with continuation_guidance_scale. The other arguments are those of `TextToImagePipeline`; latents are
        (B, C, F, Y, X).

        Raises: DianjingError for arguments that cannot work, before anything is computed.
        """
        # 1. Check
        height, width = self._check_size(height, width)
        params = self._check_params(
            num_inference_steps, guidance_scale, guidance_rescale=guidance_rescale, eta=eta, guider=guider
        )
        encoded = PromptEmbeds(
            prompt_embeds=prompt_embeds,
            prompt_attention_mask=prompt_attention_mask,
            prompt_embeds_2=prompt_embeds_2,
            prompt_attention_mask_2=prompt_attention_mask_2,
            negative_prompt_embeds=negative_prompt_embeds,
            negative_prompt_attention_mask=negative_prompt_attention_mask,
            negative_prompt_embeds_2=negative_prompt_embeds_2,
            negative_prompt_attention_mask_2=negative_prompt_attention_mask_2,
        )
        num_prompts = self._check_prompt_inputs(prompt, negative_prompt, encoded)
        batch_size = num_prompts * validation.check_num_per_prompt(num_videos_per_prompt, "num_videos_per_prompt")
        sides = {"height": height, "width": width}
        num_frames = self._check_num_frames(num_frames, duration_s, fps, **sides, batch_size=batch_size)
        long_video = self._check_long_video(long_video)
        if self._starts_from_first_frame(long_video):
            params = self._check_continuation(
                params,
                steps=validation.coalesce(continuation_steps, num_inference_steps),
                guidance_scale=validation.coalesce(continuation_guidance_scale, guidance_scale),
                guider=guider,
            )
        elif continuation_steps is not None or continuation_guidance_scale is not None:
            raise DianjingError("continuation_without_first_frame")
        call = self._make_call(
            params,
            prompt=prompt,
            negative_prompt=negative_prompt,
            encoded=encoded,
            num_per_prompt=num_videos_per_prompt,
            latent_shape=self._get_latent_shape(batch_size, num_frames, **sides),
            latents=latents,
            generator=generator,
            callback=callback_on_step_end,
            callback_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES)

        def decode(video: SampledVideo) -> Any:
            if output_type == "latent":
                return video.latents
            return postprocess_frames(self._decode_video(video), output_type)

        is_joint = long_video == "joint"
        frames = self._run(call, lambda embeds, noise: self._sample_video(embeds, noise, call, joint=is_joint), decode)
        return VideoOutput(frames=frames, truncated=self.truncated) if return_dict else (frames,)

    def generate_transparent(self, prompt: str, **arguments: Any) -> WarpedImage:
        """Generate a video of what a prompt names, transparent around it: frames uint8 (F, H, W, 4), made one by one.

        The first frame is sampled and cut out; the model's motion field moves it with its alpha, which does not
        flicker. arguments: those of a call for the length and for the sampling of an image.
        Raises: DianjingError for a prompt without an object or a motion, and for a model without a flow field.
        """
        from dianjing.pipelines.transparency.transparent_video import generate_transparent_video

        return generate_transparent_video(self, prompt, **arguments)

    def _check_long_video(self, long_video: LongVideo | None) -> LongVideo:
        takes_first_frame = bool(self.transformer.config.max_regions)
        resolved = resolve_long_video(long_video, takes_first_frame=takes_first_frame)
        if resolved not in LONG_VIDEO_MODES:
            raise DianjingError("long_video_unknown", value=resolved, allowed=LONG_VIDEO_MODES)
        if resolved == "autoregressive" and not takes_first_frame:
            raise DianjingError("autoregressive_without_first_frame")
        return resolved

    def _starts_from_first_frame(self, long_video: LongVideo) -> bool:
        conditioner = self.transformer.motion_conditioner
        return long_video == "autoregressive" or (conditioner is not None and conditioner.flow_field is not None)

    def _check_continuation(
        self, params: SamplingParams, *, steps: int | None, guidance_scale: float | None, guider: Any
    ) -> ContinuationParams:
        """Add the settings of the frames after a first frame, with those of a guider or the model's for None."""
        steps = validation.coalesce(steps, self.config.default_continuation_steps, params.num_inference_steps)
        scale = validation.coalesce(
            guidance_scale,
            getattr(guider, "guidance_scale", None),
            self.config.default_continuation_guidance_scale,
            params.guidance_scale,
        )
        continued = ContinuationParams(
            **vars(params),
            continuation_steps=validation.check_num_inference_steps(steps, "continuation_steps"),
            continuation_guidance_scale=validation.check_guidance_scale(scale, "continuation_guidance_scale"),
        )
        self.sampling_params = continued
        return continued

    def _sample_video(self, embeds: PromptEmbeds, noise: Tensor, call: SamplingCall, *, joint: bool) -> SampledVideo:
        """Sample all frames from noise (B, C, F, Y, X): in one run, or an image first and then the frames after it."""
        if isinstance(call.params, ContinuationParams):
            return self._sample_from_first_frame(noise, embeds, call, call.params, joint=joint)
        control = self._make_null_control(torch.zeros_like(noise[:, :, 0], dtype=self.transformer.dtype))
        latents = self._sample_frames(
            noise, embeds, call, motion_control=control, window_size=self.config.default_num_frames
        )
        return SampledVideo(latents=latents)

    def _sample_from_first_frame(
        self, noise: Tensor, embeds: PromptEmbeds, call: SamplingCall, params: ContinuationParams, *, joint: bool
    ) -> SampledVideo:
        """Sample an image, plan the motion in it that the prompts ask for, and sample the frames after it."""
        motion_prompts = self._parse_motion_prompts(call)
        has_motion = any(subject.motion for parsed in motion_prompts for subject in parsed.subjects)
        if has_motion:
            placed = self.encode_texts([parsed.placed_prompt for parsed in motion_prompts])
            embeds = embeds.updated_by(placed)
        first_frame = self._sample_frames(noise[:, :, :1], embeds, call, motion_control=None, window_size=1)[:, :, 0]
        num_frames = noise.shape[2]
        if num_frames == 1 or self._interrupt:
            return SampledVideo(latents=first_frame.unsqueeze(2))
        if has_motion:
            request = self._plan_motion(first_frame, motion_prompts, num_frames=num_frames)
        else:
            self._warn_without_motion(call)
            control = self._make_null_control(first_frame.to(self.transformer.dtype))
            assert control is not None, "a video starts from a first frame only if the model takes one"
            request = MotionRequest.from_null_control(control, self._decode_pixels(first_frame))
        self._guidance_scale = params.continuation_guidance_scale
        self._guider = with_guidance_scale(params.guider, self._guidance_scale)
        video = self._sample_windows(
            noise,
            embeds,
            call,
            request,
            window_size=self.config.default_num_frames,
            num_inference_steps=params.continuation_steps,
            joint=joint,
        )
        self._guidance_scale, self._guider = params.guidance_scale, params.guider
        return video

    def _parse_motion_prompts(self, call: SamplingCall) -> list[MotionPrompt]:
        """Parse the prompt of each video; empty for a model without named motions, and for encoded prompts."""
        if not self.motion_vocabulary.motions or call.prompt is None:
            return []
        parser = MotionPromptParser(self.motion_vocabulary, self.concept_vocabulary)
        prompts = validation.check_prompts(call.prompt)
        return [parser.parse(prompt) for prompt in prompts for _ in range(call.num_per_prompt)]

    def _warn_without_motion(self, call: SamplingCall) -> None:
        if self.motion_vocabulary.motions and call.prompt is not None:
            message = Message("prompt_without_trained_motion", known=self.motion_vocabulary.list_phrases())
            logger.warning(message.render(get_language()))

    def _plan_motion(
        self, first_frame: Tensor, motion_prompts: Sequence[MotionPrompt], *, num_frames: int
    ) -> MotionRequest:
        """Request motion of the subjects in images of latents (B, C, Y, X), which they then do not leave."""
        pixels = self._decode_pixels(first_frame)
        masks: list[np.ndarray] = []
        phrases_and_speeds = []
        images = self.decode(first_frame.unsqueeze(2))[:, 0]
        for latents, image, motion_prompt in zip(first_frame, images, motion_prompts, strict=True):
            subjects = self._locate_subjects(latents, image, motion_prompt)
            masks.append(np.array([mask for mask, _ in subjects]).reshape(-1, *image.shape[:2]))
            phrases_and_speeds.append(
                [(phrase, self.motion_vocabulary.get_speed(phrase, DEFAULT_MOTION_STRENGTH)) for _, phrase in subjects]
            )
        request = self._encode_motion_request(pixels, masks, phrases_and_speeds).limit_strength(
            self.transformer.motion_conditioner, num_frames=num_frames, window_size=self.config.default_num_frames
        )
        # the sampled latents, not those of the decoded pixels
        control = replace(request.motion_control, first_frame=first_frame.to(self.transformer.dtype))
        return replace(request, motion_control=control)

    def _locate_subjects(
        self, latents: Tensor, image: np.ndarray, motion_prompt: MotionPrompt
    ) -> list[tuple[np.ndarray, str]]:
        """Find masks and motions of the moving subjects in an image, uint8 (H, W, 3), of latents (C, Y, X)."""
        segmenter = self.unet_segmenter or self.segmenter
        found = find_subjects(self, latents, image, motion_prompt, segmenter)
        return [(mask, click.motion) for click, mask in found]

    def _decode_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents (B, C, Y, X) to pixels (B, 3, H, W), clamped to [-1, 1]."""
        return decode_result(self.vae, latents).clamp(-1, 1)
