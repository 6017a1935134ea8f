"""Base of all pipelines: loading from checked folders, vocabularies, and LoRA adapters as in diffusers."""

import inspect
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LoraBaseMixin, _fetch_state_dict
from diffusers.schedulers import SchedulerMixin
from diffusers.utils import logging
from torch import Tensor
from typing_extensions import Self

from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE, Vocabulary
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

logger = logging.get_logger(__name__)
PEFT_PREFIX = "base_model.model."  # of the keys of an adapter that PEFT itself saved
FETCH_OPTIONS = ("local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder")
DOWNLOAD_OPTIONS = ("source", "revision", "cache_dir", "token", "force_download", "local_files_only")
REFUSED_OPTIONS = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")
# A folder names the transformer as diffusers does, so that diffusers can load it too; here it is always DiT.
DIFFUSERS_TRANSFORMER_CLASS = ("diffusers", "HunyuanDiT2DModel")
DIT_TRANSFORMER_CLASS = ("dianjing.dit.transformer", "DiT")


def load_adapter_scheduler(adapter: str | PathLike) -> Any:
    """Load the scheduler in an adapter's folder, of an adapter that changed the prediction type; None without one.

    Raises: DianjingError for a scheduler that diffusers does not have.
    """
    folder = Path(adapter) / "scheduler"
    if not (folder / "scheduler_config.json").is_file():
        return None
    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8")).get("_class_name")
    scheduler_class: Any = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(scheduler_class, type) and issubclass(scheduler_class, SchedulerMixin)
    if not is_scheduler:
        raise DianjingError("scheduler_unknown", folder=folder, scheduler=name)
    return scheduler_class.from_pretrained(folder)


