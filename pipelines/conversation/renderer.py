"""Rendering of scenes: the previous image is kept, and only the boxes of what changed are denoised.

Every background is rendered once without objects. An object is inpainted inside its box: after each step, the latents
outside the mask are replaced by the noised latents of the present image (the strength inside the box is 1). A removed
object's box is filled from the background. Small models render objects well only at the boxes they were trained on: for
any other box, an object is rendered over white and over black, its matte is computed from the two, and the scaled
object is composited onto the image.

Latents are (1, C, Y, X), of the whole image; alpha and masks are on [0, 1].
"""

from collections.abc import Iterable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dianjing.pipelines.conversation.captions import caption_object
from dianjing.pipelines.conversation.layout import get_position_box
from dianjing.pipelines.conversation.scene import GRID_SIZE, POSITIONS, Box, Scene, SceneObject
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.sampling import sample_noise
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.vae import decode_result, encode_images

PLACEHOLDER = SceneObject(name="cat", boxes=(get_position_box("top left"),))  # rendered with a background, then removed
TRAINED_BOXES = frozenset(map(get_position_box, POSITIONS))  # where small models render objects best
WHITE_BACKGROUND, BLACK_BACKGROUND = "white background", "black background"
# measured coverage that counts as 0 and as 1: generated backgrounds are not exactly white and black
ALPHA_LOW, ALPHA_HIGH = 0.15, 0.75
MIN_SQUARED_DIFFERENCE = 1e-6  # of two backgrounds; where they are equal, the object counts as opaque

Instance = tuple[str, str | None, Box]  # name and colour of an object, and one of its boxes


