"""What every pipeline shares: where its weights come from, and what its user can set while it runs."""

import inspect
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from typing_extensions import Self

from dianjing.pipelines.lexicon import FILE_NAME, Lexicon
from dianjing.pipelines.lora import LoRAMixin
from dianjing.pipelines.names import FILE_NAME as NAMES_FILE
from dianjing.pipelines.names import Names
from dianjing.weights import registry
from dianjing.weights.fetching import find_folder
from dianjing.weights.loading import check_folder

logger = logging.get_logger(__name__)

# A folder names the transformer as diffusers does, so that diffusers can load it too; here it is always DiT.
PUBLISHED_CLASS = ("diffusers", "HunyuanDiT2DModel")
OUR_CLASS = ("dianjing.dit.model", "DiT")
REFUSED_OPTIONS = ("custom_pipeline", "custom_revision", "trust_remote_code", "use_onnx", "use_flashpack")


class Pipeline(LoRAMixin, DiffusionPipeline):
    """A `DiffusionPipeline` that knows the registry, checks a folder before it loads it, and keeps its words."""

    _exclude_from_cpu_offload: ClassVar[list[str]] = ["safety_checker"]

    lexicon: Lexicon | None = None
    names: Names | None = None
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
        folder = find_folder(
            pretrained_model_name_or_path,
            **{name: options.pop(name) for name in ("revision", "cache_dir", "local_files_only") if name in options},
        )
        if not {"dtype", "torch_dtype"} & options.keys():
            options["dtype"] = torch.float32  # transformers would leave text encoders as their files are
        check_folder(folder, variant=options.get("variant"))
        pipeline = super().from_pretrained(str(folder), **options)
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        pipeline._read_extras(folder)
        return pipeline

    def _read_extras(self, folder: Path) -> None:
        """What a folder holds besides the components."""
        if (folder / FILE_NAME).is_file():
            self.lexicon = Lexicon.from_file(folder / FILE_NAME)
        if (folder / NAMES_FILE).is_file():
            self.names = Names.from_file(folder / NAMES_FILE)

    @classmethod
    def load_config(cls, *args: Any, **options: Any) -> Any:
        config = super().load_config(*args, **options)
        index = config[0] if isinstance(config, tuple) else config
        index["_class_name"] = cls.__name__  # for another name diffusers would import that pipeline too
        taken = inspect.signature(cls.__init__).parameters
        for name in [name for name in index if not name.startswith("_") and name not in taken]:
            index.pop(name)  # what another pipeline over the same folder takes
        class_name = index.get("transformer", [None, None])[1]
        if class_name in (PUBLISHED_CLASS[1], OUR_CLASS[1]):
            index["transformer"] = list(OUR_CLASS)
        elif class_name is not None:
            raise ValueError(f"the folder's transformer is a {class_name}; {cls.__name__} takes a Hunyuan-DiT")
        return config

    def register_to_config(self, **entries: Any) -> None:
        if entries.get("transformer", (None, None))[0] is not None:
            entries["transformer"] = PUBLISHED_CLASS
        super().register_to_config(**entries)

    def save_pretrained(self, save_directory: str | PathLike, safe_serialization: bool = True, **options: Any) -> None:
        """As diffusers, but always as safetensors, whatever is asked for; the lexicon and the names go along."""
        if not safe_serialization:
            logger.warning("safe_serialization=False is ignored: safetensors are written, for a pickle is never loaded")
        super().save_pretrained(save_directory, **options)
        if self.lexicon is not None:
            self.lexicon.save(Path(save_directory) / FILE_NAME)
        if self.names is not None:
            self.names.save(Path(save_directory) / NAMES_FILE)

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that this model was not taught; empty where it has no lexicon."""
        return [] if self.lexicon is None else self.lexicon.unknown(prompt)

    def warn_of_unknown_words(self, prompt: str | list[str] | None) -> None:
        """Say once for each word that the model does not know it, and which model would."""
        told = self.__dict__.setdefault("_told_words", set())
        prompts = [prompt] if isinstance(prompt, str) else prompt or []
        words = [word for text in prompts for word in self.unknown_words(text)]
        new = [word for word in dict.fromkeys(words) if word not in told]
        if not new:
            return
        told.update(new)
        larger = next((entry.name for entry in registry.ENTRIES if entry.folder is None), None)
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
