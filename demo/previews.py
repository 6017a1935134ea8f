"""Pictures of what a run is about to draw, decoded on the way.

B batch; latents are B C Y X, of films B C F Y X.
"""

import time
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dianjing.pipelines.latents import decode_latents

SIDE = 32  # latents: larger ones are shrunk before they are decoded
SHARE = 0.2  # of the time at most goes into previews
GAP_S = 0.2  # nobody sees more of them


def scales_at(scheduler: Any, index: int) -> tuple[float, float]:
    """How much of the picture and of the noise the state before step `index` holds."""
    if index >= len(scheduler.timesteps):
        return 1.0, 0.0
    share = scheduler.alphas_cumprod[int(scheduler.timesteps[index])].item()
    if float(scheduler.init_noise_sigma) > 1.5:  # states that keep the picture at full scale, such as Euler's
        return 1.0, ((1 - share) / share) ** 0.5
    return share**0.5, (1 - share) ** 0.5


def predict_picture(before: Tensor, after: Tensor, scheduler: Any, *, step: int) -> Tensor:
    """The clean latents that a step from `before` to `after` went towards.

    before = a x0 + s noise and after = b x0 + r noise give x0 = (s after - r before) / (s b - r a): exact for DDIM
    (Song et al. 2020, Eq. 12), and for DPM-Solver++ its extrapolated x0 (Lu et al. 2022).
    """
    (a, s), (b, r) = scales_at(scheduler, step), scales_at(scheduler, step + 1)
    share = s * b - r * a
    return after if abs(share) < 1e-4 else (s * after - r * before) / share


class Previews:
    """Watches the states of one run; not every step has a picture."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.picture: Image.Image | None = None
        self._before: Tensor | None = None
        self._next_s = 0.0

    def see(self, step: int, latents: Tensor) -> Image.Image | None:
        """The newest picture, after `step` led to these latents."""
        if latents.ndim == 5:
            latents = latents[:, :, latents.shape[2] // 2]
        before, self._before = self._before, latents
        has_alphas = hasattr(self.pipe.scheduler, "alphas_cumprod")
        if step > 0 and before is not None and has_alphas and time.monotonic() >= self._next_s:
            began_s = time.monotonic()
            self.picture = self._decode(predict_picture(before, latents, self.pipe.scheduler, step=step))
            now_s = time.monotonic()
            self._next_s = now_s + max(GAP_S, (now_s - began_s) * (1 / SHARE - 1))
        return self.picture

    @torch.no_grad()
    def _decode(self, latents: Tensor) -> Image.Image:
        """All pictures of the batch beside each other."""
        sides = (min(SIDE, latents.shape[-2]), min(SIDE, latents.shape[-1]))
        pixels = decode_latents(self.pipe.vae, adaptive_avg_pool2d(latents, sides)).float().clamp(-1, 1)
        images = self.pipe.image_processor.postprocess(pixels.cpu(), output_type="pil")
        columns = min(len(images), 4)
        width, height = images[0].size
        sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
        for index, image in enumerate(images):
            sheet.paste(image, (index % columns * width, index // columns * height))
        return sheet
