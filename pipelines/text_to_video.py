"""Words become a film, of any length.

B batch of films, F frames; latents are B C F Y X.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from dianjing.pipelines import inputs, request
from dianjing.pipelines.film import OUTPUT_TYPES, FilmOutput, FilmPipeline, as_output
from dianjing.pipelines.latents import Generators, draw_noise
from dianjing.pipelines.schedule import step_options

LongFilm = Literal["joint", "continued"]


class TextToVideoPipeline(FilmPipeline):
    """A prompt in Chinese or English to films, by a `DiT` with motion blocks and its two text encoders.

    A model that takes first frames draws a picture and then moves it, as Emu Video does (arXiv 2311.10709). A film
    longer than the model was trained on is drawn in windows: "continued" draws one after the other, each from the last
    frame before it; "joint" denoises all of it together without a picture, its windows moving from step to step.
    "continued" is the default where the model takes first frames.
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
        draw = partial(
            self._draw, text=text, steps=steps, window=self.config.default_num_frames,
            options=step_options(self.scheduler, eta=eta, generator=generator),
            call_back=call_back,
        )  # fmt: skip
        if long_film == "continued":
            latents = self._continue(draw, latents)
        else:
            latents = draw(latents, click=self._click(torch.zeros_like(latents[:, :, 0], dtype=self.transformer.dtype)))
        frames: Any = latents
        if output_type != "latent":
            frames = as_output(self.decode(latents), output_type)
        self.maybe_free_model_hooks()
        return FilmOutput(frames=frames) if return_dict else (frames,)

    def _continue(self, draw: Callable[..., Tensor], noise: Tensor) -> Tensor:
        """A picture, and one window after the other: each begins with the last frame drawn."""
        film = draw(noise[:, :, :1], click=None)
        while film.shape[2] < noise.shape[2] and not self._interrupt:
            first = film.shape[2] - 1
            click = self._click(film[:, :, -1].to(self.transformer.dtype))
            window = noise[:, :, first : first + self.config.default_num_frames]
            film = torch.cat([film, draw(window, click=click)[:, :, 1:]], dim=2)
        return film
