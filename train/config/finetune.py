"""The run file of a fine-tuning."""

from typing import Literal

from pydantic import Field, model_validator

from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig, TimestepSamplingConfig
from dianjing.train.config.data import FinetuneDataConfig


class LoraAdapterConfig(BaseConfig):
    """An adapter by PEFT."""

    kind: Literal["lora", "dora"] = "lora"
    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0)  # None: the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1
    )  # endings of names


class FinetuneModelConfig(BaseConfig):
    name: str  # of the registry, a diffusers folder or a Hub id
    # film: what a model for pictures lacks, time and clicks; controlnet: for line art, drawn from the pictures
    trainable: Literal["lora", "all", "motion", "controlnet"] = "lora"
    text_encoders: Literal["frozen", "joint"] = "frozen"  # joint: trained too, and so not cached
    lora: LoraAdapterConfig = LoraAdapterConfig()
    gradient_checkpointing_interval: int = Field(
        default=0, ge=0
    )  # gradient checkpointing: 0 no block, 1 every one, 2 every other
    attention_backend: str | None = None
    compile_full_model: bool = False  # where run.compile says so: the transformer in one piece, not block by block

    @model_validator(mode="after")
    def _check(self) -> "FinetuneModelConfig":
        if self.text_encoders == "joint" and self.trainable != "all":
            raise ValueError(f"text_encoders = 'joint' with trainable = {self.trainable!r}; it takes trainable = 'all'")
        return self


class FinetuneObjectiveConfig(TimestepSamplingConfig):
    prediction_type: Literal["inherit", "epsilon", "v_prediction", "flow"] = "inherit"
    flow_shift: float = Field(default=1.0, gt=0)  # of flow: more noise for larger pictures
    min_snr_gamma: float | None = Field(default=None, gt=0)
    terminal_snr: Literal["inherit", "zero"] = "inherit"
    noise_offset: float = Field(default=0.0, ge=0)  # deviation of what is added to a whole channel
    zh_probability: float = Field(default=0.5, ge=0, le=1)  # share of Chinese captions, of pictures that have both
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # of the first encoder (BERT)
    caption_dropout_t5: float = Field(default=0.1, ge=0, le=1)
    clip_first_frame_probability: float = Field(default=0.3, ge=0, le=1)  # share of clips that show their first frame
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # share of clicks that hide it (Follow-Your-Click)
    controlled_caption_probability: float = Field(
        default=0.3, ge=0, le=1
    )  # share of clicks with the first frame that have a caption

    @model_validator(mode="after")
    def _check(self) -> "FinetuneObjectiveConfig":
        if self.prediction_type == "flow" and (self.min_snr_gamma is not None or self.terminal_snr == "zero"):
            raise ValueError("min_snr_gamma and terminal_snr are of diffusion; leave them out with prediction 'flow'")
        if self.prediction_type == "epsilon" and self.terminal_snr == "zero":
            raise ValueError("nothing can be learnt of pure noise by predicting it; take prediction 'v_prediction'")
        return self


class FinetuneSamplesConfig(BaseConfig):
    prompts: tuple[str, ...] = ()
    seed: int = 0
    num_inference_steps: int | None = Field(default=None, gt=0)  # None: the model's own
    guidance_scale: float | None = None


class FinetuneRunConfig(BaseConfig):
    task: Literal["finetune"]
    run: RunConfig
    data: FinetuneDataConfig
    optimizer: OptimizerConfig
    model: FinetuneModelConfig
    objective: FinetuneObjectiveConfig = FinetuneObjectiveConfig()
    samples: FinetuneSamplesConfig = FinetuneSamplesConfig()

    @model_validator(mode="after")
    def _check_video(self) -> "FinetuneRunConfig":
        if self.model.trainable == "motion" and not self.data.num_frames:
            raise ValueError("model.trainable = 'motion' without films; name lengths of clips in data.num_frames")
        if self.model.trainable == "controlnet" and self.data.num_frames:
            raise ValueError("model.trainable = 'controlnet' draws pictures; leave data.num_frames out")
        return self
