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

from dianjing.pipelines import inputs, request
from dianjing.pipelines.film import OUTPUT_TYPES, Asked, FilmOutput, FilmPipeline, as_output
from dianjing.pipelines.grounding import evidence, places
from dianjing.pipelines.latents import Generators, decode_latents, draw_noise
from dianjing.pipelines.rolling import Rolled, stay
from dianjing.pipelines.schedule import step_options
from dianjing.pipelines.script import Script, ScriptReader
from dianjing.pipelines.segmenting import Point
from dianjing.pipelines.staging import STRENGTH
from dianjing.pipelines.text import Text

logger = logging.get_logger(__name__)
LongFilm = Literal["joint", "continued"]


class TextToVideoPipeline(FilmPipeline):
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
        callback_on_step_end: inputs.CallbackOnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        guidance_rescale: float = 0.0,
        long_film: LongFilm | None = None,
    ) -> FilmOutput | tuple:
        """Draw `num_videos_per_prompt` films of num_frames frames, or duration_s seconds at fps, for each prompt.

        The other arguments are those of `TextToImagePipeline`; latents are (B, C, F, Y, X).

        Raises: ValueError for what cannot be drawn, before anything is computed.
        """
        height, width = self._check_size(height, width)
        steps = self._set_run(num_inference_steps, guidance_scale, guidance_rescale)
        given = {
            "prompt_embeds": prompt_embeds, "prompt_attention_mask": prompt_attention_mask,
            "prompt_embeds_2": prompt_embeds_2, "prompt_attention_mask_2": prompt_attention_mask_2,
            "negative_prompt_embeds": negative_prompt_embeds,
            "negative_prompt_attention_mask": negative_prompt_attention_mask,
            "negative_prompt_embeds_2": negative_prompt_embeds_2,
            "negative_prompt_attention_mask_2": negative_prompt_attention_mask_2,
        }  # fmt: skip
        each = request.check_count(num_videos_per_prompt)
        batch_size = self._check_text(prompt, negative_prompt, given) * each
        sides = {"height": height, "width": width}
        num_frames, _ = self._check_length(num_frames, duration_s, fps, **sides, batch_size=batch_size)
        takes_first = bool(self.transformer.config.max_regions)
        if long_film is None:
            long_film = "continued" if takes_first else "joint"
        if long_film not in ("joint", "continued"):
            raise ValueError(f"long_film is {long_film!r}; give 'joint' or 'continued'")
        if long_film == "continued" and not takes_first:
            raise ValueError("long_film='continued' needs a model that takes first frames; this one has no max_regions")
        shape = self._shape(batch_size, num_frames, **sides)
        inputs.check_latents(latents, shape)
        inputs.check_generator(generator, batch_size)
        inputs.check_output_type(output_type, OUTPUT_TYPES)
        call_back = self._listener(callback_on_step_end, callback_on_step_end_tensor_inputs)

        self.warn_of_unknown_words(prompt)
        text = self._encode(prompt, negative_prompt, given, num_images_per_prompt=each)
        if latents is None:
            latents = draw_noise(shape, generator, device=self._execution_device)
        options = step_options(self.scheduler, eta=eta, generator=generator)
        draw = partial(self._draw, options=options, call_back=call_back)
        has_field = takes_first and self.transformer.click.field is not None
        if long_film == "continued" or has_field:
            prompts = inputs.check_prompts(prompt) if prompt is not None else []
            prompts = [text for text in prompts for _ in range(each)]
            going_on = self._going_on(num_inference_steps, guidance_scale)
            rolled = self._continue(
                draw, latents, text, prompts, steps=steps, going_on=going_on, together=long_film == "joint"
            )  # fmt: skip
        else:
            nothing = self._nothing_asked(torch.zeros_like(latents[:, :, 0], dtype=self.transformer.dtype))
            window = self.config.default_num_frames
            rolled = Rolled(latents=draw(latents, text=text, steps=steps, click=nothing, window=window))
        frames: Any = rolled.latents
        if output_type != "latent":
            frames = as_output(self._frames_of(rolled), output_type)
        self.maybe_free_model_hooks()
        return FilmOutput(frames=frames) if return_dict else (frames,)

    def _continue(
        self,
        draw: Callable[..., Tensor],
        noise: Tensor,
        text: Text,
        prompts: Sequence[str],
        *,
        steps: int,
        going_on: tuple[int | None, float | None],
        together: bool,
    ) -> Rolled:
        """A picture, and one window after the other, each from the last frame before it, or all windows together.

        Where the model was taught motions by name, those that the prompts name happen to what does them. going_on:
        steps and guidance after the picture.
        """
        scripts = [ScriptReader(self.motions, self.names).read(prompt) for prompt in prompts if self.motions.motions]
        is_told = any(part.motion for script in scripts for part in script.parts)
        if is_told:
            text = replace(text, **self._states_of([script.placed for script in scripts]))
        first = draw(noise[:, :, :1], text=text, steps=steps, click=None, window=1)[:, :, 0]
        if noise.shape[2] == 1 or self._interrupt:
            return Rolled(latents=first.unsqueeze(2))
        self._guidance_scale = inputs.or_default(going_on[1], self._guidance_scale)
        draw = partial(draw, text=text, steps=inputs.or_default(going_on[0], steps))
        roll = partial(self._roll, noise, window=self.config.default_num_frames, together=together)
        if is_told:
            return roll(asked=self._direct(first, scripts, num_frames=noise.shape[2]), draw=draw)
        if self.motions.motions and prompts:
            known = ", ".join(motion.phrases[0] for motion in self.motions.motions)
            logger.warning(
                f"no motion that this model was taught is in the prompt, so little may move; it knows: {known}"
            )
        nothing_asked = self._nothing_asked(first.to(self.transformer.dtype))
        assert nothing_asked is not None, "a film is continued where first frames are taken"
        nothing = Asked.nothing(nothing_asked, self._pixels_of(first))
        return roll(asked=nothing, draw=draw)

    def _direct(self, first: Tensor, scripts: Sequence[Script], *, num_frames: int) -> Asked:
        """Clicks on what the scripts let move in the pictures of latents (B, C, Y, X), which then stays in them."""
        pixels = self._pixels_of(first)
        masks: list[np.ndarray] = []
        said = []
        for latents, picture, script in zip(first, self.decode(first.unsqueeze(2))[:, 0], scripts, strict=True):
            found = self._find(latents, picture, script)
            masks.append(np.array([mask for mask, _ in found]).reshape(-1, *picture.shape[:2]))
            said.append([(phrase, self.motions.speed(phrase, STRENGTH)) for _, phrase in found])
        asked = self._ask(pixels, masks, said)
        window = self.config.default_num_frames
        calm = stay(self.transformer.click, asked.click, asked.masks, num_frames=num_frames, window=window)
        return replace(asked, click=replace(calm, first_frame=first.to(self.transformer.dtype)))

    def _find(self, latents: Tensor, picture: np.ndarray, script: Script) -> list[tuple[np.ndarray, str]]:
        """Masks of what moves in a picture uint8 (H, W, 3) of latents (C, Y, X), and how it does."""
        prompts = [script.still, *(part.without for part in script.parts)]
        text = Text(**self._states_of(prompts))
        size = picture.shape[:2]
        known = evidence(self.transformer, self.scheduler, latents[None], text, image_meta_size=(*size, *size, 0, 0))
        at = places(known, [part.count for part in script.parts])
        scale = self.vae_scale_factor
        clicks = [[Point(x=(x + 0.5) * scale, y=(y + 0.5) * scale) for x, y in each] for each in at]
        segmenter = self.own_segmenter or self.segmenter
        segmenter.look(picture)
        found = []
        for index, part in enumerate(script.parts):
            if part.motion is not None:
                others = [
                    replace(point, positive=False) for other in clicks if other is not clicks[index] for point in other
                ]
                found += [(segmenter.mask([point, *others]), part.motion) for point in clicks[index]]
        return found[: self.transformer.config.max_regions]

    def _pixels_of(self, latents: Tensor) -> Tensor:
        """What the pictures of latents (B, C, Y, X) show: (B, 3, H, W), from -1 to 1."""
        return decode_latents(self.vae, latents).clamp(-1, 1)
