"""ControlNets, preprocessors and the IP-Adapter of a server: loaded once from paths that its operator named."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from diffusers import HunyuanDiT2DControlNetModel

from dianjing.demo.requests import TextToImageRequest
from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import MODEL_PREPROCESSORS, PREPROCESSORS, load_preprocessor
from dianjing.pipelines.controlnet import check_controlnet, combine_controlnets
from dianjing.pipelines.image_conditions import describe_conditions, make_control_arguments
from dianjing.pipelines.text_to_image import TextToImagePipeline


class ImageConditioner:
    """Control images and pictures of requests, on pipelines over the components of `text_to_image`.

    controlnets and preprocessors: paths by name; preprocessors without a model need none. ip_adapter: of the weights.
    Raises: DianjingError for weights that do not load or belong to another model.
    """

    def __init__(
        self,
        text_to_image: TextToImagePipeline,
        *,
        controlnets: Mapping[str, str] = MappingProxyType({}),
        preprocessors: Mapping[str, str] = MappingProxyType({}),
        ip_adapter: str | None = None,
        ip_adapter_encoder: str | None = None,
    ):
        self.controlnets = {name: _load_controlnet(path, text_to_image) for name, path in controlnets.items()}
        names = [name for name in PREPROCESSORS if name not in MODEL_PREPROCESSORS or name in preprocessors]
        device = str(text_to_image.device)
        self.preprocessors = {
            name: load_preprocessor(name, folder=preprocessors.get(name), device=device) for name in names
        }
        self.ip_adapter: Any = None
        self.pipe = TextToImagePipeline.from_pipe(text_to_image)
        if ip_adapter is not None:
            folder = {} if ip_adapter_encoder is None else {"image_encoder_folder": ip_adapter_encoder}
            self.pipe.load_ip_adapter(ip_adapter, **folder)
            if self.pipe.image_encoder is None:
                raise DianjingError("image_encoder_missing")
            self.ip_adapter = self.pipe._ip_adapters[0]

    @property
    def num_control_layers(self) -> int:
        """Blocks of the largest ControlNet."""
        return max((len(net.blocks) for net in self.controlnets.values()), default=0)

    def prepare(self, request: TextToImageRequest, pipe: Any = None) -> tuple[dict[str, Any], dict[str, object]]:
        """Make a pipeline ready for a request: its arguments, and the metadata of what the request names.

        pipe: one over the same components; None for that of text to image.
        """
        pipe = self.pipe if pipe is None else pipe
        nets = [self.controlnets[control.controlnet] for control in request.controls if control.controlnet is not None]
        pipe.register_modules(controlnet=combine_controlnets(nets) if nets else None)
        arguments = make_control_arguments(request.controls, self.preprocessors)
        if request.pictures:
            pipe.register_modules(image_encoder=self.pipe.image_encoder, feature_extractor=self.pipe.feature_extractor)
            pipe.load_ip_adapter([self.ip_adapter] * len(request.pictures), image_encoder_folder=None)
            pipe.set_ip_adapter_scale([picture.scale for picture in request.pictures])
            arguments["ip_adapter_image"] = [picture.image for picture in request.pictures]
        return arguments, describe_conditions(request.controls, request.pictures)


def _load_controlnet(path: str, text_to_image: TextToImagePipeline) -> Any:
    """Load a ControlNet onto the device of a pipeline. Raises: DianjingError."""
    try:
        controlnet = HunyuanDiT2DControlNetModel.from_pretrained(path, dtype=text_to_image.dtype, use_safetensors=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DianjingError("controlnet_not_loadable", path=path, reason=reason) from None
    check_controlnet(controlnet, text_to_image.transformer)
    return controlnet.to(text_to_image.device).eval()