class LoRAMixin(LoraBaseMixin):
    """LoRA for a pipeline over `transformer`; `set_adapters`, `unload_lora_weights` and the like are diffusers' own."""

    _lora_loadable_modules: ClassVar[list[str]] = ["transformer"]
    transformer: Any

    @classmethod
    def lora_state_dict(
        cls,
        pretrained_model_name_or_path_or_dict: str | PathLike | Mapping[str, Tensor],
        *,
        weight_name: str | None = None,
        **options: Any,
    ) -> tuple[dict[str, Tensor], dict | None]:
        """Read the tensors of an adapter under the transformer's names, and the metadata saved with them.

        pretrained_model_name_or_path_or_dict: a folder, a .safetensors file, a Hub id, or the tensors themselves.
        Raises: DianjingError for a file that is not safetensors, or that holds no LoRA.
        """
        for name in (weight_name, pretrained_model_name_or_path_or_dict):
            if isinstance(name, str | PathLike) and str(name).endswith((".bin", ".pt", ".pth", ".ckpt")):
                raise DianjingError("adapter_is_pickle", path=name)
        source = pretrained_model_name_or_path_or_dict
        fetched, metadata = _fetch_state_dict(
            dict(source) if isinstance(source, Mapping) else str(source),
            weight_name=weight_name,
            use_safetensors=True,
            allow_pickle=False,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **{name: options.get(name) for name in FETCH_OPTIONS},
        )
        state = {key.removeprefix(PEFT_PREFIX).removeprefix("transformer."): tensor for key, tensor in fetched.items()}
        if not state or not all("lora" in key for key in state):
            if isinstance(source, Mapping):
                raise DianjingError("tensors_without_lora")
            raise DianjingError("adapter_without_lora", path=source)
        return state, None if metadata is None else {
            key.removeprefix("transformer."): value for key, value in metadata.items()
        }

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | PathLike | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        hotswap: bool = False,
        **options: Any,
    ) -> None:
        """Add an adapter, given as for `lora_state_dict`, to the transformer.

        Raises: DianjingError for an adapter of another model.
        """
        state, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **options)
        modules = {name for name, _ in self.transformer.named_modules()}
        unknown = sorted({key.split(".lora")[0] for key in state} - modules)
        if unknown:
            raise DianjingError("adapter_of_another_model", modules=unknown[:3])
        self.transformer.load_lora_adapter(
            state, prefix=None, adapter_name=adapter_name, metadata=metadata, hotswap=hotswap, _pipeline=self
        )

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | PathLike,
        transformer_lora_layers: Mapping[str, Tensor],
        *,
        weight_name: str | None = None,
        transformer_lora_adapter_metadata: dict | None = None,
    ) -> None:
        """Write the tensors of an adapter, from `peft.get_peft_model_state_dict`, to safetensors."""
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers={"transformer": dict(transformer_lora_layers)},
            lora_metadata={"transformer": transformer_lora_adapter_metadata},
            weight_name=weight_name,
        )

    def fuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Merge the adapters into the weights, so that they cost nothing per step."""
        super().fuse_lora(components=components or ["transformer"], **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        super().unfuse_lora(components=components or ["transformer"], **options)


class PipelineBase(LoRAMixin, DiffusionPipeline):
    """`DiffusionPipeline` that resolves registry names, validates folders before loading, and holds vocabularies."""

    _exclude_from_cpu_offload: ClassVar[list[str]] = ["safety_checker"]
    _extra_names: ClassVar[tuple[str, ...]] = ("vocabulary", "concept_vocabulary")

    vocabulary: Vocabulary | None = None
    concept_vocabulary: ConceptVocabulary | None = None
    _folder: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **options: Any) -> Self:
        """Load a registry name ("sticker"), a local folder or a hub id, with diffusers' options.

        source: "huggingface" or "modelscope", see `resolve_model`. The default dtype is float32. Only safetensors are
        loaded, and no code that comes with weights is run.
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
        pipeline = super().from_pretrained(str(folder), **options)
        settings = {name: v for name, v in cls.load_config(str(folder)).items() if name.startswith("_default_")}
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path), **settings)
        pipeline._folder = folder
        pipeline._load_extra_files(folder)
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Make a pipeline of this class over the components of another one, with its dtype, defaults and vocabularies.

        dtype: to convert the shared components to; theirs by default.
        Raises: DianjingError if the components have several dtypes and none is given.
        """
        if not {"dtype", "torch_dtype"} & kwargs.keys():
            modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
            dtypes = sorted({str(module.dtype).removeprefix("torch.") for module in modules})
            if len(dtypes) > 1:
                raise DianjingError("several_dtypes", dtypes=dtypes)
            kwargs["dtype"] = pipeline.dtype  # diffusers would convert to float32
        new = super().from_pipe(pipeline, **kwargs)
        if isinstance(pipeline, PipelineBase):
            new._folder = pipeline._folder
            if new._folder is not None:
                new._load_extra_files(new._folder)
            for name in {*new._extra_names} & {*pipeline._extra_names}:
                setattr(new, name, getattr(pipeline, name))
        return new

    def _load_extra_files(self, folder: Path) -> None:
        """Load the files of a model's folder that belong to no component."""
        if (folder / VOCABULARY_FILE).is_file():
            self.vocabulary = Vocabulary.from_file(folder / VOCABULARY_FILE)
        if (folder / CONCEPTS_FILE).is_file():
            self.concept_vocabulary = ConceptVocabulary.from_file(folder / CONCEPTS_FILE)

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

    def register_to_config(self, **entries: Any) -> None:
        """Register entries of the configuration, the transformer under the class name that diffusers has."""
        if entries.get("transformer", (None, None))[0] is not None:
            entries["transformer"] = DIFFUSERS_TRANSFORMER_CLASS
        super().register_to_config(**entries)

    def save_pretrained(self, save_directory: str | PathLike, safe_serialization: bool = True, **options: Any) -> None:
        """Save all components as safetensors, whatever `safe_serialization` is, and the vocabularies."""
        if not safe_serialization:
            logger.warning("safe_serialization=False is ignored: pickles are neither written nor loaded")
        super().save_pretrained(save_directory, **options)
        if self.vocabulary is not None:
            self.vocabulary.save(Path(save_directory) / VOCABULARY_FILE)
        if self.concept_vocabulary is not None:
            self.concept_vocabulary.save(Path(save_directory) / CONCEPTS_FILE)

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
