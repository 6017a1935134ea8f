"""Words become a film, of any length.

B batch of films, F frames; latents are B C F Y X.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

from dianjing.pipelines import validation
from dianjing.pipelines.prompt_embeds import PromptEmbeds
from dianjing.pipelines.prompting.localization import compute_relevance_map, find_peaks
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt, MotionPromptParser
from dianjing.pipelines.prompting.placement import DEFAULT_MOTION_STRENGTH
from dianjing.pipelines.sampling import (
    CallbackOnStepEnd,
    Generators,
    decode_latents,
    prepare_extra_step_kwargs,
    sample_noise,
)
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.video.base import VIDEO_OUTPUT_TYPES, VideoOutput, VideoPipelineBase, postprocess_frames
from dianjing.pipelines.video.motion_request import MotionRequest, limit_strength
from dianjing.pipelines.video.windows import WindowedVideo

logger = logging.get_logger(__name__)
LongVideo = Literal["joint", "autoregressive"]


class TextToVideoPipeline(VideoPipelineBase):
    """A prompt in Chinese or English to films, by a `DiT` with motion blocks and its two text encoders.

    A model that takes first frames draws a picture and then moves it, as Emu Video does (arXiv 2311.10709): a motion
    that it was taught by name is read from the prompt, what does it is found in the picture and clicked on. A film
    longer than the model was trained on is drawn in windows: "continued" draws one after the other, each from the last
    frame before it; "joint" denoises all of it together, its windows moving from step to step, without a picture where
    the model cannot move one. "continued" is the default where the model takes first frames.
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
    ) -> VideoOutput | tuple:
        """Draw `num_videos_per_prompt` films of num_frames frames, or duration_s seconds at fps, for each prompt.

        The other arguments are those of `TextToImagePipeline`; latents are (B, C, F, Y, X).

        Raises: ValueError for what cannot be drawn, before anything is computed.
        """
        height, width = self._check_size(height, width)
        steps = self._set_sampling_params(num_inference_steps, guidance_scale, guidance_rescale)
        given = {
            "prompt_embeds": prompt_embeds,
            "prompt_attention_mask": prompt_attention_mask,
            "prompt_embeds_2": prompt_embeds_2,
            "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
        }
        each = validation.check_num_images(num_videos_per_prompt)
        batch_size = self._check_prompt_inputs(prompt, negative_prompt, given) * each
        sides = {"height": height, "width": width}
        num_frames, _ = self._check_num_frames(num_frames, duration_s, fps, **sides, batch_size=batch_size)
        takes_first = bool(self.transformer.config.max_regions)
        if long_video is None:
            long_video = "autoregressive" if takes_first else "joint"
        if long_video not in ("joint", "autoregressive"):
            raise ValueError(f"long_film is {long_video!r}; give 'joint' or 'continued'")
        if long_video == "autoregressive" and not takes_first:
            raise ValueError("long_film='continued' needs a model that takes first frames; this one has no max_regions")
        shape = self._get_latent_shape(batch_size, num_frames, **sides)
        validation.check_latents(latents, shape)
        validation.check_generator(generator, batch_size)
        validation.check_output_type(output_type, VIDEO_OUTPUT_TYPES)
        call_back = self._make_step_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)

        self.warn_about_unknown_words(prompt)
        text = self._encode_prompts(prompt, negative_prompt, given, num_images_per_prompt=each)
        if latents is None:
            latents = sample_noise(shape, generator, device=self._execution_device)
        options = prepare_extra_step_kwargs(self.scheduler, eta=eta, generator=generator)
        draw = partial(self._sample, extra_step_kwargs=options, step_callback=call_back)
        has_field = takes_first and self.transformer.motion_conditioner.flow_field is not None
        if long_video == "autoregressive" or has_field:
            prompts = validation.check_prompts(prompt) if prompt is not None else []
            prompts = [text for text in prompts for _ in range(each)]
            going_on = self._get_continuation_params(num_inference_steps, guidance_scale)
            rolled = self._generate_from_first_frame(
                draw, latents, text, prompts, steps=steps, continuation_params=going_on, joint=long_video == "joint"
            )
        else:
            nothing = self._make_null_control(torch.zeros_like(latents[:, :, 0], dtype=self.transformer.dtype))
            window = self.config.default_num_frames
            rolled = WindowedVideo(
                latents=draw(latents, embeds=text, steps=steps, motion_control=nothing, window_size=window)
            )
        frames: Any = rolled.latents
        if output_type != "latent":
            frames = postprocess_frames(self._decode_with_detail(rolled), output_type)
        self.maybe_free_model_hooks()
        return VideoOutput(frames=frames) if return_dict else (frames,)

    def _generate_from_first_frame(
        self,
        sample: Callable[..., Tensor],
        noise: Tensor,
        embeds: PromptEmbeds,
        prompts: Sequence[str],
        *,
        steps: int,
        continuation_params: tuple[int | None, float | None],
        joint: bool,
    ) -> WindowedVideo:
        """A picture, and one window after the other, each from the last frame before it, or all windows together.

        Where the model was taught motions by name, those that the prompts name happen to what does them. going_on:
        steps and guidance after the picture.
        """
        scripts = [
            MotionPromptParser(self.motion_vocabulary, self.concept_vocabulary).parse(prompt)
            for prompt in prompts
            if self.motion_vocabulary.motions
        ]
        is_told = any(part.motion for script in scripts for part in script.subjects)
        if is_told:
            embeds = replace(embeds, **self._encode_texts([script.placed_prompt for script in scripts]))
        first = sample(noise[:, :, :1], embeds=embeds, steps=steps, motion_control=None, window_size=1)[:, :, 0]
        if noise.shape[2] == 1 or self._interrupt:
            return WindowedVideo(latents=first.unsqueeze(2))
        self._guidance_scale = validation.value_or_default(continuation_params[1], self._guidance_scale)
        sample = partial(sample, embeds=embeds, steps=validation.value_or_default(continuation_params[0], steps))
        roll = partial(self._generate_windows, noise, window_size=self.config.default_num_frames, joint=joint)
        if is_told:
            return roll(motion_request=self._plan_motion(first, scripts, num_frames=noise.shape[2]), sample=sample)
        if self.motion_vocabulary.motions and prompts:
            known = ", ".join(motion.phrases[0] for motion in self.motion_vocabulary.motions)
            logger.warning(
                f"no motion that this model was taught is in the prompt, so little may move; it knows: {known}"
            )
        nothing_asked = self._make_null_control(first.to(self.transformer.dtype))
        assert nothing_asked is not None, "a film is continued where first frames are taken"
        nothing = MotionRequest.from_null_control(nothing_asked, self._decode_pixels(first))
        return roll(motion_request=nothing, sample=sample)

    def _plan_motion(
        self, first_frame: Tensor, motion_prompts: Sequence[MotionPrompt], *, num_frames: int
    ) -> MotionRequest:
        """Clicks on what the scripts let move in the pictures of latents (B, C, Y, X), which then stays in them."""
        pixels = self._decode_pixels(first_frame)
        masks: list[np.ndarray] = []
        said = []
        for latents, picture, script in zip(
            first_frame, self.decode(first_frame.unsqueeze(2))[:, 0], motion_prompts, strict=True
        ):
            found = self._locate_subjects(latents, picture, script)
            masks.append(np.array([mask for mask, _ in found]).reshape(-1, *picture.shape[:2]))
            said.append(
                [(phrase, self.motion_vocabulary.get_speed(phrase, DEFAULT_MOTION_STRENGTH)) for _, phrase in found]
            )
        asked = self._encode_motion_request(pixels, masks, said)
        window = self.config.default_num_frames
        calm = limit_strength(
            self.transformer.motion_conditioner,
            asked.motion_control,
            asked.masks,
            num_frames=num_frames,
            window_size=window,
        )
        return replace(asked, motion_control=replace(calm, first_frame=first_frame.to(self.transformer.dtype)))

    def _locate_subjects(
        self, latents: Tensor, image: np.ndarray, motion_prompt: MotionPrompt
    ) -> list[tuple[np.ndarray, str]]:
        """Masks of what moves in a picture uint8 (H, W, 3) of latents (C, Y, X), and how it does."""
        prompts = [motion_prompt.static_prompt, *(part.prompt_without for part in motion_prompt.subjects)]
        text = PromptEmbeds(**self._encode_texts(prompts))
        size = image.shape[:2]
        known = compute_relevance_map(
            self.transformer, self.scheduler, latents[None], text, image_meta_size=(*size, *size, 0, 0)
        )
        at = find_peaks(known, [part.count for part in motion_prompt.subjects])
        scale = self.vae_scale_factor
        clicks = [[Point(x=(x + 0.5) * scale, y=(y + 0.5) * scale) for x, y in each] for each in at]
        segmenter = self.unet_segmenter or self.segmenter
        segmenter.set_image(image)
        found = []
        for index, part in enumerate(motion_prompt.subjects):
            if part.motion is not None:
                others = [
                    replace(point, positive=False) for other in clicks if other is not clicks[index] for point in other
                ]
                found += [(segmenter.predict([point, *others]), part.motion) for point in clicks[index]]
        return found[: self.transformer.config.max_regions]

    def _decode_pixels(self, latents: Tensor) -> Tensor:
        """What the pictures of latents (B, C, Y, X) show: (B, 3, H, W), from -1 to 1."""
        return decode_latents(self.vae, latents).clamp(-1, 1)
