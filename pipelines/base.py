"""LoRA adapters of the transformer, loaded, mixed, fused and saved as in diffusers."""

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

from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.pipelines.prompting.vocabulary import VOCABULARY_FILE, Vocabulary
from dianjing.weights import registry
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

PEFT_PREFIX = "base_model.model."  # of an adapter that PEFT itself saved


def load_adapter_scheduler(adapter: str | PathLike) -> Any:
    """The scheduler that an adapter's folder names, for one that changed what is predicted; None where there is none.

    Raises: ValueError for one that diffusers does not have.
    """
    folder = Path(adapter) / "scheduler"
    if not (folder / "scheduler_config.json").is_file():
        return None
    name = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8")).get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_scheduler:
        raise ValueError(f"{folder} names the scheduler {name!r}, which diffusers does not have")
    return kind.from_pretrained(folder)


class LoRAMixin(LoraBaseMixin):
    """For a pipeline over `transformer`; `set_adapters`, `unload_lora_weights` and the like are diffusers' own."""

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
        """Tensors of an adapter under the transformer's names, and the metadata saved with them.

        source: a folder, a .safetensors file, a Hub id, or the tensors themselves.
        Raises: ValueError for a file that is not safetensors, or that holds no LoRA of the transformer.
        """
        for name in (weight_name, pretrained_model_name_or_path_or_dict):
            if isinstance(name, str | PathLike) and str(name).endswith((".bin", ".pt", ".pth", ".ckpt")):
                raise ValueError(f"{name} is a pickle, which can run any code; get the adapter as .safetensors")
        source = pretrained_model_name_or_path_or_dict
        fetched, metadata = _fetch_state_dict(
            dict(source) if isinstance(source, Mapping) else str(source),
            weight_name=weight_name,
            use_safetensors=True,
            allow_pickle=False,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **{
                name: options.get(name)
                for name in (
                    "local_files_only",
                    "cache_dir",
                    "force_download",
                    "proxies",
                    "token",
                    "revision",
                    "subfolder",
                )
            },
        )
        state = {key.removeprefix(PEFT_PREFIX).removeprefix("transformer."): tensor for key, tensor in fetched.items()}
        if not state or not all("lora" in key for key in state):
            name = "the adapter" if isinstance(source, Mapping) else source
            raise ValueError(f"{name} holds no LoRA weights")
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
        """Add an adapter to the transformer; see `lora_state_dict` for what `source` may be."""
        state, metadata = self.lora_state_dict(pretrained_model_name_or_path_or_dict, **options)
        modules = {name for name, _ in self.transformer.named_modules()}
        strange = sorted({key.split(".lora")[0] for key in state} - modules)
        if strange:
            raise ValueError(f"this LoRA is for another model: the transformer has no {', '.join(strange[:3])}")
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
        """Write the tensors of an adapter, as `peft.get_peft_model_state_dict` gives them, to safetensors."""
        cls._save_lora_weights(
            save_directory=save_directory,
            lora_layers={"transformer": dict(transformer_lora_layers)},
            lora_metadata={"transformer": transformer_lora_adapter_metadata},
            weight_name=weight_name,
        )

    def fuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        """Merge the adapters into the weights: no cost per step."""
        super().fuse_lora(components=components or ["transformer"], **options)

    def unfuse_lora(self, components: list[str] | None = None, **options: Any) -> None:
        super().unfuse_lora(components=components or ["transformer"], **options)


logger = logging.get_logger(__name__)


# A folder names the transformer as diffusers does, so that diffusers can load it too; here it is always DiT.
DIFFUSERS_TRANSFORMER_CLASS = ("diffusers", "HunyuanDiT2DModel")
DIT_TRANSFORMER_CLASS = ("dianjing.dit.transformer", "DiT")
REFUSED_OPTIONS = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")


