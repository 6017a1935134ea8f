"""Control images and pictures of `dianjing image`: checked without torch, then loaded with the pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dianjing.cli.loading import load_pipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.image_conditions import (
    ControlInput,
    PictureInput,
    describe_conditions,
    make_control_arguments,
    parse_controlnets,
    parse_controls,
    parse_pictures,
    parse_preprocessors,
)
from dianjing.pipelines.media.metadata import compute_file_sha256
from dianjing.pipelines.named_adapters import NamedAdapter
from dianjing.weights.controlnet_files import check_controlnet_fits
from dianjing.weights.ip_adapter_files import check_ip_adapter_path, find_image_encoder


@dataclass(frozen=True, kw_only=True)
class ImageConditionOptions:
    """The options for control images and pictures, as they are typed."""

    controlnets: Sequence[str] = ()
    controls: Sequence[str] = ()
    controls_from: Sequence[str] = ()
    preprocessors: Sequence[str] = ()
    ip_adapter: str | None = None
    ip_adapter_images: Sequence[str] = ()
    ip_adapter_encoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageConditions:
    """Checked control images and pictures of a run.

    controlnet_paths: of each control. preprocessor_folders: of models, by the preprocessor's name.
    """

    controls: Sequence[ControlInput] = ()
    controlnet_paths: Sequence[str] = ()
    preprocessor_folders: dict[str, str] = field(default_factory=dict)
    ip_adapter: str | None = None
    ip_adapter_encoder: str | None = None
    pictures: Sequence[PictureInput] = ()

    def describe(self) -> dict[str, object]:
        """Settings of generation metadata."""
        settings = describe_conditions(self.controls, self.pictures)
        if self.ip_adapter is not None and Path(self.ip_adapter).is_file():
            settings["ip_adapter"] = {"sha256": compute_file_sha256(self.ip_adapter)}
        return settings


def validate_image_conditions(
    options: ImageConditionOptions, *, model: str, model_folder: Path | None
) -> ImageConditions:
    """Check the options and open the images. Raises: DianjingError."""
    controlnets = parse_controlnets(options.controlnets)
    folders = parse_preprocessors(options.preprocessors)
    controls, paths = parse_controls(
        options.controls, options.controls_from, controlnets=controlnets, preprocessor_folders=folders, model=model
    )
    unused = [name for name in controlnets if name not in paths]
    if unused:
        raise DianjingError("controlnet_without_control", names=unused)
    if model_folder is not None:
        for path in paths.values():
            check_controlnet_fits(path, model_folder)
    if (options.ip_adapter is None) != (not options.ip_adapter_images):
        raise DianjingError("ip_adapter_and_pictures")
    if options.ip_adapter is not None:
        check_ip_adapter_path(options.ip_adapter)
    if options.ip_adapter_encoder is not None:
        find_image_encoder(options.ip_adapter_encoder, weights=None)
    return ImageConditions(
        controls=controls,
        controlnet_paths=[paths[control.controlnet or ""] for control in controls],
        preprocessor_folders=folders,
        ip_adapter=options.ip_adapter,
        ip_adapter_encoder=options.ip_adapter_encoder,
        pictures=parse_pictures(options.ip_adapter_images),
    )


def load_conditioned_pipeline(
    class_name: str,
    conditions: ImageConditions,
    *,
    model: str,
    device: str,
    dtype: str,
    adapters: Sequence[NamedAdapter],
    scheduler: str | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Load the pipeline with ControlNets and IP-Adapter, and make the arguments of its calls.

    Raises: DianjingError for weights that do not load or do not fit.
    """
    options: dict[str, Any] = {}
    if conditions.controls:
        options["controlnet"] = list(conditions.controlnet_paths)
    if conditions.ip_adapter is not None and Path(conditions.ip_adapter).exists():
        from dianjing.weights.formats.ip_adapter import check_ip_adapter_names
        from dianjing.weights.ip_adapter_files import find_ip_adapter

        check_ip_adapter_names(find_ip_adapter(conditions.ip_adapter))
    pipe = load_pipeline(
        class_name, model=model, device=device, dtype=dtype, adapters=adapters, scheduler=scheduler, **options
    )
    arguments: dict[str, Any] = {}
    if conditions.controls:
        from dianjing.pipelines.control_maps import load_preprocessor

        names = {each.preprocessor for each in conditions.controls if each.preprocessor is not None}
        folders = conditions.preprocessor_folders
        makers = {name: load_preprocessor(name, folder=folders.get(name), device=str(pipe.device)) for name in names}
        arguments |= make_control_arguments(conditions.controls, makers)
    if conditions.ip_adapter is not None:
        pictures = conditions.pictures
        encoder = conditions.ip_adapter_encoder
        folder = {} if encoder is None else {"image_encoder_folder": encoder}
        pipe.load_ip_adapter([conditions.ip_adapter] * len(pictures), **folder)
        pipe.set_ip_adapter_scale([picture.scale for picture in pictures])
        arguments["ip_adapter_image"] = [picture.image for picture in pictures]
    return pipe, arguments
