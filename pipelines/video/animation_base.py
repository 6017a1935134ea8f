"""Base of pipelines that animate images: what the transformer generates, and what the motion field moves itself."""

from collections.abc import Sequence

import numpy as np
from diffusers.utils import logging
from PIL import Image

from dianjing.errors import DianjingError, Message, get_language
from dianjing.pipelines import validation
from dianjing.pipelines.media.crop import choose_size, resize_crop
from dianjing.pipelines.media.image import check_image_with_alpha
from dianjing.pipelines.segmentation.base import Region
from dianjing.pipelines.video.base import VideoPipelineBase
from dianjing.pipelines.video.phrase_flow import PhraseFlow
from dianjing.pipelines.video.refinement import can_show_image
from dianjing.pipelines.video.warped_image import WarpedImage, make_warped_image

logger = logging.get_logger(__name__)


class AnimationPipelineBase(VideoPipelineBase):
    """Base of image to video over a `DiT`: the choice between sampling and warping, and the warp."""

    def should_refine(
        self,
        image: Image.Image | np.ndarray,
        regions: Sequence[Region],
        *,
        height: int | None = None,
        width: int | None = None,
        refine: validation.Refine = "auto",
    ) -> bool:
        """Decide whether the transformer generates the frames; else the motion field moves the image itself.

        With "auto" it does if the model can generate the size of the video, which is by default that of the image, if
        the model's autoencoder shows the image with an error below MAX_AUTOENCODER_ERROR, and if every region moves by
        a phrase alone. A model without a flow field always refines phrases.
        Raises: DianjingError for paths, anchors or camera moves with "on".
        """
        validation.check_refine(refine)
        if any(region.needs_warp for region in regions):
            if refine == "on":
                raise DianjingError("refine_with_paths")
            return False
        if refine != "auto" or self.transformer.motion_conditioner.flow_field is None:
            return refine != "off"
        source, multiple_px = check_image_with_alpha(image), self.size_multiple_px
        if source.mode != "RGB" or any(side is not None and side % multiple_px for side in (height, width)):
            return False
        size = self._choose_size(source, height, width)[::-1]
        if height is None and width is None and size != source.size:
            return False
        fitted, _ = resize_crop(source, width=size[0], height=size[1])
        return can_show_image(self, fitted)

    def warp(
        self,
        image: Image.Image | np.ndarray,
        regions: Sequence[Region],
        *,
        num_frames: int | None = None,
        duration_s: float | None = None,
        fps: float | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> WarpedImage:
        """Move regions of an image by the model's motion field and by paths, without the transformer.

        The frames, uint8 (H, W, 3) or with alpha (H, W, 4), are made one by one when they are asked for. The
        arguments are those of a call; the size is by default that of the image.
        Raises: DianjingError for arguments that cannot work.
        """
        config, flow = self.config, None
        if any(region.motion for region in regions):
            flow = PhraseFlow.from_pipeline(self)
            self._warn_about_unknown_motions(regions)
        return make_warped_image(
            image,
            regions,
            num_frames=config.default_num_frames if num_frames is None and duration_s is None else num_frames,
            duration_s=duration_s,
            fps=config.default_fps if fps is None else fps,
            height=height,
            width=width,
            segmenter=self.segmenter,
            phrase_flow=flow,
        )

    def _choose_size(self, image: Image.Image, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of the video, checked; what is not given follows the aspect ratio of the image."""
        base_px, multiple_px = self.default_size_px, self.size_multiple_px
        for side, name in ((height, "height"), (width, "width")):
            if side is not None:
                validation.check_side_px(side, name, multiple_px=multiple_px)
        width, height = choose_size(image.size, base_px=base_px, multiple_px=multiple_px, width=width, height=height)
        return self._check_size(height, width)

    def _warn_about_unknown_motions(self, regions: Sequence[Region]) -> None:
        vocabulary = self.motion_vocabulary
        for region in regions:
            if vocabulary.motions and region.motion and vocabulary.find(region.motion) is None:
                message = Message("motion_not_trained", motion=repr(region.motion), known=vocabulary.list_phrases())
                logger.warning(message.render(get_language()))
