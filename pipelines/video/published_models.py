"""Published video models: the table of diffusers' pipelines that generate them, and the sizes and lengths each takes.

Read from configurations alone, without torch, so that what a model cannot do is refused before its weights load.
Sizes are (width, height) in px.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.media.crop import choose_size
from dianjing.weights.manifest import read_config_json
from dianjing.weights.registry import Size, get_model_info
from dianjing.weights.resolve import resolve_local_model

VideoTask = Literal["text-to-video", "image-to-video"]
PIPELINE_SIZE_MULTIPLE_PX = 16  # what every one of the pipelines asks for, whatever its autoencoder
DEFAULT_ASPECT = (16, 9)


@dataclass(frozen=True, kw_only=True)
class PublishedPipeline:
    """One pipeline class of diffusers, with what differs between them.

    default_size: None where the pipeline chooses from a list, by the shape of the image. has_linspace_sigmas: passes
    its scheduler sigmas of its own, from 1 in equal parts, not only a number of steps. initial_image_fraction: of the
    image's latents that it adds to the initial ones. guidance: where the guidance scale is set. vae_dtype: None for
    that of the other components. The latents of all are (B, C, F, Y, X), unpacked, and the first frame stands alone.
    """

    class_name: str
    task: VideoTask
    default_num_frames: int
    default_fps: float
    default_size: Size | None
    default_num_inference_steps: int = 50
    default_guidance_scale: float = 6.0
    spatial_key: str
    temporal_key: str
    has_linspace_sigmas: bool
    initial_image_fraction: float = 0.0
    guidance: Literal["argument", "guider"] = "argument"
    takes_negative_prompt: bool = True
    vae_dtype: str | None = None


_HUNYUAN: dict[str, Any] = {
    "default_num_frames": 129,
    "default_fps": 24.0,
    "default_size": (1280, 720),
    "spatial_key": "spatial_compression_ratio",
    "temporal_key": "temporal_compression_ratio",
    "has_linspace_sigmas": True,
    "takes_negative_prompt": False,  # guidance is distilled into the model
}
_HUNYUAN_15 = _HUNYUAN | {
    "default_num_frames": 121,
    "default_size": None,
    "guidance": "guider",
    "takes_negative_prompt": True,
}
_WAN: dict[str, Any] = {
    "default_num_frames": 81,
    "default_fps": 16.0,
    "default_size": (832, 480),
    "default_guidance_scale": 5.0,
    "spatial_key": "scale_factor_spatial",
    "temporal_key": "scale_factor_temporal",
    "has_linspace_sigmas": False,
    "vae_dtype": "float32",  # in bfloat16 its frames show bands
}
PUBLISHED_PIPELINES = {
    pipeline.class_name: pipeline
    for pipeline in (
        PublishedPipeline(class_name="HunyuanVideoPipeline", task="text-to-video", **_HUNYUAN),
        PublishedPipeline(
            class_name="HunyuanVideoImageToVideoPipeline",
            task="image-to-video",
            initial_image_fraction=0.001,
            default_guidance_scale=1.0,
            **_HUNYUAN,
        ),
        PublishedPipeline(class_name="HunyuanVideo15Pipeline", task="text-to-video", **_HUNYUAN_15),
        PublishedPipeline(class_name="HunyuanVideo15ImageToVideoPipeline", task="image-to-video", **_HUNYUAN_15),
        PublishedPipeline(class_name="WanPipeline", task="text-to-video", **_WAN),
        PublishedPipeline(class_name="WanImageToVideoPipeline", task="image-to-video", **_WAN),
    )
}
# the default compression of an autoencoder whose configuration is older than the key
DEFAULT_COMPRESSION = {"spatial": 8, "temporal": 4}


def find_pipeline_class(name_or_path: str | PathLike) -> str | None:
    """Name the pipeline class of a registered or local model if diffusers generates its videos, else None.

    Uses no network: None also for a hub id that is neither registered nor local. Raises: WeightsError.
    """
    info = get_model_info(str(name_or_path))
    if info is not None and info.pipeline_class is not None:
        return info.pipeline_class
    folder = resolve_local_model(name_or_path)
    return None if folder is None else read_pipeline_class(folder)


def read_pipeline_class(folder: Path) -> str | None:
    """Name the pipeline class in a folder's `model_index.json` if it is one of the table, else None."""
    path = folder / "model_index.json"
    class_name = read_config_json(path).get("_class_name") if path.is_file() else None
    return class_name if class_name in PUBLISHED_PIPELINES else None


