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

from dianjing.pipelines.conversation.captions import caption_object
from dianjing.pipelines.conversation.layout import get_position_box
from dianjing.pipelines.conversation.scene import GRID_SIZE, POSITIONS, Box, Scene, SceneObject
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.sampling import (
    decode_latents,
    precompute_conditioning,
    predict_model_output,
    prepare_extra_step_kwargs,
    sample_noise,
    set_timesteps,
)
from dianjing.pipelines.text_to_image import TextToImagePipeline

PLACEHOLDER = SceneObject(name="cat", boxes=(get_position_box("top left"),))  # drawn with a background, and away again
TRAINED_BOXES = frozenset(map(get_position_box, POSITIONS))  # where small models draw objects as well as they can
WHITE_BACKGROUND, BLACK_BACKGROUND = "white background", "black background"
ALPHA_LOW, ALPHA_HIGH = (
    0.15,
    0.75,
)  # coverage below which there is nothing, above which all is object: the model is inexact
PROMPT_EMBED_NAMES = [
    f"{a}prompt_{b}{c}" for a in ("", "negative_") for b in ("embeds", "attention_mask") for c in ("", "_2")
]


class SceneRenderer:
    """Draws scenes with one pipeline from one noise."""

    def __init__(
        self,
        pipe: TextToImagePipeline,
        *,
        concept_vocabulary: ConceptVocabulary,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
    ):
        self.pipe, self.concept_vocabulary, self.seed, self.num_inference_steps, self.guidance_scale = (
            pipe,
            concept_vocabulary,
            seed,
            num_inference_steps,
            guidance_scale,
        )
        self.background_latents = cache(self._render_background)
        side = pipe.transformer.config.sample_size
        shape = (1, pipe.transformer.config.in_channels, side, side)
        generator = torch.Generator().manual_seed(seed)
        self.noise = sample_noise(shape, generator, device=torch.device("cpu")).to(pipe._execution_device)

    @torch.no_grad()
    def render(self, scene: Scene, *, language: str, previous: tuple[Scene, Tensor] | None = None) -> Tensor:
        """Latents of a scene; `before` is the scene and the latents of the picture that stays where nothing changed."""
        latents = plate = self.background_latents(scene.background, language)
        wanted = {(thing.name, thing.colour, box): thing for thing in scene.objects for box in thing.boxes}
        stays: set[Instance] = set()
        if previous is not None and previous[0].background == scene.background:
            shown = _get_instances(previous[0])
            stays = _find_unchanged(shown & set(wanted), shown - set(wanted))
            gone = self._make_mask([box for _, _, box in shown - stays])
            latents = torch.lerp(previous[1], plate, gone * (1 - self._make_mask([box for _, _, box in stays])))
        usual = [look for look in wanted if look[2] in TRAINED_BOXES]
        for look in usual:
            if look not in stays:
                free = self._make_mask([look[2]]) * (
                    1 - self._make_mask([other[2] for other in usual if other != look])
                )
                latents = self._inpaint_object(latents, wanted[look], look[2], free, scene.background, language)
        over = [look for look in usual if look not in stays]
        for look in wanted:
            if look not in usual and (look not in stays or any(look[2].count_shared_cells(other[2]) for other in over)):
                latents = self._composite_object(latents, wanted[look], look[2], language)
        return latents

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Any:
        """The PIL image."""
        return self.pipe.image_processor.postprocess(decode_latents(self.pipe.vae, latents), output_type="pil")[0]

    def _render_background(self, background: str | None, language: str) -> Tensor:
        """A background without objects: drawn with one in a corner, then that corner again with it in another."""
        say = partial(caption_object, PLACEHOLDER, background, self.concept_vocabulary, language=language)
        corner = self._make_mask(PLACEHOLDER.boxes)
        latents = self._denoise(say(position="top left"), image_latents=self.noise, mask=torch.ones_like(corner))
        return self._denoise(say(position="bottom right"), image_latents=latents, mask=corner)

    def _inpaint_object(
        self, latents: Tensor, scene_object: SceneObject, box: Box, mask: Tensor, background: str | None, language: str
    ) -> Tensor:
        """Denoise an object of the usual size in its box, as far as that is free."""
        text = caption_object(
            scene_object, background, self.concept_vocabulary, language=language, position=box.position
        )
        return self._denoise(text, image_latents=latents, mask=mask)

    def _composite_object(self, latents: Tensor, scene_object: SceneObject, box: Box, language: str) -> Tensor:
        """Draw an object of the usual size by itself, and lay it over the picture at the size of its box."""
        ink, cover = self._extract_matte(scene_object, language)
        picture = self._decode_pixels(latents)
        rows, columns = self._get_box_slices(box, picture)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        ink, cover = (
            interpolate(each, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            for each in (ink, cover)
        )
        picture[..., rows, columns] = (ink + (1 - cover) * picture[..., rows, columns]).clamp(0, 1)
        return torch.lerp(latents, self._encode_pixels(picture), self._make_mask([box]))

    def _extract_matte(self, scene_object: SceneObject, language: str) -> tuple[Tensor, Tensor]:
        """An object's colour times its coverage (1, 3, h, w), and its coverage (1, 1, h, w)."""
        box = get_position_box("center")
        on, empty = {}, {}
        for background in (WHITE_BACKGROUND, BLACK_BACKGROUND):
            plate = self.background_latents(background, language)
            drawn = self._inpaint_object(plate, scene_object, box, self._make_mask([box]), background, language)
            on[background], empty[background] = self._decode_pixels(drawn), self._decode_pixels(plate)
        # triangulation matting (Smith & Blinn 1996, Eq. 4): what shows the background's difference is not the object
        difference = empty[WHITE_BACKGROUND] - empty[BLACK_BACKGROUND]
        shown = ((on[WHITE_BACKGROUND] - on[BLACK_BACKGROUND]) * difference).sum(
            1, keepdim=True
        ) / difference.square().sum(1, keepdim=True)
        cover = (1 - shown - ALPHA_LOW).div(ALPHA_HIGH - ALPHA_LOW).clamp(0, 1)
        ink = torch.lerp(
            on[BLACK_BACKGROUND] - (1 - cover) * empty[BLACK_BACKGROUND], on[BLACK_BACKGROUND] * cover, cover
        ).clamp(0, 1)
        rows, columns = self._get_box_slices(box, cover)
        return ink[..., rows, columns], cover[..., rows, columns]

    def _make_mask(self, boxes: Any) -> Tensor:
        """1 where any of the boxes is: (Y, X) of the latents."""
        free = torch.zeros(self.noise.shape[-2:], device=self.noise.device)
        for box in boxes:
            rows, columns = self._get_box_slices(box, free)
            free[rows, columns] = 1
        return free

    @staticmethod
    def _get_box_slices(box: Box, tensor: Tensor) -> tuple[slice, slice]:
        """The rows and columns of a box in a tensor (..., Y, X)."""
        rows, columns = tensor.shape[-2:]
        return (
            slice(round(box.y * rows / GRID_SIZE), round((box.y + box.side) * rows / GRID_SIZE)),
            slice(round(box.x * columns / GRID_SIZE), round((box.x + box.side) * columns / GRID_SIZE)),
        )

    def _decode_pixels(self, latents: Tensor) -> Tensor:
        """Pixels (1, 3, H, W) on [0, 1]."""
        return (decode_latents(self.pipe.vae, latents).float() / 2 + 0.5).clamp(0, 1)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        vae = self.pipe.vae
        return vae.encode((2 * pixels - 1).to(vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor

    def _denoise(self, prompt: str, *, image_latents: Tensor, mask: Tensor) -> Tensor:
        """Denoise from the noise where `free` is 1; elsewhere every step is tied to `start`."""
        pipe = self.pipe
        steps = pipe._set_sampling_params(self.num_inference_steps, self.guidance_scale, 0.0)
        states = pipe._encode_prompts(prompt, None, dict.fromkeys(PROMPT_EMBED_NAMES), num_images_per_prompt=1)
        timesteps = set_timesteps(pipe.scheduler, steps, device=self.noise.device)

        def tie(step: int, timestep: Tensor, latents: Tensor, text: Any) -> tuple[Tensor, Any]:
            after = timesteps[step + 1 : step + 2]
            there = pipe.scheduler.add_noise(image_latents, self.noise, after) if len(after) else image_latents
            return torch.lerp(there.to(latents), latents, mask), text

        rows, columns = self.noise.shape[-2:]
        size_px = (rows * pipe.vae_scale_factor, columns * pipe.vae_scale_factor)
        meta = (*size_px, *size_px, 0, 0)
        latents = pipe._denoise(
            self.noise * pipe.scheduler.init_noise_sigma,
            timesteps,
            states,
            extra_step_kwargs=prepare_extra_step_kwargs(pipe.scheduler, eta=0.0, generator=None),
            step_callback=tie,
            precompute=partial(
                precompute_conditioning, pipe.transformer, latent_size=(rows, columns), image_meta_size=meta
            ),
            predict=partial(predict_model_output, pipe.transformer),
        )
        pipe.maybe_free_model_hooks()
        return latents


Instance = tuple[str, str | None, Box]


def _find_unchanged(shared: set[Instance], removed: set[Instance]) -> set[Instance]:
    """Those that nothing has lain over which is taken away now; the others are drawn again, as they were."""
    return {look for look in shared if not any(look[2].count_shared_cells(other[2]) for other in removed)}


def _get_instances(scene: Scene) -> set[Instance]:
    return {(thing.name, thing.colour, box) for thing in scene.objects for box in thing.boxes}
