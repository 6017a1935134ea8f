"""A click to a mask by Segment Anything, version 1 or 2, from any local folder or Hub id.

H height, W width; pictures are uint8 (H, W, 3), masks bool (H, W).
Source: SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714), by transformers.
"""

from collections.abc import Sequence
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from transformers import AutoModelForMaskGeneration

from dianjing.pipelines.segmentation.base import Point, check_points

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as both versions were trained


class SamSegmenter:
    """A `Segmenter`: the picture is embedded once, then each click takes the decoder alone."""

    def __init__(self, model: nn.Module):
        self.model = model.eval()  # also one that was just made, which would drop at random
        self.side_px = int(model.config.prompt_encoder_config.image_size)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike, *, device: str | torch.device = "cpu") -> "SamSegmenter":
        """Weights as transformers saves them; safetensors only.

        Raises: ValueError where there are none.
        """
        try:
            model = AutoModelForMaskGeneration.from_pretrained(folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} holds no SAM or SAM 2 that transformers can load: {error}") from None
        return cls(model.to(device))

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        # version 1 keeps the shape and fills up below or on the right; version 2 squeezes
        keeps_shape = self.model.config.model_type == "sam"
        across, down = (
            (self.side_px / max(height, width),) * 2 if keeps_shape else (self.side_px / width, self.side_px / height)
        )
        self.image_size, self.resized_size = (height, width), (round(height * down), round(width * across))
        self.scale = torch.tensor([across, down])
        small = Image.fromarray(image).resize(self.resized_size[::-1], Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]
        pixels = pad(pixels, (0, self.side_px - self.resized_size[1], 0, self.side_px - self.resized_size[0]))[None]
        self.image_embeddings = self.model.get_image_embeddings(pixels.to(self.model.device, self.model.dtype))

    @torch.no_grad()
    def predict(self, points: Sequence[Point]) -> np.ndarray:
        """bool (H, W)"""
        points = check_points(points, width=self.image_size[1], height=self.image_size[0])
        places = torch.tensor([[point.x, point.y] for point in points]) * self.scale
        labels = torch.tensor([int(point.positive) for point in points])
        device = self.model.device
        seen = self.model(
            image_embeddings=self.image_embeddings,
            input_points=places[None, None].to(device, self.model.dtype),
            input_labels=labels[None, None].to(device),
            multimask_output=len(points) == 1,  # one click may mean a part or the whole
        )
        best = int(seen.iou_scores[0, 0].argmax())
        return self._resize_logits(seen.pred_masks[0, 0, best].float()) > 0

    def _resize_logits(self, logits: Tensor) -> np.ndarray:
        whole = interpolate(logits[None, None], (self.side_px, self.side_px), mode="bilinear", align_corners=False)
        shown = whole[..., : self.resized_size[0], : self.resized_size[1]]
        return interpolate(shown, self.image_size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
