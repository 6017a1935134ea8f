"""Progress of a run: counting its steps, and decoding previews of its result.

B batch; latents are B C Y X, of videos B C F Y X.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.demo.jobs import Progress
from dianjing.errors import DianjingError
from dianjing.pipelines.denoiser import SamplingStep
from dianjing.pipelines.vae import decode_result, pixels_to_uint8
from dianjing.pipelines.video.time_to_move import PublishedStep

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


class PreviewClock:
    """The newest preview of one run, made anew as often as its share of the run's time allows."""

    def __init__(self) -> None:
        self.image: Image.Image | None = None
        self._next_decode_s = 0.0

    def refresh(self, decode: Callable[[], Image.Image]) -> None:
        """Decode a new preview, if one is due."""
        if time.monotonic() < self._next_decode_s:
            return
        start_s = time.monotonic()
        with suppress(DianjingError):  # an estimate that is not finite; the result may be, and is checked itself
            self.image = decode()
        end_s = time.monotonic()
        self._next_decode_s = end_s + max(MIN_INTERVAL_S, (end_s - start_s) * (1 / MAX_TIME_SHARE - 1))


class PreviewDecoder:
    """Decode previews of one run."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self._clock = PreviewClock()
        self._previous: Tensor | None = None
        self._last_step: tuple[Tensor, Tensor, int] | None = None  # latents before and after a step, and its index
        self._scheduler: Any = None  # of the run: the pipeline may have another one after it

    def update(self, step: int, latents: Tensor, *, num_steps: int | None = None) -> Image.Image | None:
        """Take the latents after step `step`, and return the newest preview: of a video, that of its middle frame.

        num_steps: of the run, which starts at a later timestep if it starts from an image.
        """
        previous, self._previous, self._scheduler = self._previous, latents, self.pipe.scheduler
        if step == 0 or previous is None or not hasattr(self._scheduler, "alphas_cumprod"):
            return self._clock.image
        first = 0 if num_steps is None else len(self._scheduler.timesteps) - num_steps
        self._last_step = (previous, latents, first + step)
        frame = latents.shape[2] // 2 if latents.ndim == 5 else None
        self._clock.refresh(lambda: make_sheet(self.decode_images(frame=frame)))
        return self._clock.image

    @torch.no_grad()
    def decode_images(self, *, frame: int | None = None) -> list[Image.Image]:
        """Decode what the last step predicts: the images of a batch, or all frames of a video, or one of them.

        Raises: DianjingError for pixels that are not finite.
        """
        assert self._last_step is not None
        previous, latents, step = self._last_step
        x0 = predict_x0(_to_frames(previous, frame), _to_frames(latents, frame), self._scheduler, step=step)
        pixels = decode_result(self.pipe.vae, shrink_latents(x0)).float().clamp(-1, 1)
        return self.pipe.image_processor.postprocess(pixels.cpu(), output_type="pil")


def shrink_latents(latents: Tensor) -> Tensor:
    """Shrink latents (B, C, Y, X) to at most MAX_LATENT_SIDE, in their own aspect ratio."""
    scale = min(1, MAX_LATENT_SIDE / max(latents.shape[-2:]))
    rows, columns = (max(1, round(side * scale)) for side in latents.shape[-2:])
    return adaptive_avg_pool2d(latents, (rows, columns))


@torch.no_grad()
def decode_video(vae: Any, x0: Tensor) -> list[Image.Image]:
    """Decode a video's latents (1, C, F, Y, X), shrunk, to its frames, on the device where the weights are now.

    Raises: DianjingError for pixels that are not finite.
    """
    latents = shrink_latents(_to_frames(x0, None)).transpose(0, 1)[None]
    with without_offloading(vae):
        pixels = decode_result(vae, latents.to(next(vae.parameters()).device))
    return [Image.fromarray(frame.numpy()) for frame in pixels_to_uint8(pixels[0]).permute(1, 2, 3, 0)]


@contextmanager
def without_offloading(module: torch.nn.Module) -> Iterator[None]:
    """Keep a module where it is: accelerate's hook would move the transformer off the GPU in the midst of a run."""
    hook = vars(module).pop("_hf_hook", None)
    try:
        yield
    finally:
        if hook is not None:
            vars(module)["_hf_hook"] = hook


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


class PublishedProgressReporter:
    """Report the steps of a published model's run to a listener, with previews of its middle frame.

    num_extra_frames: frames before the first, which the pipeline drops.
    """

    def __init__(self, vae: Any, on_progress: ProgressListener, *, num_steps: int, num_extra_frames: int = 0):
        self.vae, self.on_progress, self.num_extra_frames = vae, on_progress, num_extra_frames
        self._clock = PreviewClock()
        on_progress(Progress(step=0, total=num_steps))

    def __call__(self, step: PublishedStep) -> None:
        x0 = step.predicted_x0
        if x0 is not None:
            central = x0[:, :, x0.shape[2] // 2][:, :, None]
            self._clock.refresh(lambda: decode_video(self.vae, central)[0])
        self.on_progress(
            Progress(
                step=step.index + 1,
                total=step.num_steps,
                preview=self._clock.image,
                decode_images=None if x0 is None else lambda: decode_video(self.vae, x0)[self.num_extra_frames :],
            )
        )