class PipelineBase(LoRAMixin, DiffusionPipeline):
    """A `DiffusionPipeline` that knows the registry, checks a folder before it loads it, and keeps its words."""

    _exclude_from_cpu_offload: ClassVar[list[str]] = ["safety_checker"]

    vocabulary: Vocabulary | None = None
    concept_vocabulary: ConceptVocabulary | None = None
    _guidance_scale = 1.0
    _guidance_rescale = 0.0
    _num_timesteps = 0
    _current_timestep: torch.Tensor | None = None
    _interrupt = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | PathLike, **options: Any) -> Self:
        """Load a registry name ("sticker"), a local folder or a Hub id; options as diffusers takes them.

        Without `dtype` all is float32, as the command line draws on a CPU.
        Only safetensors are loaded, and no code that comes with weights.
        Raises: ValueError for an unknown name; WeightsError for a folder that cannot be right.
        """
        for name in REFUSED_OPTIONS:
            if options.pop(name, None):
                raise ValueError(f"{name} is refused: Dianjing loads safetensors and runs no code that comes with them")
        if options.pop("use_safetensors", None) is False:
            raise ValueError("use_safetensors=False is refused: a pickle can run any code; leave the option out")
        options["use_safetensors"] = True
        folder = resolve_model(
            pretrained_model_name_or_path,
            **{name: options.pop(name) for name in ("revision", "cache_dir", "local_files_only") if name in options},
        )
        if not {"dtype", "torch_dtype"} & options.keys():
            options["dtype"] = torch.float32  # transformers would leave text encoders as their files are
        validate_model(folder, variant=options.get("variant"))
        pipeline = super().from_pretrained(str(folder), **options)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        pipeline._load_extra_files(folder)
        return pipeline

    def _load_extra_files(self, folder: Path) -> None:
        """What a folder holds besides the components."""
        if (folder / VOCABULARY_FILE).is_file():
            self.vocabulary = Vocabulary.from_file(folder / VOCABULARY_FILE)
        if (folder / CONCEPTS_FILE).is_file():
            self.concept_vocabulary = ConceptVocabulary.from_file(folder / CONCEPTS_FILE)

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        config = super().load_config(*args, **options)
        index = config[0] if isinstance(config, tuple) else config
        index["_class_name"] = cls.__name__  # for another name diffusers would import that pipeline too
        taken = inspect.signature(cls.__init__).parameters
        for name in [name for name in index if not name.startswith("_") and name not in taken]:
            index.pop(name)  # what another pipeline over the same folder takes
        class_name = index.get("transformer", [None, None])[1]
        if class_name in (DIFFUSERS_TRANSFORMER_CLASS[1], DIT_TRANSFORMER_CLASS[1]):
            index["transformer"] = list(DIT_TRANSFORMER_CLASS)
        elif class_name is not None:
            raise ValueError(f"the folder's transformer is a {class_name}; {cls.__name__} takes a Hunyuan-DiT")
        return config

    def register_to_config(self, **entries: Any) -> None:
        if entries.get("transformer", (None, None))[0] is not None:
            entries["transformer"] = DIFFUSERS_TRANSFORMER_CLASS
        super().register_to_config(**entries)

    def save_pretrained(self, save_directory: str | PathLike, safe_serialization: bool = True, **options: Any) -> None:
        """As diffusers, but always as safetensors, whatever is asked for; the lexicon and the names go along."""
        if not safe_serialization:
            logger.warning("safe_serialization=False is ignored: safetensors are written, for a pickle is never loaded")
        super().save_pretrained(save_directory, **options)
        if self.vocabulary is not None:
            self.vocabulary.save(Path(save_directory) / VOCABULARY_FILE)
        if self.concept_vocabulary is not None:
            self.concept_vocabulary.save(Path(save_directory) / CONCEPTS_FILE)

    def find_unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that this model was not taught; empty where it has no lexicon."""
        return [] if self.vocabulary is None else self.vocabulary.find_unknown_words(prompt)

    def warn_about_unknown_words(self, prompt: str | list[str] | None) -> None:
        """Say once for each word that the model does not know it, and which model would."""
        told = self.__dict__.setdefault("_warned_words", set())
        prompts = [prompt] if isinstance(prompt, str) else prompt or []
        words = [word for text in prompts for word in self.find_unknown_words(text)]
        new = [word for word in dict.fromkeys(words) if word not in told]
        if not new:
            return
        told.update(new)
        larger = next((entry.name for entry in registry.MODELS if entry.bundled_folder is None), None)
        hint = f'; "{larger}" draws from any words' if larger else ""
        logger.warning(f"this model does not know: {', '.join(new)}{hint}")

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def current_timestep(self) -> torch.Tensor | None:
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        return self._interrupt

    def enable_vae_slicing(self) -> None:
        """Decode one picture at a time: less memory for a batch."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Decode a picture in tiles: less memory for large ones."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        self.vae.disable_tiling()
