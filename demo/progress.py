"""Pictures of what a run is about to draw, decoded on the way.

B batch; latents are B C Y X, of films B C F Y X.
"""

import time
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.demo.jobs import Progress
from dianjing.pipelines.sampling import decode_latents
from dianjing.pipelines.text_to_image import TextToImagePipeline

MAX_LATENT_SIDE = 32  # latents: larger ones are shrunk before they are decoded
MAX_TIME_SHARE = 0.2  # of the time at most goes into previews
MIN_INTERVAL_S = 0.2  # nobody sees more of them


def get_alpha_sigma(scheduler: Any, step: int) -> tuple[float, float]:
    """How much of the picture and of the noise the state before step `index` holds."""
    if step >= len(scheduler.timesteps):
        return 1.0, 0.0
    share = scheduler.alphas_cumprod[int(scheduler.timesteps[step])].item()
    if float(scheduler.init_noise_sigma) > 1.5:  # states that keep the picture at full scale, such as Euler's
        return 1.0, ((1 - share) / share) ** 0.5
    return share**0.5, (1 - share) ** 0.5


def predict_x0(latents: Tensor, next_latents: Tensor, scheduler: Any, *, step: int) -> Tensor:
    """The clean latents that a step from `before` to `after` went towards.

    before = a x0 + s noise and after = b x0 + r noise give x0 = (s after - r before) / (s b - r a): exact for DDIM
    (Song et al. 2020, Eq. 12), and for DPM-Solver++ its extrapolated x0 (Lu et al. 2022).
    """
    (a, s), (b, r) = get_alpha_sigma(scheduler, step), get_alpha_sigma(scheduler, step + 1)
    share = s * b - r * a
    return next_latents if abs(share) < 1e-4 else (s * next_latents - r * latents) / share


class PreviewDecoder:
    """Watches the states of one run; not every step has a picture."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.image: Image.Image | None = None
        self._previous_latents: Tensor | None = None
        self._next_decode_s = 0.0

    def update(self, step: int, latents: Tensor) -> Image.Image | None:
        """The newest picture, after `step` led to these latents."""
        if latents.ndim == 5:
            latents = latents[:, :, latents.shape[2] // 2]
        before, self._previous_latents = self._previous_latents, latents
        has_alphas = hasattr(self.pipe.scheduler, "alphas_cumprod")
        if step > 0 and before is not None and has_alphas and time.monotonic() >= self._next_decode_s:
            began_s = time.monotonic()
            self.image = self._decode(predict_x0(before, latents, self.pipe.scheduler, step=step))
            now_s = time.monotonic()
            self._next_decode_s = now_s + max(MIN_INTERVAL_S, (now_s - began_s) * (1 / MAX_TIME_SHARE - 1))
        return self.image

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Image.Image:
        """All pictures of the batch beside each other."""
        sides = (min(MAX_LATENT_SIDE, latents.shape[-2]), min(MAX_LATENT_SIDE, latents.shape[-1]))
        pixels = decode_latents(self.pipe.vae, adaptive_avg_pool2d(latents, sides)).float().clamp(-1, 1)
        images = self.pipe.image_processor.postprocess(pixels.cpu(), output_type="pil")
        columns = min(len(images), 4)
        width, height = images[0].size
        sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
        for index, image in enumerate(images):
            sheet.paste(image, (index % columns * width, index // columns * height))
        return sheet


ProgressListener = Callable[[Progress], None]


class ProgressCallback:
    """A `callback_on_step_end` that counts over all windows of one job. steps: of each."""

    def __init__(self, pipe: Any, on_progress: ProgressListener, *, window_steps: Sequence[int]):
        self.on_progress, self.num_windows = on_progress, len(window_steps)
        self.window_ends = list(accumulate(window_steps))
        self.total_steps = self.window_ends[-1]
        self.preview_decoder = PreviewDecoder(pipe)
        self.steps_done = 0
        on_progress(Progress(step=0, total=self.total_steps, windows=self.num_windows))

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        window = min(1 + bisect(self.window_ends, self.steps_done), self.num_windows)
        self.steps_done += 1
        self.total_steps = max(
            self.total_steps, self.steps_done
        )  # a schedule of higher order has more steps than were asked for
        preview = self.preview_decoder.update(step, tensors["latents"])
        self.on_progress(
            Progress(
                step=self.steps_done, total=self.total_steps, preview=preview, window=window, windows=self.num_windows
            )
        )
        return {}


class ProgressReportingPipeline(TextToImagePipeline):
    """Tells of every step, also where a conversation's painter runs it; how many runs a turn takes is not known."""

    on_progress: ProgressListener | None = None
    _steps_done = 0

    def set_progress_listener(self, on_progress: ProgressListener | None) -> None:
        self.on_progress, self._steps_done, self._preview_decoder = on_progress, 0, PreviewDecoder(self)

    def _denoise(self, latents: Any, timesteps: Any, embeds: Any, *, step_callback: Any, **kwargs: Any) -> Any:
        total = self._steps_done + len(timesteps)

        def told(step: int, timestep: Any, latents: Any, text: Any) -> tuple[Any, Any]:
            if step_callback is not None:
                latents, text = step_callback(step, timestep, latents, text)  # what stays is part of the preview
            self._steps_done += 1
            if self.on_progress is not None:
                preview = self._preview_decoder.update(step, latents)
                self.on_progress(Progress(step=self._steps_done, total=total, preview=preview))
            return latents, text

        return super()._denoise(latents, timesteps, embeds, step_callback=told, **kwargs)
