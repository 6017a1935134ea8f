"""The run file of a fine-tuning."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dianjing.train.sections import OptimizerSection, RunSection, Section, TimestepsSection


class FilesSection(Section):
    sets: Path  # the data set file
    size_px: int = Field(gt=0)  # of a square; other shapes have about as many pixels
    max_aspect: float = Field(default=2.0, ge=1)
    min_px: int = Field(default=16, gt=0)  # pictures with a smaller side are left out
    drop_limit: float = Field(default=0.1, ge=0, le=1)  # share of pictures that may be left out
    num_frames: tuple[Annotated[int, Field(gt=1)], ...] = ()  # lengths of clips; none: films are left out
    fps: float = Field(default=8.0, gt=0)  # that films are read at
    held_out: float = Field(default=0.0, ge=0, lt=1)  # share of pictures that are measured on, never trained on
    cache: Path = Path("~/.cache/dianjing/encoded")  # latents and text states; runs may share it
    workers: int = Field(default=0, ge=0)
    prefetch: int = Field(default=2, gt=0)


class LoraSection(Section):
    """An adapter by PEFT."""

    kind: Literal["lora", "dora"] = "lora"
    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0)  # None: the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)  # endings of names


class FinetuneModel(Section):
    name: str  # of the registry, a diffusers folder or a Hub id
    # film: what a model for pictures lacks, time and clicks; controlnet: for line art, drawn from the pictures
    trained: Literal["lora", "all", "film", "controlnet"] = "lora"
    text_encoders: Literal["frozen", "joint"] = "frozen"  # joint: trained too, and so not cached
    lora: LoraSection = LoraSection()
    recompute_every: int = Field(default=0, ge=0)  # gradient checkpointing: 0 no block, 1 every one, 2 every other
    attention_backend: str | None = None
    compile_whole: bool = False  # where run.compile says so: the transformer in one piece, not block by block

    @model_validator(mode="after")
    def _check(self) -> "FinetuneModel":
        if self.text_encoders == "joint" and self.trained != "all":
            raise ValueError(f"text_encoders = 'joint' with trained = {self.trained!r}; it takes trained = 'all'")
        return self


class FinetuneObjective(TimestepsSection):
    prediction: Literal["as_trained", "epsilon", "v_prediction", "flow"] = "as_trained"
    shift: float = Field(default=1.0, gt=0)  # of flow: more noise for larger pictures
    min_snr_gamma: float | None = Field(default=None, gt=0)
    terminal_snr: Literal["as_trained", "zero"] = "as_trained"
    noise_offset: float = Field(default=0.0, ge=0)  # deviation of what is added to a whole channel
    chinese: float = Field(default=0.5, ge=0, le=1)  # share of Chinese captions, of pictures that have both
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # of the first encoder (BERT)
    caption_dropout_t5: float = Field(default=0.1, ge=0, le=1)
    clips_continued: float = Field(default=0.3, ge=0, le=1)  # share of clips that show their first frame
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # share of clicks that hide it (Follow-Your-Click)
    click_captions: float = Field(default=0.3, ge=0, le=1)  # share of clicks with the first frame that have a caption

    @model_validator(mode="after")
    def _check(self) -> "FinetuneObjective":
        if self.prediction == "flow" and (self.min_snr_gamma is not None or self.terminal_snr == "zero"):
            raise ValueError("min_snr_gamma and terminal_snr are of diffusion; leave them out with prediction 'flow'")
        if self.prediction == "epsilon" and self.terminal_snr == "zero":
            raise ValueError("nothing can be learnt of pure noise by predicting it; take prediction 'v_prediction'")
        return self


class FinetuneSamples(Section):
    prompts: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = Field(default=None, gt=0)  # None: the model's own
    guidance_scale: float | None = None


class FinetuneRun(Section):
    task: Literal["finetune"]
    run: RunSection
    data: FilesSection
    optimizer: OptimizerSection
    model: FinetuneModel
    objective: FinetuneObjective = FinetuneObjective()
    samples: FinetuneSamples = FinetuneSamples()

    @model_validator(mode="after")
    def _check_films(self) -> "FinetuneRun":
        if self.model.trained == "film" and not self.data.num_frames:
            raise ValueError("model.trained = 'film' without films; name lengths of clips in data.num_frames")
        if self.model.trained == "controlnet" and self.data.num_frames:
            raise ValueError("model.trained = 'controlnet' draws pictures; leave data.num_frames out")
        return self
