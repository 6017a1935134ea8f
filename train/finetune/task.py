"""A published or embedded transformer, whole or by an adapter, on cached latents and text states.

B batch; latents are (B, C, Y, X).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import rearrange
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import Self

from dianjing.dit import Click, DiT
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.train import objectives
from dianjing.train.data import Batch, Bucket
from dianjing.train.finetune.clicking import PHRASE, make_click
from dianjing.train.finetune.encoding import ENCODERS, Encoded
from dianjing.train.finetune.exporting import export_adapter, export_pipeline
from dianjing.train.finetune.held_out import parts
from dianjing.train.finetune.schedules import noising_of, scheduler_of
from dianjing.train.finetune.sections import FinetuneModel, FinetuneRun, LoraSection
from dianjing.train.finetune.texts import STATES, TOKENS, Say
from dianjing.train.loop import Task
from dianjing.train.noising import tell_noise
from dianjing.train.pictures import stack, tile
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.shapes import Shape

FILM_PARTS = ("motion_blocks.", "click.")  # of the transformer; a picture model has none
MODEL_NAMES = {
    "text_encoder": ("encoder_hidden_states", "text_embedding_mask"),
    "text_encoder_2": ("encoder_hidden_states_t5", "text_embedding_mask_t5"),
}  # of states and masks for the transformer
PIPELINE_NAMES = {
    "text_encoder": ("prompt_embeds", "prompt_attention_mask"),
    "text_encoder_2": ("prompt_embeds_2", "prompt_attention_mask_2"),
}


def lora_config(lora: LoraSection, transformer: DiT, *, has_films: bool) -> LoraConfig:
    """Without films, what they alone use gets no adapter: nothing would train it.

    Raises: ValueError for a target that is the ending of no linear layer's name.
    """
    layers = [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in lora.targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            endings = sorted({".".join(name.split(".")[2:]) for name in layers if name.startswith("blocks.")})
            raise ValueError(f"model.lora.targets has {target!r}, which is no layer; layers: {', '.join(endings)}")
    targets: list[str] | str = list(lora.targets)
    if not has_films and any(name.startswith(FILM_PARTS) for name in layers):
        films, wanted = ("|".join(map(re.escape, names)) for names in (FILM_PARTS, lora.targets))
        targets = rf"(?!{films})(.*\.)?({wanted})"  # not by exclude_modules: PEFT warns of it at every loading
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.kind == "dora",
        init_lora_weights="gaussian",
    )


def prepare_transformer(transformer: DiT, model: FinetuneModel, *, has_films: bool) -> DiT:
    """Ready to train: with its adapter where one is trained, and blocks that are computed twice.

    Without films, what they alone use rests.
    """
    if model.attention_backend is not None:
        transformer.set_attention_backend(model.attention_backend)
    if model.recompute_every:
        recomputed = set(list(transformer.blocks)[:: model.recompute_every])

        def recompute(block: nn.Module, *inputs: Any) -> Tensor:
            return checkpoint(block, *inputs, use_reentrant=False) if block in recomputed else block(*inputs)

        transformer.enable_gradient_checkpointing(recompute)
    for name, weight in transformer.named_parameters():
        if name.startswith(FILM_PARTS):
            weight.requires_grad_(has_films and model.trained in ("all", "film"))
        else:
            weight.requires_grad_(model.trained == "all")
    if model.trained == "lora":
        transformer.add_adapter(lora_config(model.lora, transformer, has_films=has_films))
    return transformer.train()


def resting_dtype(model: FinetuneModel, half: torch.dtype) -> torch.dtype:
    """Of the weights in memory: what is trained needs float32, what stays does not."""
    return torch.float32 if model.trained in ("all", "film") else half


def film_parts(config: FinetuneRun, own: Mapping[str, Any], *, has_clicks: bool) -> dict[str, Any]:
    """What a model whose configuration is `own` needs besides, to be trained on films.

    Raises: ValueError where it lacks that and cannot get it.
    """
    if not config.data.num_frames:
        return {}
    has_time, regions = own.get("use_motion_blocks", False), own.get("max_regions", 0)
    if has_clicks and has_time and not regions:
        raise ValueError(f"{config.model.name} draws films without clicks; leave the masks out of the data set")
    if has_time:
        return {}
    if config.model.trained == "lora":
        raise ValueError(
            f"{config.model.name} draws pictures, and an adapter gives it no time; take model.trained = 'film' or 'all'"
        )
    return {"use_motion_blocks": True, "max_regions": int(has_clicks)}


class FinetuneTask(Task):
    """The transformer, and where asked for the text encoders; else their work is in the cache."""

    def __init__(
        self, config: FinetuneRun, encoded: Encoded, *, say: Say, half: torch.dtype,
        held_out: Mapping[Shape, Sequence[Entry]] | None = None, has_clicks: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.encoded, self.say, self.held_out = config, encoded, say, held_out or {}
        folder = encoded.folder
        dtype = resting_dtype(config.model, half)
        own = DiT.load_config(folder / "transformer")
        time = film_parts(config, own, has_clicks=has_clicks)
        transformer = DiT.from_pretrained(folder / "transformer", dtype=dtype, **time)
        self.transformer = prepare_transformer(transformer, config.model, has_films=bool(config.data.num_frames))
        self.text_encoders = nn.ModuleDict()
        if config.model.text_encoders == "joint":
            self.text_encoders.update(
                {name: kind.from_pretrained(folder / name, dtype=torch.float32) for name, kind in ENCODERS.items()}
            )
            self.text_encoders["text_encoder"].pooler.requires_grad_(False)  # nothing reads it
        pipe = TextToImagePipeline.from_pretrained(
            folder, transformer=None, text_encoder=None, text_encoder_2=None, vae=None
        )
        self.defaults = (pipe.config.default_num_inference_steps, pipe.config.default_guidance_scale)
        self.scheduler = scheduler_of(config.objective, pipe.scheduler)
        self.noising = noising_of(self.scheduler, min_snr_gamma=config.objective.min_snr_gamma)
        tell_noise(transformer, self.noising)
        self.vae_config = AutoencoderKL.load_config(folder / "vae")

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        self.noising = self.noising.to(device)

    def compile_parts(self, mode: str) -> None:
        if self.config.model.compile_whole:
            self.transformer.compile(mode=mode)
        else:
            self.transformer.compile_repeated_blocks(mode=mode)

    def draw(self, bucket: Bucket, generator: torch.Generator) -> Batch:
        device, rows = generator.device, bucket.layout.global_batch
        factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        assert bucket.height is not None
        assert bucket.width is not None
        frames = [] if bucket.num_frames == 1 else [bucket.num_frames]
        shape = (rows, self.transformer.config.in_channels, *frames, bucket.height // factor, bucket.width // factor)
        noise = torch.randn(shape, generator=generator, device=device)
        positions = objectives.positions(torch.rand(rows, generator=generator, device=device), self.config.objective)
        if offset := self.config.objective.noise_offset:
            each = (*shape[:2], *[1] * (len(shape) - 2))
            noise = noise + offset * torch.randn(each, generator=generator, device=device)
        return {"latents": noise, "timestep": self.noising.timestep(positions)}

    def forward(self, batch: Batch, noise: Batch) -> dict[str, Tensor]:
        errors = self._errors(batch, noise)
        return {"loss": (errors * self.noising.weight(noise["timestep"])).mean(), "error": errors.mean()}

    def _errors(self, batch: Batch, noise: Batch) -> Tensor:
        """The mean square of what is predicted wrongly, of each picture (B,)."""
        latents, timestep = batch["latents"].float(), noise["timestep"]
        noisy = self.noising.noisy(latents, noise["latents"], timestep)
        target = self.noising.target(latents, noise["latents"], timestep)
        click = self._click(batch, latents)
        settings = {} if click is None else {"click": click}
        predicted = self._predict(noisy, timestep.float(), batch, **settings)[:, : latents.shape[1]]
        return (predicted.float() - target).square().flatten(1).mean(dim=1)

    def _predict(self, noisy: Tensor, timestep: Tensor, batch: Batch, **settings: Any) -> Tensor:
        return self.transformer(noisy, timestep, **self._inputs(batch, noisy), **settings, return_dict=False)[0]

    def _click(self, batch: Batch, latents: Tensor) -> Click | None:
        """Of films, for a model that can be clicked on."""
        regions = self.transformer.config.max_regions
        if not regions or "clicked" not in batch:
            return None
        said = {name.removeprefix(PHRASE): tensor for name, tensor in batch.items() if name.startswith(PHRASE)}
        return make_click(batch, *self._texts(said)[0], latents=latents, max_regions=regions)

    def _inputs(self, batch: Batch, noisy: Tensor) -> dict[str, Tensor]:
        """What the transformer takes besides latents and timestep."""
        pairs = zip(MODEL_NAMES.values(), self._texts(batch), strict=True)
        return {
            name: tensor for names, found in pairs for name, tensor in zip(names, found, strict=True)
        } | self._sizes(noisy)

    def _texts(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """States (B, L, T) and mask (B, L) of each encoder: cached, or computed now."""
        if not self.text_encoders:
            return [(batch[states], batch[mask]) for states, mask in STATES.values()]
        found = []
        for encoder, (ids, mask) in TOKENS.items():
            states = self.text_encoders[encoder](input_ids=batch[ids], attention_mask=batch[mask]).last_hidden_state
            found.append((states, batch[mask]))
        return found

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.text_encoders.eval()  # their dropout would take randomness that is not the step's
        return self

    def measure(self) -> dict[str, float]:
        """Errors of held-out pictures, Chinese and English apart: over all timesteps, and in each quantile of them."""
        found: dict[str, list[float]] = {}
        device = self.transformer.device
        for part in parts(self.held_out, self.encoded, self.say):
            batch = {name: tensor.to(device) for name, tensor in part.batch.items()}
            timestep = self.noising.timestep(part.positions.to(device))
            errors = self._errors(batch, {"latents": part.noise.to(device), "timestep": timestep}).tolist()
            for name in (f"held_out_{part.language}", f"held_out_{part.language}_q{part.quantile + 1}"):
                found.setdefault(name, []).extend(errors)
        return {name: sum(errors) / len(errors) for name, errors in found.items()}

    def _sizes(self, latents: Tensor) -> dict[str, Tensor]:
        """Of the pictures, for the models that are told: whole ones at their own size."""
        if not self.transformer.config.use_style_cond_and_image_meta_size:
            return {}
        factor = 2 ** (len(self.vae_config["block_out_channels"]) - 1)
        height, width = (factor * side for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, height, width, 0, 0]], dtype=torch.float32, device=latents.device)
        style = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
        return {"image_meta_size": sizes.repeat(len(latents), 1), "style": style}

    def grid(self) -> np.ndarray:
        """A picture for each prompt from the same noise; of an adapter's run the model without it above."""
        prompts = self.config.samples.prompts
        if not prompts:
            return np.full((8, 8, 3), 255, np.uint8)
        pipe = TextToImagePipeline(**self._parts())
        pipe.set_progress_bar_config(disable=True)
        return stack(self._rows(pipe))

    def _rows(self, pipe: TextToImagePipeline) -> list[np.ndarray]:
        if self.config.data.num_frames:
            return [self._draw(pipe), self._draw_films()]
        rows = [self._draw(pipe)]
        if self.config.model.trained == "lora":
            self.transformer.disable_adapters()
            rows.insert(0, self._draw(pipe))
            self.transformer.enable_adapters()
        return rows

    def _draw(self, pipe: TextToImagePipeline, **settings: Any) -> np.ndarray:
        pictures: Any = pipe(**self._call(), output_type="pt", return_dict=False, **settings)[0]
        levels = rearrange((pictures.float() * 255).round().to(torch.uint8), "b c h w -> b h w c")
        return tile(levels, columns=min(8, len(levels)))

    def _draw_films(self) -> np.ndarray:
        """One a row, as long as the shortest clips."""
        count = min(self.config.data.num_frames)
        pipe = TextToVideoPipeline(**self._parts(), default_num_frames=count, default_fps=self.config.data.fps)
        pipe.set_progress_bar_config(disable=True)
        frames: Any = pipe(**self._call(), num_frames=count, output_type="uint8", return_dict=False)[0]
        return tile(torch.from_numpy(frames).flatten(0, 1), columns=count)

    def _parts(self) -> dict[str, Any]:
        """Of a pipeline whose texts are given as states."""
        return {
            "vae": AutoencoderKL.from_pretrained(self.encoded.folder / "vae").to(self.transformer.device),
            "transformer": self.transformer, "scheduler": type(self.scheduler).from_config(self.scheduler.config),
            "default_num_inference_steps": self.defaults[0], "default_guidance_scale": self.defaults[1],
            **dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")),
        }  # fmt: skip

    def _call(self) -> dict[str, Any]:
        """A call of a pipeline: the sample prompts, each from its own noise."""
        samples, device, size = self.config.samples, self.transformer.device, self.config.data.size_px
        embeds: dict[str, Any] = {}
        for side, texts in (("", samples.prompts), ("negative_", [""] * len(samples.prompts))):
            batch = {name: tensor.to(device) for name, tensor in self.say([(text, text) for text in texts]).items()}
            for names, found in zip(PIPELINE_NAMES.values(), self._texts(batch), strict=True):
                embeds |= {side + name: tensor for name, tensor in zip(names, found, strict=True)}
        generators = [torch.Generator().manual_seed(samples.seed + row) for row in range(len(samples.prompts))]
        sides = {"height": size, "width": size}
        return sides | embeds | {
            "num_inference_steps": samples.steps, "guidance_scale": samples.guidance_scale, "generator": generators,
        }  # fmt: skip

    def export(self, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
        """The adapter, as diffusers and PEFT load it, or the whole pipeline's folder; read again before it counts."""
        self._export(folder, dtype)
        return {"parameters": sum(p.numel() for p in self.parameters() if p.requires_grad)}

    def _export(self, folder: Path, dtype: torch.dtype) -> None:
        if self.config.model.trained == "lora":
            export_adapter(folder, dtype, transformer=self.transformer, scheduler=self.scheduler)
        else:
            trained = {"transformer": self.transformer, **self.text_encoders}
            export_pipeline(folder, dtype, base=self.encoded.folder, trained=trained, scheduler=self.scheduler)
