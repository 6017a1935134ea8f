"""A scene becomes a picture, and a changed scene the picture before with only the change drawn.

Every background is drawn once without objects: the plate. An object is denoised inside its box, all else tied to the
picture as it is; what goes away gives its box back to the plate. The strength of this image-conditioned denoising is 1
inside the box. Small models draw objects well at one size and in nine places: for any other, an object is drawn
in the middle of white and of black, which gives its outline, and laid over the picture (strength 0).
Latents are 1 C Y X, of the whole picture.
"""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dianjing.pipelines.conversation.captions import caption_alone
from dianjing.pipelines.conversation.layout import place_box
from dianjing.pipelines.conversation.scenes import GRID, PLACES, Box, Scene, Thing
from dianjing.pipelines.latents import decode_latents, draw_noise
from dianjing.pipelines.names import Names
from dianjing.pipelines.prediction import look_ahead, predict
from dianjing.pipelines.schedule import set_schedule, step_options
from dianjing.pipelines.text_to_image import TextToImagePipeline

PHANTOM = Thing(name="cat", boxes=(place_box("top left"),))  # drawn with a background, and away again
TAUGHT = frozenset(map(place_box, PLACES))  # where small models draw objects as well as they can
WHITE, BLACK = "white background", "black background"
FAINT, CLEAR = 0.15, 0.75  # coverage below which there is nothing, above which all is object: the model is inexact
EMBEDS = [f"{a}prompt_{b}{c}" for a in ("", "negative_") for b in ("embeds", "attention_mask") for c in ("", "_2")]


