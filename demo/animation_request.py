"""The request for a video of an image in which regions move."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from PIL import Image
from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.video_request_base import VideoRequestBase, make_work
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.media.crop import choose_size, list_default_sizes
from dianjing.pipelines.media.image import check_image_with_alpha
from dianjing.pipelines.prompting.motion_prompt import parse_moving_subjects
from dianjing.pipelines.segmentation.base import MAX_WARPED_REGIONS, Region, check_region
from dianjing.pipelines.validation import Refine, check_prompt, check_refine
from dianjing.pipelines.video.published_models import VideoTask
from dianjing.pipelines.video.warped_image import choose_warped_size
from dianjing.pipelines.video.windows import plan_image_to_video_runs


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageToVideoRequest(VideoRequestBase):
    """A request to animate a PIL image, which is kept as RGB, or RGBA if it has transparent parts.

    What moves are its regions, whose points are in pixels of the image; without regions it is found from the prompt.
    `refine` is that of `ImageToVideoPipeline`; with defaults filled in it is "on" or "off". `strict_background` is that
    of `MotionGuide`, for published models; other models know no free background.
    """

    kind: ClassVar[str] = "animation"
    task: ClassVar[VideoTask] = "image-to-video"

    image: Image.Image
    regions: Sequence[Region] = ()
    prompt: str = ""
    refine: Refine = "auto"
    strict_background: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt:
            check_prompt(self.prompt)
        object.__setattr__(self, "image", check_image_with_alpha(self.image))
        object.__setattr__(self, "regions", tuple(self.regions))
        if not self.regions and not self.prompt:
            raise DianjingError("regions_missing")
        for region in self.regions:
            check_region(region, size=self.image.size)
        check_refine(self.refine)
        if self.refine == "on" and any(region.needs_warp for region in self.regions):
            raise DianjingError("refine_with_paths")
        if self.is_transparent:
            self._check_transparent()
        if not self.strict_background and self.video_model is None:
            raise DianjingError("free_background_unsupported")

    def _check_transparent(self) -> None:
        if self.refine == "on":
            raise DianjingError("transparent_refined")
        if self.regions and all(region.target == "image" for region in self.regions):
            raise DianjingError("transparent_without_region")

    @property
    def is_refined(self) -> bool:
        """True if the model generates the frames; else its motion field moves the image at its own size."""
        return self.refine != "off"

    @property
    def _moves_by_paths_alone(self) -> bool:
        return bool(self.regions) and not any(region.motion for region in self.regions)

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        if self.video_model is not None:
            if self.refine != "auto":
                capabilities.find_video_model(self.video_model, self.task).refuse_option("refine")
            request = self.with_published_defaults(capabilities, self.image.size)
            if self.regions:
                request._check_motion(MAX_WARPED_REGIONS)
            return request
        if self.refine == "auto":
            return self._resolve_refine(capabilities).with_defaults(capabilities)
        request = super().with_defaults(capabilities)
        if not capabilities.can_animate:
            raise DianjingError("model_cannot_animate", model=capabilities.model)
        if not (self.is_refined or capabilities.has_flow_field) and not self._moves_by_paths_alone:
            raise DianjingError("model_without_flow_field")
        if not self.regions:
            parse_moving_subjects(capabilities.motion_parser, self.prompt)
        request._check_motion(capabilities.max_regions if self.is_refined else MAX_WARPED_REGIONS)
        return request

    def _check_motion(self, max_regions: int) -> None:
        """Raise DianjingError for too many regions, and for a video of one frame."""
        if len(self.regions) > max_regions:
            raise DianjingError("region_count_out_of_range", count=len(self.regions), maximum=max_regions)
        assert self.num_frames is not None
        if self.num_frames < 2:
            raise DianjingError("motion_needs_frames", num_frames=self.num_frames)

    def _resolve_refine(self, capabilities: ModelCapabilities) -> Self:
        """Decide now what "auto" is, by the pipeline's own rule: the sides that are filled in would change it."""
        if self.is_transparent:
            is_refined = False
        elif capabilities.should_refine is None:
            is_refined = not any(region.needs_warp for region in self.regions)
        else:
            is_refined = capabilities.should_refine(self.image, self.regions, height=self.height, width=self.width)
        return replace(self, refine="on" if is_refined else "off")

    def _choose_size(self, capabilities: ModelCapabilities) -> dict[str, Any]:
        """Width and height in px; a side that is left out follows the aspect ratio of the image."""
        if self.is_refined:
            width, height = choose_size(
                self.image.size,
                base_px=capabilities.default_size_px,
                multiple_px=capabilities.size_multiple_px,
                width=self.width,
                height=self.height,
            )
        else:
            width, height = choose_warped_size(self.image.size, width=self.width, height=self.height)
        return {"width": width, "height": height}

    def _get_size_multiple_px(self, capabilities: ModelCapabilities) -> int:
        return super()._get_size_multiple_px(capabilities) if self.is_refined else 1

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        """Warnings before the run; the sizes that follow the aspect ratio of an image need none."""
        if self.video_model is not None or not self.is_refined:
            return []
        sizes = list_default_sizes(base_px=capabilities.default_size_px, multiple_px=capabilities.size_multiple_px)
        return [] if self.get_size(capabilities) in sizes else super().list_warnings(capabilities)

    def _get_default_params(self, capabilities: ModelCapabilities) -> tuple[int, float]:
        return capabilities.continuation_params

    def get_pipeline_params(self) -> dict[str, Any]:
        return super().get_pipeline_params() | {"refine": self.refine}

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs; none if the image itself is moved, or by a published model."""
        if self.video_model is not None or not self.is_refined:
            return []
        assert self.num_inference_steps is not None
        assert self.num_frames is not None
        assert capabilities.num_frames is not None
        runs = plan_image_to_video_runs(
            num_frames=self.num_frames,
            window_size=capabilities.num_frames,
            num_steps=self.num_inference_steps,
            has_flow_field=capabilities.has_flow_field,
        )
        return [make_work(run, self.guidance_scale, capabilities) for run in runs]
