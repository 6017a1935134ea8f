"""Progress of a run: counting its steps, and decoding previews of its result.

B batch; latents are B C Y X, of videos B C F Y X.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.demo.jobs import Progress
from dianjing.errors import DianjingError
from dianjing.pipelines.denoiser import SamplingStep
from dianjing.pipelines.vae import decode_result

MAX_LATENT_SIDE = 32  # larger latents are shrunk before they are decoded
MAX_TIME_SHARE = 0.2  # of a run's time, at most, goes into previews
MIN_INTERVAL_S = 0.2  # between two previews

ProgressListener = Callable[[Progress], None]


def get_alpha_sigma(scheduler: Any, step: int) -> tuple[float, float]:
    """The factors of x0 and of the noise in the latents before step `step`."""
    if step >= len(scheduler.timesteps):
        return 1.0, 0.0
    alpha_bar = scheduler.alphas_cumprod[int(scheduler.timesteps[step])].item()
    if float(scheduler.init_noise_sigma) > 1.5:  # schedulers that keep x0 at full scale, such as Euler's
        return 1.0, ((1 - alpha_bar) / alpha_bar) ** 0.5
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def predict_x0(latents: Tensor, next_latents: Tensor, scheduler: Any, *, step: int) -> Tensor:
    """Estimate x0 from the latents before and after one step, both (B, C, Y, X).

    x_t = a x0 + s noise and x_next = b x0 + r noise give x0 = (s x_next - r x_t) / (s b - r a): exact for DDIM
    (Song et al. 2020, Eq. 12), and the extrapolated x0 for DPM-Solver++ (Lu et al. 2022).
    """
    (a, s), (b, r) = get_alpha_sigma(scheduler, step), get_alpha_sigma(scheduler, step + 1)
    determinant = s * b - r * a
    return next_latents if abs(determinant) < 1e-4 else (s * next_latents - r * latents) / determinant


class PreviewDecoder:
    """Decode previews of one run, as often as their share of its time allows."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.image: Image.Image | None = None
        self._previous: Tensor | None = None
        self._last_step: tuple[Tensor, Tensor, int] | None = None  # latents before and after a step, and its index
        self._next_decode_s = 0.0

    def update(self, step: int, latents: Tensor, *, num_steps: int | None = None) -> Image.Image | None:
        """Take the latents after step `step`, and return the newest preview: of a video, that of its middle frame.

        num_steps: of the run, which starts at a later timestep if it starts from an image.
        """
        previous, self._previous = self._previous, latents
        if step == 0 or previous is None or not hasattr(self.pipe.scheduler, "alphas_cumprod"):
            return self.image
        first = 0 if num_steps is None else len(self.pipe.scheduler.timesteps) - num_steps
        self._last_step = (previous, latents, first + step)
        if time.monotonic() >= self._next_decode_s:
            start_s = time.monotonic()
            frame = latents.shape[2] // 2 if latents.ndim == 5 else None
            with suppress(DianjingError):  # an estimate that is not finite; the result may be, and is checked itself
                self.image = make_sheet(self.decode_images(frame=frame))
            end_s = time.monotonic()
            self._next_decode_s = end_s + max(MIN_INTERVAL_S, (end_s - start_s) * (1 / MAX_TIME_SHARE - 1))
        return self.image

    @torch.no_grad()
    def decode_images(self, *, frame: int | None = None) -> list[Image.Image]:
        """Decode what the last step predicts: the images of a batch, or all frames of a video, or one of them.

        Raises: DianjingError for pixels that are not finite.
        """
        assert self._last_step is not None
        previous, latents, step = self._last_step
        x0 = predict_x0(_to_frames(previous, frame), _to_frames(latents, frame), self.pipe.scheduler, step=step)
        sides = (min(MAX_LATENT_SIDE, x0.shape[-2]), min(MAX_LATENT_SIDE, x0.shape[-1]))
        pixels = decode_result(self.pipe.vae, adaptive_avg_pool2d(x0, sides)).float().clamp(-1, 1)
        return self.pipe.image_processor.postprocess(pixels.cpu(), output_type="pil")


def _to_frames(latents: Tensor, frame: int | None) -> Tensor:
    """Turn latents of a video into those of its frames (B F, C, Y, X), or of one frame (B, C, Y, X)."""
    if latents.ndim == 4:
        return latents
    return rearrange(latents, "b c f y x -> (b f) c y x") if frame is None else latents[:, :, frame]


def make_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Lay images out in one, in up to four columns."""
    columns = min(len(images), 4)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet


class ProgressReporter:
    """An observer of `observe_steps` that reports the steps of one job to a listener.

    `run_steps` are the steps of the runs to come; without them the total is that of the runs so far. `num_windows` is
    the number of windows of a long video: its runs, else 1.
    """

    def __init__(
        self, pipe: Any, on_progress: ProgressListener, *, run_steps: Sequence[int] = (), num_windows: int = 1
    ):
        self.on_progress, self.num_windows = on_progress, num_windows
        self.preview_decoder = PreviewDecoder(pipe)
        self.run_index, self.steps_done, self.total_steps = -1, 0, sum(run_steps)
        if run_steps:
            on_progress(Progress(step=0, total=self.total_steps, windows=num_windows))

    def __call__(self, step: SamplingStep) -> None:
        self.run_index += step.index == 0
        # schedulers of higher order take more steps than were planned
        self.total_steps = max(self.total_steps, self.steps_done + step.num_steps - step.index)
        self.steps_done += 1
        self.on_progress(
            Progress(
                step=self.steps_done,
                total=self.total_steps,
                preview=self.preview_decoder.update(step.index, step.latents, num_steps=step.num_steps),
                window=min(self.run_index + 1, self.num_windows),
                windows=self.num_windows,
                decode_images=self.preview_decoder.decode_images,
            )
        )