@dataclass(frozen=True, kw_only=True)
class PublishedModel:
    """A published video model in a folder, as its configurations describe it.

    spatial_factor, temporal_factor: px and frames per latent. num_extra_frames: frames that the pipeline generates
    before the first and drops. max_latents: the longest side and length in patches that the positions reach; None: any.
    fixed_sizes: all the sizes that it generates; empty: any multiple of size_multiple_px. transformer_part: the folder
    of its transformer, or of one of two.
    """

    name: str
    folder: Path
    pipeline: PublishedPipeline
    spatial_factor: int
    temporal_factor: int
    size_multiple_px: int
    default_fps: float
    default_size: Size | None
    num_extra_frames: int = 0
    max_latents: int | None = None
    fixed_sizes: tuple[Size, ...] = ()
    transformer_part: str = "transformer"

    @classmethod
    def from_folder(cls, name: str, folder: Path, task: VideoTask) -> "PublishedModel":
        """Read a folder. Raises: DianjingError for a model of another task; WeightsError for a broken folder."""
        index = read_config_json(folder / "model_index.json")
        pipeline = _select_pipeline(name, index, task)
        vae = read_config_json(folder / "vae" / "config.json")
        part = "transformer" if (folder / "transformer").is_dir() else "transformer_2"
        transformer = read_config_json(folder / part / "config.json")
        spatial = vae.get(pipeline.spatial_key, DEFAULT_COMPRESSION["spatial"])
        patch_size = transformer.get("patch_size", 1)
        patch_px = spatial * (patch_size if isinstance(patch_size, int) else patch_size[-1])
        info = get_model_info(name)
        fixed_sizes: tuple[Size, ...] = ()
        if pipeline.guidance == "guider":
            fixed_sizes = _list_fixed_sizes(transformer["target_size"], spatial)
        has_own_size = info is not None and info.trained_sizes
        return cls(
            name=name,
            folder=folder,
            pipeline=pipeline,
            spatial_factor=spatial,
            temporal_factor=vae.get(pipeline.temporal_key, DEFAULT_COMPRESSION["temporal"]),
            size_multiple_px=math.lcm(patch_px, PIPELINE_SIZE_MULTIPLE_PX if pipeline.default_size else 1),
            default_fps=24.0 if index.get("expand_timesteps") else pipeline.default_fps,
            default_size=info.trained_sizes[0] if info is not None and has_own_size else pipeline.default_size,
            num_extra_frames=4 if transformer.get("image_condition_type") == "latent_concat" else 0,
            max_latents=transformer.get("rope_max_seq_len"),
            fixed_sizes=fixed_sizes,
            transformer_part=part,
        )

    @property
    def takes_image(self) -> bool:
        return self.pipeline.task == "image-to-video"

    def resolve_num_frames(self, num_frames: int | None, duration_s: float | None, fps: float | None) -> int:
        """Resolve the number of frames: checked if given as such, and the nearest possible one to a duration.

        Raises: DianjingError for a number or a duration that the model does not generate, with the nearest one.
        """
        checked_fps = validation.check_fps(self.default_fps if fps is None else fps)
        size = self.default_size or max(self.fixed_sizes, default=(1, 1))
        resolved = validation.check_num_frames(
            num_frames, duration_s, checked_fps, bytes_per_frame=3 * 4 * size[0] * size[1]
        )
        if resolved is None:
            return self.pipeline.default_num_frames
        nearest = self._get_nearest_num_frames(resolved)
        is_reached = min(abs(count - resolved) for count in nearest) < self.temporal_factor
        if not is_reached or (num_frames is not None and resolved not in nearest):
            raise DianjingError(
                "video_frames_unsupported",
                model=self.name,
                num_frames=resolved,
                multiple=self.temporal_factor,
                nearest=nearest,
            )
        return min(nearest, key=lambda count: abs(count - resolved))

    def _get_nearest_num_frames(self, num_frames: int) -> list[int]:
        factor = self.temporal_factor
        maximum = self.max_latents - 1 if self.max_latents is not None else num_frames // factor + 1
        below = min(max(0, (num_frames - 1) // factor), maximum)
        above = min(max(0, -(-(num_frames - 1) // factor)), maximum)
        return sorted({below * factor + 1, above * factor + 1})

    def resolve_size(self, width: int | None, height: int | None, image_size: Size | None = None) -> Size | None:
        """Resolve the size of a video; None leaves it to the pipeline. An image sets the aspect ratio.

        Raises: DianjingError for a size that the model does not generate, with the nearest that it does.
        """
        if width is None and height is None and image_size is None:
            return self.default_size if not self.fixed_sizes else None
        aspect = image_size or self.default_size or DEFAULT_ASPECT
        if self.takes_image and self.fixed_sizes:
            return self._resolve_fixed_size(width, height, aspect)
        size = self._choose_size(width, height, aspect)
        nearest = self._round_side(size[0]), self._round_side(size[1])
        if size != nearest and (width, height) != (None, None):
            self._refuse_size(size, nearest)
        return nearest

    def choose_default_size(self) -> Size:
        """The size of a text's video that the pipeline chooses itself: the widest screen's, 16 by 9."""
        return self._choose_size(None, None, DEFAULT_ASPECT)

    def _choose_size(self, width: int | None, height: int | None, aspect: Size) -> Size:
        area = math.prod(self.default_size or _get_squarest_size(self.fixed_sizes))
        base_px = max(self.size_multiple_px, round(math.sqrt(area)))
        return choose_size(aspect, base_px=base_px, multiple_px=self.size_multiple_px, width=width, height=height)

    def _resolve_fixed_size(self, width: int | None, height: int | None, aspect: Size) -> Size:
        if width is not None and height is not None:
            aspect = width, height
        matches = [size for size in self.fixed_sizes if width in (None, size[0]) and height in (None, size[1])]
        nearest = min(
            matches or self.fixed_sizes, key=lambda size: abs(math.log(size[0] * aspect[1] / size[1] / aspect[0]))
        )
        if not matches:
            self._refuse_size((width, height), nearest)
        return nearest

    def _round_side(self, side_px: int) -> int:
        multiple = self.size_multiple_px
        maximum = validation.MAX_SIDE_PX
        if self.max_latents is not None:
            maximum = min(maximum, self.max_latents * multiple)
        return min(max(multiple, round(side_px / multiple) * multiple), maximum // multiple * multiple)

    def _refuse_size(self, size: Sequence[int | None], nearest: Size) -> None:
        requested = "x".join("?" if side is None else str(side) for side in size)
        nearest_text = "x".join(map(str, nearest))
        raise DianjingError("video_size_unsupported", model=self.name, size=requested, nearest=nearest_text)

    def refuse_option(self, option: str) -> None:
        """Raise DianjingError for an option that the model's pipeline does not have."""
        raise DianjingError(
            "published_option_unsupported", option=option, model=self.name, pipeline=self.pipeline.class_name
        )


def _select_pipeline(name: str, index: dict[str, Any], task: VideoTask) -> PublishedPipeline:
    """Select the pipeline of a task; a model with a time for every token generates from texts and from images."""
    pipeline = PUBLISHED_PIPELINES[index["_class_name"]]
    if pipeline.task != task and index.get("expand_timesteps"):
        return next(each for each in PUBLISHED_PIPELINES.values() if each.task == task and "Wan" in each.class_name)
    check_task(name, pipeline, task)
    return pipeline


def check_task(name: str, pipeline: PublishedPipeline, task: VideoTask) -> None:
    """Raise DianjingError for a model of another task."""
    if pipeline.task == task:
        return
    if task == "text-to-video":
        raise DianjingError("published_model_needs_image", model=name)
    raise DianjingError("published_model_without_image", model=name)


def _list_fixed_sizes(target_size: int, spatial_factor: int) -> tuple[Size, ...]:
    """List the sizes of images for which HunyuanVideo-1.5 chooses the same size, by diffusers' own functions."""
    import numpy as np
    from diffusers.pipelines.hunyuan_video1_5.image_processor import generate_crop_size_list, get_closest_ratio

    sizes = generate_crop_size_list(target_size, spatial_factor)  # (height, width)
    ratios = np.array([round(height / width, 5) for height, width in sizes])
    chosen = [(size, get_closest_ratio(*size, ratios, sizes)[0]) for size in sizes]
    return tuple((width, height) for (height, width), choice in chosen if choice == (height, width))


def _get_squarest_size(sizes: Sequence[Size]) -> Size:
    """The size that is most like a square."""
    return min(sizes, key=lambda size: abs(size[0] - size[1]))
