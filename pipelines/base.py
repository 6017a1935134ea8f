"""Base of all pipelines: loading from checked folders, saving, and vocabularies."""

import inspect
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from diffusers import DiffusionPipeline, HunyuanDiT2DMultiControlNetModel
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from typing_extensions import Self

from dianjing.errors import DianjingError
from dianjing.pipelines.adapters import LoRAMixin
from dianjing.pipelines.controlnet_loading import replace_controlnet_path
from dianjing.pipelines.default_adapter import DefaultAdapter
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.pipelines.prompting.motions import MOTIONS_FILE, MotionVocabulary
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE, Vocabulary
from dianjing.pipelines.schedulers import load_adapter_scheduler
from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER
from dianjing.weights.adapter_sampling import DEFAULT_ADAPTER_KEY
from dianjing.weights.manifest import WeightsError
from dianjing.weights.registry import is_bundled_folder
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

logger = logging.get_logger(__name__)
DOWNLOAD_OPTIONS = ("source", "revision", "cache_dir", "token", "force_download", "local_files_only")
REFUSED_OPTIONS = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")
# A folder names the transformer as diffusers does where diffusers can compute it; here it is always DiT.
DIFFUSERS_TRANSFORMER_CLASS = ("diffusers", "HunyuanDiT2DModel")
DIT_TRANSFORMER_CLASS = ("dianjing.dit", "DiT")
HUNYUAN_DIT_TEXT_LENGTHS = (77, 256)
# with another one of these, a bundle is another model
TEXT_TO_IMAGE_COMPONENTS = {"transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
DIFFUSERS_PIPELINES = ("HunyuanDiTPipeline", "HunyuanDiTControlNetPipeline")  # without and with a ControlNet


def is_hunyuan_dit(transformer: Any) -> bool:
    """True for a transformer that diffusers' `HunyuanDiTPipeline` can sample from: images, its lengths of texts."""
    config = transformer.config
    lengths = (config.text_len, config.text_len_t5)
    return not config.use_motion_blocks and config.learn_sigma and lengths == HUNYUAN_DIT_TEXT_LENGTHS


@contextmanager
def without_inner_progress_bars() -> Iterator[None]:
    """Show no progress bar for each text encoder beside that of the pipeline, unless diffusers' verbosity is INFO."""
    bars = transformers.utils.logging
    if logging.get_verbosity() <= logging.INFO or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


class PipelineBase(LoRAMixin, DiffusionPipeline):
    """`DiffusionPipeline` that resolves registry names, validates folders before loading, and holds vocabularies."""

    _exclude_from_cpu_offload: ClassVar[list[str]] = ["safety_checker"]
    _extra_names: ClassVar[tuple[str, ...]] = (
        "vocabulary",
        "concept_vocabulary",
        "motion_vocabulary",
        "unet_segmenter",
        "_trigger_words",
        "_adapter_sampling",
        "_is_bundled",
    )

    vocabulary: Vocabulary | None = None
    concept_vocabulary: ConceptVocabulary | None = None
    motion_vocabulary = MotionVocabulary()
    unet_segmenter: Any = None  # `UNetSegmenter`, loaded where images are segmented
    trained_scheduler: SchedulerMixin | None = None  # of the model's noise schedule and prediction type
    _folder: Path | None = None
    default_adapter: DefaultAdapter | None = None  # what images are drawn with, see `DefaultAdapterMixin`
    _is_bundled = False  # a registry bundle with its own components

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **options: Any) -> Self:
        """Load a registry name ("sticker"), a local folder or a hub id, with diffusers' options.

        source: "huggingface" or "modelscope", see `resolve_model`. controlnet: a model or the path of one, or a list of
        them. The default dtype is float32. Only safetensors are loaded, and no code that comes with weights is run.
        Raises: DianjingError for an unknown name or a refused option; WeightsError for an invalid folder.
        """
        for name in REFUSED_OPTIONS:
            if options.pop(name, None):
                raise DianjingError("option_runs_code", option=name)
        if options.pop("use_safetensors", None) is False:
            raise DianjingError("option_loads_pickles")
        options["use_safetensors"] = True
        folder = resolve_model(
            pretrained_model_name_or_path,
            variant=options.get("variant"),
            **{name: options.pop(name) for name in DOWNLOAD_OPTIONS if name in options},
        )
        if not {"dtype", "torch_dtype"} & options.keys():
            options["dtype"] = torch.float32  # transformers would load text encoders in the dtype of their files
        validate_model(folder, variant=options.get("variant"))
        dtype = options.get("dtype", options.get("torch_dtype"))
        options = replace_controlnet_path(options, dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32)
        with without_inner_progress_bars():
            pipeline = super().from_pretrained(str(folder), **options)
        settings = {name: v for name, v in cls.load_config(str(folder)).items() if name.startswith("_default_")}
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path), **settings)
        if "scheduler" in options:  # the model's own stays the one that others are checked against
            pipeline.trained_scheduler = load_adapter_scheduler(folder) or pipeline.trained_scheduler
        pipeline._folder = folder
        pipeline._is_bundled = is_bundled_folder(folder) and not TEXT_TO_IMAGE_COMPONENTS & options.keys()
        pipeline._load_extra_files(folder)
        if "transformer" not in options:
            pipeline._load_default_adapter(folder)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of this class over the components of another one, with its dtype, defaults and vocabularies.

        controlnet: a model or the path of one, or a list of them. dtype: to convert the shared components to; theirs by
        default.
        Raises: DianjingError if the components have several dtypes and none is given.
        """
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
            dtypes = sorted({str(module.dtype).removeprefix("torch.") for module in modules})
            if len(dtypes) > 1:
                raise DianjingError("several_dtypes", dtypes=dtypes)
            kwargs["dtype"] = pipeline.dtype  # diffusers would convert to float32
        kwargs = replace_controlnet_path(kwargs, dtype=kwargs.get("dtype") or kwargs["torch_dtype"])
        new = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, PipelineBase):
            new._folder, new.trained_scheduler = pipeline._folder, pipeline.trained_scheduler
            if new._folder is not None:
                new._load_extra_files(new._folder)
            if new.transformer is pipeline.transformer:
                new.default_adapter = pipeline.default_adapter
            for name in new._extra_names:
                if getattr(pipeline, name, None) is not None:
                    setattr(new, name, getattr(pipeline, name))
        return new

    def _load_extra_files(self, folder: Path) -> None:
        """Load the files of a model's folder that belong to no component."""
        if (folder / VOCABULARY_FILE).is_file():
            self.vocabulary = Vocabulary.from_file(folder / VOCABULARY_FILE)
        if (folder / CONCEPTS_FILE).is_file():
            self.concept_vocabulary = ConceptVocabulary.from_file(folder / CONCEPTS_FILE)
        if (folder / MOTIONS_FILE).is_file():
            self.motion_vocabulary = MotionVocabulary.from_file(folder / MOTIONS_FILE)

    def _load_default_adapter(self, folder: Path) -> None:
        """Load the adapter that a model's folder names as its default."""
        name = self.load_config(str(folder)).get(DEFAULT_ADAPTER_KEY)
        if name is not None:
            if not isinstance(name, str) or Path(name).name != name:
                raise WeightsError("component_missing", folder=str(folder / str(name)))
            self.default_adapter = DefaultAdapter(folder / name)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the pipeline to a device or a dtype, as in diffusers; a dtype that all components have is left out."""
        modules = [part for part in self.components.values() if isinstance(part, torch.nn.Module)]
        dtype = kwargs.get("dtype")
        if dtype is not None and all(module.dtype == dtype for module in modules):
            kwargs.pop("dtype")  # diffusers would warn that a conversion may be inexact
        return super().to(*args, **kwargs) if args or kwargs else self

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        """Read a folder's model_index.json for this class.

        Settings of other pipelines over the same folder get an underscore in front, as in diffusers' `from_pipe`, and
        lose it for a pipeline that has them.
        Raises: DianjingError for a transformer of another architecture.
        """
        config = super().load_config(*args, **options)
        index = config[0] if isinstance(config, tuple) else config
        index["_class_name"] = cls.__name__  # for another name diffusers would import that pipeline too
        parameters = inspect.signature(cls.__init__).parameters
        for name in list(index):
            if name.startswith("_") and name[1:] in parameters:
                index.setdefault(name[1:], index.pop(name))
            elif not name.startswith("_") and name not in parameters:
                value = index.pop(name)
                if not isinstance(value, list):  # no component
                    index[f"_{name}"] = value
        class_name = index.get("transformer", [None, None])[1]
        if class_name in (DIFFUSERS_TRANSFORMER_CLASS[1], DIT_TRANSFORMER_CLASS[1]):
            index["transformer"] = list(DIT_TRANSFORMER_CLASS)
        elif class_name is not None:
            raise DianjingError("transformer_class_unsupported", class_name=class_name, pipeline=cls.__name__)
        return config

    def save_config(self, save_directory: str | PathLike, *args: Any, **options: Any) -> None:
        """Write model_index.json under the names of diffusers, so that it opens what it has classes for.

        Settings that diffusers does not have begin with an underscore, which it passes over.
        """
        super().save_config(save_directory, *args, **options)
        path = Path(save_directory) / self.config_name
        index = json.loads(path.read_text(encoding="utf-8"))
        renamed = {f"_{name}" if name.startswith("default_") else name: value for name, value in index.items()}
        for name in ("controlnet", "image_encoder"):
            if renamed.get(name) == [None, None]:
                del renamed[name]
        if "transformer" in renamed:
            is_standard = is_hunyuan_dit(self.transformer)
            renamed["transformer"] = DIFFUSERS_TRANSFORMER_CLASS if is_standard else DIT_TRANSFORMER_CLASS
        renamed["_class_name"] = DIFFUSERS_PIPELINES["controlnet" in renamed]
        renamed["requires_safety_checker"] = renamed.get("safety_checker", [None])[0] is not None
        renamed.pop(DEFAULT_ADAPTER_KEY, None)
        if self.default_adapter is not None:
            renamed[DEFAULT_ADAPTER_KEY] = self.default_adapter.name
        path.write_text(json.dumps(renamed, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def save_pretrained(self, save_directory: str | PathLike, safe_serialization: bool = True, **options: Any) -> None:
        """Save the whole model for every pipeline: components as safetensors, vocabularies, motions and segmenter.

        Pickles are not written, whatever `safe_serialization` is. Raises: DianjingError for several ControlNets.
        """
        if isinstance(getattr(self, "controlnet", None), HunyuanDiT2DMultiControlNetModel):
            raise DianjingError("several_controlnets_not_saved")
        if not safe_serialization:
            logger.warning("safe_serialization=False is ignored: pickles are neither written nor loaded")
        super().save_pretrained(save_directory, **options)
        folder = Path(save_directory)
        if self.vocabulary is not None:
            self.vocabulary.save(folder / VOCABULARY_FILE)
        if self.concept_vocabulary is not None:
            self.concept_vocabulary.save(folder / CONCEPTS_FILE)
        if self.motion_vocabulary.motions:
            self.motion_vocabulary.save(folder / MOTIONS_FILE)
        adapter = self.default_adapter
        if adapter is not None and adapter.folder.resolve() != (folder / adapter.name).resolve():
            shutil.copytree(adapter.folder, folder / adapter.name, dirs_exist_ok=True)
        source = None if self._folder is None else self._folder / SEGMENTER_FOLDER
        if self.unet_segmenter is not None:
            self.unet_segmenter.unet.save_pretrained(folder / SEGMENTER_FOLDER)
        elif source is not None and source.is_dir() and source != folder / SEGMENTER_FOLDER:
            shutil.copytree(source, folder / SEGMENTER_FOLDER, dirs_exist_ok=True)

    def enable_vae_slicing(self) -> None:
        """Decode one image at a time, which takes less memory for a batch."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Decode images in tiles, which takes less memory for large ones."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        self.vae.disable_tiling()
