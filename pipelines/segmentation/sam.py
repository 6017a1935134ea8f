"""Segmenter by Segment Anything, version 1 or 2, from any local folder or Hub id.

H height, W width; images are uint8 (H, W, 3), masks bool (H, W).
Sources: SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714), as implemented in transformers.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import AutoModelForMaskGeneration
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point, check_points

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


class SamSegmenter:
    """`Segmenter` by SAM: the image is embedded once, then each prediction takes the decoder alone.

    The image processors are those of transformers that need no torchvision. Version 1 keeps the aspect ratio and pads
    the image; version 2 resizes it to a square.
    """

    def __init__(self, model: nn.Module):
        self.model = model.eval()  # also a model that was just made, which would apply dropout
        self.side_px = int(model.config.prompt_encoder_config.image_size)
        square = {"height": self.side_px, "width": self.side_px}
        self.image_processor: Any
        if model.config.model_type == "sam":
            self.image_processor = SamImageProcessorPil(size={"longest_edge": self.side_px}, pad_size=square)
        else:
            self.image_processor = ViTImageProcessorPil(size=square, **IMAGENET)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike, *, device: str | torch.device = "cpu") -> "SamSegmenter":
        """Load weights as transformers saves them, safetensors only.

        Raises: DianjingError for a folder or Hub id without a SAM.
        """
        try:
            model = AutoModelForMaskGeneration.from_pretrained(folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise DianjingError("sam_not_loadable", folder=folder, reason=str(error).split("\n")[0]) from None
        return cls(model.to(device))

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Embed an image, uint8 (H, W, 3)."""
        inputs = self.image_processor(image, return_tensors="pt")
        self.image_size = (image.shape[0], image.shape[1])
        reshaped = inputs.get("reshaped_input_sizes")
        self.resized_size = (self.side_px, self.side_px) if reshaped is None else tuple(map(int, reshaped[0]))
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        self.image_embeddings = self.model.get_image_embeddings(pixels)

    @torch.no_grad()
    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """Predict the mask, bool (H, W), of the object at the points."""
        height, width = self.image_size
        points = check_points(points, width=width, height=height)
        scale = torch.tensor([self.resized_size[1] / width, self.resized_size[0] / height])
        positions = torch.tensor([[point.x, point.y] for point in points]) * scale
        labels = torch.tensor([int(point.positive) for point in points])
        device = self.model.device
        output = self.model(
            image_embeddings=self.image_embeddings,
            input_points=positions[None, None].to(device, self.model.dtype),
            input_labels=labels[None, None].to(device),
            multimask_output=len(points) == 1,  # one point may mean a part or the whole
        )
        best = int(output.iou_scores[0, 0].argmax())
        return self._resize_logits(output.pred_masks[0, 0, best].float()) > 0

    def _resize_logits(self, logits: Tensor) -> np.ndarray:
        """Resize mask logits to the model's input, cut the padding off, and resize the rest to the image: (H, W)."""
        padded = interpolate(logits[None, None], (self.side_px, self.side_px), mode="bilinear", align_corners=False)
        resized = padded[..., : self.resized_size[0], : self.resized_size[1]]
        return interpolate(resized, self.image_size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
