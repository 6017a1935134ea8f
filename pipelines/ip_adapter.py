"""IP-Adapter: pictures as prompts for a pipeline over `transformer`, with diffusers' methods.

B batch, P pictures of one IP-Adapter, I width of an image embedding, H height, W width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from dianjing.dit.ip_adapter import ImagePrompt, IPAdapter
from dianjing.errors import DianjingError
from dianjing.pipelines import validation
from dianjing.pipelines.sampling import SamplingPipelineBase
from dianjing.weights.formats.ip_adapter import read_ip_adapter
from dianjing.weights.ip_adapter_files import find_image_encoder, find_ip_adapter

MAX_IP_ADAPTER_SCALE = 100.0
IPAdapterSource = str | PathLike | Mapping[str, Any] | IPAdapter


@dataclass(frozen=True, kw_only=True)
class ImagePromptInput:
    """Input of one IP-Adapter in a call: pictures, or image embeddings (rows, P, I) with negative rows first."""

    adapter: IPAdapter
    scale: float
    images: Sequence[Any] = ()
    embeds: Tensor | None = None


def embed_images(image_encoder: PreTrainedModel, images: Sequence[Any]) -> Tensor:
    """Embed pictures by an image tower: unit vectors (P, I).

    Pictures are squashed to the tower's square, as Tencent's code does.
    """
    from transformers import CLIPImageProcessorPil

    config: Any = image_encoder.config
    side = getattr(config, "vision_config", config).image_size
    processor = CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)
    pixels = processor(images=list(images), return_tensors="pt").pixel_values
    parameter = next(image_encoder.parameters())
    pixels = pixels.to(parameter.device, parameter.dtype)
    if hasattr(image_encoder, "get_image_features"):
        embeds = image_encoder.get_image_features(pixel_values=pixels).pooler_output
    else:
        embeds = image_encoder(pixel_values=pixels).image_embeds
    return torch.nn.functional.normalize(embeds.float(), dim=-1)


class ImagePromptPipelineBase(SamplingPipelineBase):
    """Base of pipelines with IP-Adapters, over `transformer` and `image_encoder`.

    The methods are those of diffusers' `IPAdapterMixin`, whose module is not imported: it prints notices about image
    processors of other models.
    """

    transformer: Any
    image_encoder: PreTrainedModel | None
    _ip_adapters: Sequence[IPAdapter] = ()
    _ip_adapter_scales: Sequence[float] = ()

    def load_ip_adapter(
        self,
        pretrained_model_name_or_path_or_dict: IPAdapterSource | list[IPAdapterSource],
        subfolder: str | list[str] = "",
        weight_name: str | list[str] | None = None,
        image_encoder_folder: str | PathLike | None = "image_encoder",
        **options: Any,
    ) -> None:
        """Load IP-Adapters in Tencent's layout, in place of those that are loaded.

        pretrained_model_name_or_path_or_dict: a file (ipa.pt or .safetensors), a folder or Hub id that has one, the
        tensors, or an `IPAdapter`; several with a list. One file that is listed twice is loaded once. weight_name: the
        name of the file. image_encoder_folder: a folder of `CLIPVisionModelWithProjection` or `ChineseCLIPModel`, or
        Tencent's clip_img_encoder.pt; the default is sought in the folder of the weights. options: those of
        `hf_hub_download`.

        Raises: DianjingError for weights that are missing or do not fit, before anything changes.
        """
        sources = pretrained_model_name_or_path_or_dict
        sources = list(sources) if isinstance(sources, list | tuple) else [sources]
        subfolders, names = (_spread(value, len(sources)) for value in (subfolder, weight_name))
        adapters: list[IPAdapter] = []
        loaded: dict[Path, IPAdapter] = {}
        first_file: Path | None = None
        for source, folder, name in zip(sources, subfolders, names, strict=True):
            if isinstance(source, IPAdapter):
                adapters.append(source)
                continue
            if isinstance(source, Mapping):
                adapters.append(read_ip_adapter(source, self.transformer))
                continue
            file = find_ip_adapter(source, subfolder=folder or "", weight_name=name, **options)
            first_file = first_file or file
            if file not in loaded:
                loaded[file] = read_ip_adapter(file, self.transformer)
            adapters.append(loaded[file])
        encoder = self.image_encoder
        if encoder is None and image_encoder_folder is not None:
            from dianjing.weights.formats.clip_image_encoder import load_image_encoder

            found = find_image_encoder(image_encoder_folder, weights=first_file)
            encoder = None if found is None else load_image_encoder(found, dtype=self.transformer.dtype)
        if encoder is not None:
            _check_embed_dim(encoder, adapters)
            self.register_modules(image_encoder=encoder.to(self._execution_device))
        self._ip_adapters = [adapter.to(self.transformer.dtype) for adapter in adapters]
        self._ip_adapter_scales = [1.0] * len(adapters)

    def set_ip_adapter_scale(self, scale: float | Sequence[float]) -> None:
        """Set the strength of every IP-Adapter, or of each.

        Raises: DianjingError for a number out of range, or for another number of them than of IP-Adapters.
        """
        count = len(self._ip_adapters)
        scales = list(scale) if isinstance(scale, list | tuple) else [scale] * count
        if len(scales) != count:
            raise DianjingError("ip_adapter_scale_count", count=len(scales), num_adapters=count)
        limit = MAX_IP_ADAPTER_SCALE
        self._ip_adapter_scales = [
            validation.check_number(each, "the scale of an IP-Adapter", low=-limit, high=limit) for each in scales
        ]

    def unload_ip_adapter(self) -> None:
        """Remove all IP-Adapters and the image tower."""
        self._ip_adapters, self._ip_adapter_scales = (), ()
        self.register_modules(image_encoder=None)

    def _check_image_prompts(self, images: Any, image_embeds: Any, *, num_prompts: int) -> list[ImagePromptInput]:
        """Check the pictures, or image embeddings, of a call: one entry for each IP-Adapter; none without both.

        Raises: DianjingError for pictures without an IP-Adapter or image tower, and for entries that do not fit.
        """
        if images is None and image_embeds is None:
            return []
        if images is not None and image_embeds is not None:
            raise DianjingError("ip_adapter_image_and_embeds")
        count = len(self._ip_adapters)
        if not count:
            raise DianjingError("ip_adapter_missing")
        entries = images if images is not None else image_embeds
        entries = list(entries) if isinstance(entries, list | tuple) else [entries]
        if count == 1 and images is not None and len(entries) > 1:
            entries = [entries]
        if len(entries) != count:
            raise DianjingError("ip_adapter_image_count", count=len(entries), num_adapters=count)
        pairs = zip(self._ip_adapters, self._ip_adapter_scales, entries, strict=True)
        if images is not None:
            if self.image_encoder is None:
                raise DianjingError("image_encoder_missing")
            return [
                ImagePromptInput(adapter=adapter, scale=scale, images=_list_pictures(entry))
                for adapter, scale, entry in pairs
            ]
        num_halves = 2 if self.do_classifier_free_guidance else 1
        rows = {num_halves, num_halves * num_prompts}
        return [
            ImagePromptInput(adapter=adapter, scale=scale, embeds=_check_image_embeds(entry, adapter, rows=rows))
            for adapter, scale, entry in pairs
        ]

    def _make_image_prompts(self, inputs: Sequence[ImagePromptInput], *, batch_size: int) -> tuple[ImagePrompt, ...]:
        """Compute the keys and values of pictures, for B rows of no picture and B rows of the pictures."""
        device, dtype = self._execution_device, self.transformer.dtype
        prompts = []
        for each in inputs:
            if not each.scale:
                continue
            if each.embeds is None:
                assert self.image_encoder is not None
                embeds = embed_images(self.image_encoder, each.images).unsqueeze(0)
                negative = torch.zeros_like(embeds)  # Tencent's embedding of no picture
            elif self.do_classifier_free_guidance:
                negative, embeds = each.embeds.chunk(2)
            else:
                negative, embeds = torch.zeros_like(each.embeds), each.embeds
            rows = torch.cat([half.repeat_interleave(batch_size // len(half), dim=0) for half in (negative, embeds)])
            pairs = each.adapter.to(device)(rows.to(device, dtype))
            keys, values = (tuple(tensors) for tensors in zip(*pairs, strict=True))
            prompts.append(ImagePrompt(keys, values, each.scale))
        return tuple(prompts)


def _spread(value: Any, count: int) -> list[Any]:
    """A list of one value for each of `count` IP-Adapters. Raises: DianjingError for another number."""
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise DianjingError("ip_adapter_file_count", count=len(values), num_adapters=count)
    return values


def _check_embed_dim(encoder: PreTrainedModel, adapters: Sequence[IPAdapter]) -> None:
    """Raise DianjingError for an image tower whose embeddings an IP-Adapter does not take."""
    config: Any = encoder.config
    for adapter in adapters:
        if config.projection_dim != adapter.embed_dim:
            raise DianjingError(
                "image_encoder_width",
                width=config.projection_dim,
                class_name=type(encoder).__name__,
                expected=adapter.embed_dim,
            )


def _list_pictures(entry: Any) -> list[Any]:
    """The pictures of one IP-Adapter. Raises: DianjingError for what is no picture."""
    pictures = list(entry) if isinstance(entry, list | tuple) else [entry]
    for picture in pictures:
        if not isinstance(picture, Image.Image | np.ndarray):
            raise DianjingError("ip_adapter_image_type", type_name=type(picture).__name__)
    if not pictures:
        raise DianjingError("ip_adapter_image_type", type_name="[]")
    return [each.convert("RGB") if isinstance(each, Image.Image) else each for each in pictures]


def _check_image_embeds(embeds: Any, adapter: IPAdapter, *, rows: set[int]) -> Tensor:
    """Check image embeddings (rows, P, I). Raises: DianjingError."""
    if not isinstance(embeds, Tensor):
        raise DianjingError("ip_adapter_image_type", type_name=type(embeds).__name__)
    if embeds.ndim != 3 or len(embeds) not in rows or embeds.shape[-1] != adapter.embed_dim or not embeds.shape[1]:
        raise DianjingError(
            "ip_adapter_embeds_shape", shape=str(tuple(embeds.shape)), rows=min(rows), embed_dim=adapter.embed_dim
        )
    if not torch.isfinite(embeds).all():
        raise DianjingError("tensor_not_finite", name="ip_adapter_image_embeds")
    return embeds