class SceneRenderer:
    """Renders scenes with one pipeline from one noise tensor.

    num_inference_steps, guidance_scale, slow: None for the pipeline's defaults.
    """

    def __init__(
        self,
        pipe: TextToImagePipeline,
        *,
        concept_vocabulary: ConceptVocabulary,
        seed: int,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        slow: bool | None = None,
    ):
        self.pipe: Any = pipe
        self.concept_vocabulary, self.seed = concept_vocabulary, seed
        self.sampling_arguments = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "slow": slow,
        }
        self.background_latents = cache(self._render_background)
        side = pipe.transformer.config.sample_size
        shape = (1, pipe.transformer.config.in_channels, side, side)
        generator = torch.Generator().manual_seed(seed)
        self.noise = sample_noise(shape, generator, device=torch.device("cpu")).to(pipe.execution_device)

    @torch.no_grad()
    def render(self, scene: Scene, *, language: str, previous: tuple[Scene, Tensor] | None = None) -> Tensor:
        """Return the latents (1, C, Y, X) of a scene.

        language: of the prompts. previous: scene and latents of the image that is kept where nothing changes.
        """
        latents = background_latents = self.background_latents(scene.background, language)
        instances = {(each.name, each.colour, box): each for each in scene.objects for box in each.boxes}
        unchanged: set[Instance] = set()
        if previous is not None and previous[0].background == scene.background:
            before = _get_instances(previous[0])
            unchanged = _find_unchanged(before & set(instances), before - set(instances))
            removed = self._make_mask([box for _, _, box in before - unchanged])
            restored = removed * (1 - self._make_mask([box for _, _, box in unchanged]))
            latents = torch.lerp(previous[1], background_latents, restored)
        inpainted = [instance for instance in instances if instance[2] in TRAINED_BOXES]
        new = [instance for instance in inpainted if instance not in unchanged]
        for instance in new:
            others = self._make_mask([other[2] for other in inpainted if other != instance])
            mask = self._make_mask([instance[2]]) * (1 - others)
            latents = self._inpaint_object(latents, instances[instance], instance[2], mask, scene.background, language)
        for instance in instances:
            is_covered = any(instance[2].count_shared_cells(other[2]) for other in new)
            if instance not in inpainted and (instance not in unchanged or is_covered):
                latents = self._composite_object(latents, instances[instance], instance[2], language)
        return latents

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Any:
        """Decode latents to a PIL image."""
        return self.pipe.image_processor.postprocess(decode_result(self.pipe.vae, latents), output_type="pil")[0]

    def _render_background(self, background: str | None, language: str) -> Tensor:
        """Render a background without objects.

        Models are trained on scenes with an object: the background is rendered with one in a corner, and that corner
        again with the object in another.
        """
        caption = partial(caption_object, PLACEHOLDER, background, self.concept_vocabulary, language=language)
        corner = self._make_mask(PLACEHOLDER.boxes)
        latents = self._denoise(caption(position="top left"), image_latents=self.noise, mask=torch.ones_like(corner))
        return self._denoise(caption(position="bottom right"), image_latents=latents, mask=corner)

    def _inpaint_object(
        self, latents: Tensor, scene_object: SceneObject, box: Box, mask: Tensor, background: str | None, language: str
    ) -> Tensor:
        """Denoise an object of the default size in its box, where the mask (Y, X) is 1."""
        prompt = caption_object(
            scene_object, background, self.concept_vocabulary, language=language, position=box.position
        )
        return self._denoise(prompt, image_latents=latents, mask=mask)

    def _composite_object(self, latents: Tensor, scene_object: SceneObject, box: Box, language: str) -> Tensor:
        """Render an object by itself at the default size, scale it to its box and composite it onto the image."""
        matte = self.extract_matte(scene_object, language)
        pixels = self._decode_pixels(latents)
        rows, columns = self._get_box_slices(box, pixels)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        premultiplied_rgb, alpha = (
            interpolate(each, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
            for each in matte
        )
        pixels[..., rows, columns] = (premultiplied_rgb + (1 - alpha) * pixels[..., rows, columns]).clamp(0, 1)
        return torch.lerp(latents, self._encode_pixels(pixels), self._make_mask([box]))

    def extract_matte(self, scene_object: SceneObject, language: str) -> tuple[Tensor, Tensor]:
        """Render an object of the default size over white and over black, and compute its matte from the two.

        Returns its premultiplied RGB (1, 3, h, w) and its alpha (1, 1, h, w).
        """
        box = get_position_box("center")
        filled, empty = {}, {}
        for background in (WHITE_BACKGROUND, BLACK_BACKGROUND):
            background_latents = self.background_latents(background, language)
            mask = self._make_mask([box])
            latents = self._inpaint_object(background_latents, scene_object, box, mask, background, language)
            filled[background], empty[background] = (
                self._decode_pixels(latents),
                self._decode_pixels(background_latents),
            )
        # triangulation matting (Smith & Blinn 1996, Eq. 4): 1 - alpha is the share of the backgrounds' difference that
        # is seen through the object
        difference = empty[WHITE_BACKGROUND] - empty[BLACK_BACKGROUND]
        product = (filled[WHITE_BACKGROUND] - filled[BLACK_BACKGROUND]) * difference
        squared_difference = difference.square().sum(1, keepdim=True).clamp_min(MIN_SQUARED_DIFFERENCE)
        transparency = product.sum(1, keepdim=True) / squared_difference
        alpha = (1 - transparency - ALPHA_LOW).div(ALPHA_HIGH - ALPHA_LOW).clamp(0, 1)
        on_black = filled[BLACK_BACKGROUND]
        premultiplied_rgb = torch.lerp(on_black - (1 - alpha) * empty[BLACK_BACKGROUND], on_black * alpha, alpha)
        rows, columns = self._get_box_slices(box, alpha)
        return premultiplied_rgb.clamp(0, 1)[..., rows, columns], alpha[..., rows, columns]

    def _make_mask(self, boxes: Iterable[Box]) -> Tensor:
        """Return a mask (Y, X) of the latents that is 1 inside the boxes."""
        mask = torch.zeros(self.noise.shape[-2:], device=self.noise.device)
        for box in boxes:
            rows, columns = self._get_box_slices(box, mask)
            mask[rows, columns] = 1
        return mask

    @staticmethod
    def _get_box_slices(box: Box, tensor: Tensor) -> tuple[slice, slice]:
        """Return the rows and columns of a box in a tensor (..., Y, X) of the whole image."""
        rows, columns = tensor.shape[-2:]
        return (
            slice(round(box.y * rows / GRID_SIZE), round((box.y + box.side) * rows / GRID_SIZE)),
            slice(round(box.x * columns / GRID_SIZE), round((box.x + box.side) * columns / GRID_SIZE)),
        )

    def _decode_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents to pixels (1, 3, H, W) on [0, 1]."""
        return (decode_result(self.pipe.vae, latents).float() / 2 + 0.5).clamp(0, 1)

    def _encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode pixels (1, 3, H, W) on [0, 1] to latents."""
        return encode_images(self.pipe.vae, 2 * pixels - 1).float()

    def _denoise(self, prompt: str, *, image_latents: Tensor, mask: Tensor) -> Tensor:
        """Denoise from the noise where the mask (Y, X) is 1; elsewhere the result is `image_latents`."""

        def repaint_known(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            following = pipe.scheduler.timesteps[step + 1 : step + 2]
            known = pipe.scheduler.add_noise(image_latents, self.noise, following) if len(following) else image_latents
            latents = tensors["latents"]
            return {"latents": torch.lerp(known.to(latents), latents, mask)}

        output = self.pipe(
            prompt,
            latents=self.noise,
            **self.sampling_arguments,
            original_size=tuple(side * self.pipe.vae_scale_factor for side in self.noise.shape[-2:]),
            callback_on_step_end=repaint_known,
            output_type="latent",
        )
        return output.images.float()


def _find_unchanged(shared: set[Instance], removed: set[Instance]) -> set[Instance]:
    """Return the instances that no removed instance overlapped; the others are rendered again as they were."""
    return {each for each in shared if not any(each[2].count_shared_cells(other[2]) for other in removed)}


def _get_instances(scene: Scene) -> set[Instance]:
    return {(each.name, each.colour, box) for each in scene.objects for box in each.boxes}
