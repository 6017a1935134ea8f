"""LoRA adapters of the transformer, loaded, mixed, fused and saved as in diffusers."""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import diffusers
from diffusers.loaders.lora_base import LoraBaseMixin, _fetch_state_dict
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

PEFT_PREFIX = "base_model.model."  # of an adapter that PEFT itself saved


def scheduler_beside(adapter: str | PathLike) -> Any:
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
        cls, source: str | PathLike | Mapping[str, Tensor], *, weight_name: str | None = None, **options: Any
    ) -> tuple[dict[str, Tensor], dict | None]:
        """Tensors of an adapter under the transformer's names, and the metadata saved with them.

        source: a folder, a .safetensors file, a Hub id, or the tensors themselves.
        Raises: ValueError for a file that is not safetensors, or that holds no LoRA of the transformer.
        """
        for name in (weight_name, source):
            if isinstance(name, str | PathLike) and str(name).endswith((".bin", ".pt", ".pth", ".ckpt")):
                raise ValueError(f"{name} is a pickle, which can run any code; get the adapter as .safetensors")
        fetched, metadata = _fetch_state_dict(
            dict(source) if isinstance(source, Mapping) else str(source),
            weight_name=weight_name,
            use_safetensors=True,
            allow_pickle=False,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **{
                name: options.get(name)
                for name in (
                    "local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder",
                )
            },
        )  # fmt: skip
        state = {key.removeprefix(PEFT_PREFIX).removeprefix("transformer."): tensor for key, tensor in fetched.items()}
        if not state or not all("lora" in key for key in state):
            raise ValueError(f"{source if not isinstance(source, Mapping) else 'the adapter'} holds no LoRA weights")
        return state, None if metadata is None else {
            key.removeprefix("transformer."): value for key, value in metadata.items()
        }

    def load_lora_weights(
        self,
        source: str | PathLike | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        hotswap: bool = False,
        **options: Any,
    ) -> None:
        """Add an adapter to the transformer; see `lora_state_dict` for what `source` may be."""
        state, metadata = self.lora_state_dict(source, **options)
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