class Painter:
    """Draws scenes with one pipeline from one noise."""

    def __init__(
        self, pipe: TextToImagePipeline, *, names: Names, seed: int, steps: int | None, guidance: float | None
    ):
        self.pipe, self.names, self.seed, self.steps, self.guidance = pipe, names, seed, steps, guidance
        self.plate = cache(self._plate)
        side = pipe.transformer.config.sample_size
        shape = (1, pipe.transformer.config.in_channels, side, side)
        generator = torch.Generator().manual_seed(seed)
        self.noise = draw_noise(shape, generator, device=torch.device("cpu")).to(pipe._execution_device)

    @torch.no_grad()
    def paint(self, scene: Scene, *, language: str, before: tuple[Scene, Tensor] | None = None) -> Tensor:
        """Latents of a scene; `before` is the scene and the latents of the picture that stays where nothing changed."""
        latents = plate = self.plate(scene.background, language)
        wanted = {(thing.name, thing.colour, box): thing for thing in scene.things for box in thing.boxes}
        stays: set[Look] = set()
        if before is not None and before[0].background == scene.background:
            shown = _looks(before[0])
            stays = _untouched(shown & set(wanted), shown - set(wanted))
            gone = self._cells([box for _, _, box in shown - stays])
            latents = torch.lerp(before[1], plate, gone * (1 - self._cells([box for _, _, box in stays])))
        usual = [look for look in wanted if look[2] in TAUGHT]
        for look in usual:
            if look not in stays:
                free = self._cells([look[2]]) * (1 - self._cells([other[2] for other in usual if other != look]))
                latents = self._put(latents, wanted[look], look[2], free, scene.background, language)
        over = [look for look in usual if look not in stays]
        for look in wanted:
            if look not in usual and (look not in stays or any(look[2].overlap(other[2]) for other in over)):
                latents = self._lay_over(latents, wanted[look], look[2], language)
        return latents

    @torch.no_grad()
    def picture(self, latents: Tensor) -> Any:
        """The PIL image."""
        return self.pipe.image_processor.postprocess(decode_latents(self.pipe.vae, latents), output_type="pil")[0]

    def _plate(self, background: str | None, language: str) -> Tensor:
        """A background without objects: drawn with one in a corner, then that corner again with it in another."""
        say = partial(caption_alone, PHANTOM, background, self.names, language=language)
        corner = self._cells(PHANTOM.boxes)
        latents = self._denoise(say(place="top left"), start=self.noise, free=torch.ones_like(corner))
        return self._denoise(say(place="bottom right"), start=latents, free=corner)

    def _put(
        self, latents: Tensor, thing: Thing, box: Box, free: Tensor, background: str | None, language: str
    ) -> Tensor:
        """Denoise an object of the usual size in its box, as far as that is free."""
        text = caption_alone(thing, background, self.names, language=language, place=box.place)
        return self._denoise(text, start=latents, free=free)

    def _lay_over(self, latents: Tensor, thing: Thing, box: Box, language: str) -> Tensor:
        """Draw an object of the usual size by itself, and lay it over the picture at the size of its box."""
        ink, cover = self._cut_out(thing, language)
        picture = self._decode(latents)
        rows, columns = self._pixels(box, picture)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        ink, cover = (
            interpolate(each, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            for each in (ink, cover)
        )
        picture[..., rows, columns] = (ink + (1 - cover) * picture[..., rows, columns]).clamp(0, 1)
        return torch.lerp(latents, self._encode(picture), self._cells([box]))

    def _cut_out(self, thing: Thing, language: str) -> tuple[Tensor, Tensor]:
        """An object's colour times its coverage (1, 3, h, w), and its coverage (1, 1, h, w)."""
        box = place_box("middle")
        on, empty = {}, {}
        for background in (WHITE, BLACK):
            plate = self.plate(background, language)
            drawn = self._put(plate, thing, box, self._cells([box]), background, language)
            on[background], empty[background] = self._decode(drawn), self._decode(plate)
        # triangulation matting (Smith & Blinn 1996, Eq. 4): what shows the background's difference is not the object
        difference = empty[WHITE] - empty[BLACK]
        shown = ((on[WHITE] - on[BLACK]) * difference).sum(1, keepdim=True) / difference.square().sum(1, keepdim=True)
        cover = (1 - shown - FAINT).div(CLEAR - FAINT).clamp(0, 1)
        ink = torch.lerp(on[BLACK] - (1 - cover) * empty[BLACK], on[BLACK] * cover, cover).clamp(0, 1)
        rows, columns = self._pixels(box, cover)
        return ink[..., rows, columns], cover[..., rows, columns]

    def _cells(self, boxes: Any) -> Tensor:
        """1 where any of the boxes is: (Y, X) of the latents."""
        free = torch.zeros(self.noise.shape[-2:], device=self.noise.device)
        for box in boxes:
            rows, columns = self._pixels(box, free)
            free[rows, columns] = 1
        return free

    @staticmethod
    def _pixels(box: Box, like: Tensor) -> tuple[slice, slice]:
        """The rows and columns of a box in a tensor (..., Y, X)."""
        rows, columns = like.shape[-2:]
        return (
            slice(round(box.y * rows / GRID), round((box.y + box.side) * rows / GRID)),
            slice(round(box.x * columns / GRID), round((box.x + box.side) * columns / GRID)),
        )

    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels (1, 3, H, W) on [0, 1]."""
        return (decode_latents(self.pipe.vae, latents).float() / 2 + 0.5).clamp(0, 1)

    def _encode(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.encode((2 * pixels - 1).to(vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor

    def _denoise(self, text: str, *, start: Tensor, free: Tensor) -> Tensor:
        """Denoise from the noise where `free` is 1; elsewhere every step is tied to `start`."""
        pipe = self.pipe
        steps = pipe._set_run(self.steps, self.guidance, 0.0)
        states = pipe._encode(text, None, dict.fromkeys(EMBEDS), num_images_per_prompt=1)
        timesteps = set_schedule(pipe.scheduler, steps, device=self.noise.device)

        def tie(step: int, timestep: Tensor, latents: Tensor, text: Any) -> tuple[Tensor, Any]:
            after = timesteps[step + 1 : step + 2]
            there = pipe.scheduler.add_noise(start, self.noise, after) if len(after) else start
            return torch.lerp(there.to(latents), latents, free), text

        rows, columns = self.noise.shape[-2:]
        size_px = (rows * pipe.vae_scale_factor, columns * pipe.vae_scale_factor)
        meta = (*size_px, *size_px, 0, 0)
        latents = pipe._denoise(
            self.noise * pipe.scheduler.init_noise_sigma,
            timesteps,
            states,
            options=step_options(pipe.scheduler, eta=0.0, generator=None),
            call_back=tie,
            look_ahead=partial(look_ahead, pipe.transformer, size=(rows, columns), image_meta_size=meta),
            predict=partial(predict, pipe.transformer),
        )
        pipe.maybe_free_model_hooks()
        return latents


Look = tuple[str, str | None, Box]


def _untouched(stays: set[Look], gone: set[Look]) -> set[Look]:
    """Those that nothing has lain over which is taken away now; the others are drawn again, as they were."""
    return {look for look in stays if not any(look[2].overlap(other[2]) for other in gone)}


def _looks(scene: Scene) -> set[Look]:
    return {(thing.name, thing.colour, box) for thing in scene.things for box in thing.boxes}
