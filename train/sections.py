"""The parts of a run file, typed: what may stand in it, and what it means."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Section(BaseModel):
    """A frozen part of the run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunSection(Section):
    folder: Path  # metrics, samples, checkpoints and the export land here
    seed: int = 0
    total_steps: int = Field(gt=0)
    max_minutes: float | None = Field(default=None, gt=0)  # from the start: save, export and leave when over
    batch_size: int = Field(gt=0)  # the global batch: all processes and accumulations together
    accumulation: int = Field(default=1, gt=0)
    mixed_precision: Literal["no", "bf16"] = "no"
    # of float32 products, as torch.set_float32_matmul_precision has it: "medium" is bfloat16 on a CPU
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    compile: Literal["none", "default", "max-autotune-no-cudagraphs"] = "none"
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(default=1000, gt=0)
    checkpoint_every: int = Field(default=1000, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # besides metrics.jsonl
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float16"


class StageSection(Section):
    """A stretch of the curriculum: kinds of scene with their shares, up to a fraction of the run."""

    kinds: dict[str, float]
    snap_px: tuple[PositiveInt, ...] = (1,)  # grids for places and sizes; each scene takes one
    coloured: float | None = Field(default=None, ge=0, le=1)  # share of mentions with a colour; None: as it falls
    sized: float = Field(default=0.4, ge=0, le=1)  # share of single objects asked for big or small
    tidy: float = Field(default=0.0, ge=0, le=1)  # share of scenes with the most usual sizes and places
    least_amplitude: float = Field(default=0.3, gt=0, lt=1)  # of motions in clips; the greatest is 1
    until: float | None = Field(default=None, gt=0, lt=1)  # None: to the end


class BucketSection(Section):
    """Steps whose samples are alike: pictures, clips with captions, or clips with clicks."""

    kind: Literal["picture", "clip", "click"] = "picture"
    num_frames: int = Field(default=1, gt=0)
    batch_size: int | None = Field(default=None, gt=0)  # None: the run's, which no bucket may exceed
    share: float = Field(default=1.0, gt=0)  # of the steps, against the other buckets

    @model_validator(mode="after")
    def _check_frames(self) -> "BucketSection":
        if (self.num_frames == 1) != (self.kind == "picture"):
            raise ValueError(f"a {self.kind} of {self.num_frames} frames; a picture has 1, a clip or click more")
        return self


class SetSection(Section):
    """One data set of pictures: a folder, a table, a saved data set, or shards of tar."""

    path: Path
    repeats: float = Field(default=1.0, gt=0)  # how often each picture takes part in an epoch
    image: str = "image"  # columns of a table
    text_zh: str = "text_zh"
    text_en: str = "text_en"


class DataSection(Section):
    size_px: int = Field(default=128, gt=0)
    stages: tuple[StageSection, ...] = Field(min_length=1)
    buckets: tuple[BucketSection, ...] = (BucketSection(),)
    fps: float = Field(default=8.0, gt=0)  # of clips
    workers: int = Field(default=0, ge=0)
    prefetch: int = Field(default=2, gt=0)  # micro-batches in flight per worker
    # steps in a row that train on the same samples, each with fresh noise; for devices faster than the workers
    repeat_steps: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _check_repeats(self) -> "DataSection":
        if self.repeat_steps > 1 and len(self.buckets) > 1:
            raise ValueError("repeat_steps takes runs of one bucket; with several, leave it at 1")
        return self


class OptimizerSection(Section):
    # adamw8bit: moments in eight bits; schedule_free: its own average in place of ema_decay (Defazio et al. 2024)
    kind: Literal["adamw", "adamw8bit", "schedule_free"] = "adamw"
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01  # matrices and kernels only; never biases, norms, embeddings
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    # the end that the cosine comes down to: total_steps, or run.max_minutes for a run that has a time and no number
    decay_over: Literal["steps", "time"] = "steps"
    final_fraction: float = Field(default=0.05, ge=0, le=1)  # of the learning rate, at the end
    ema_decay: float = Field(default=0.9995, ge=0, lt=1)
    snapshot_every: int | None = Field(default=None, gt=0)  # steps; for averages whose length is chosen afterwards

    @model_validator(mode="after")
    def _check_schedule(self) -> "OptimizerSection":
        if self.kind == "schedule_free" and self.schedule != "constant":
            raise ValueError(f"kind 'schedule_free' with schedule {self.schedule!r}; it takes schedule = 'constant'")
        return self


class AutoencoderModel(Section):
    """Shape of diffusers' AutoencoderKL; one level per entry of block_out_channels."""

    latent_channels: int = 8
    block_out_channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 1
    norm_num_groups: int = 16
    encoder: Literal["learned", "principal"] = "learned"  # principal: fixed, the decoder alone is trained
    whitening: float = Field(default=0.5, ge=0, le=1)  # of principal components; 1 makes all as strong
    start_from: Path | None = None  # a diffusers AutoencoderKL folder of the same shape; None: from scratch


class AutoencoderObjective(Section):
    l1: float = 1.0
    mse: float = 0.0  # flat colours are learnt sooner with it
    edges: float = 1.0
    edge_scales: int = Field(default=3, ge=1)
    kl: float = 3e-4  # per latent number
    latent_noise: float = Field(default=0.0, ge=0)  # extra noise the decoder learns to bear


class AutoencoderSamples(Section):
    pictures: int = Field(default=16, gt=0)
    measured_pictures: int = Field(default=512, gt=0)  # for the scaling factor, at export


class SegmenterModel(Section):
    """Shape of diffusers' UNet2DModel."""

    start_from: Path | None = None  # an exported segmenter/ of the same shape; None: from scratch
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8


class BertSection(Section):
    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512


class T5Section(Section):
    d_model: int = 192
    num_layers: int = 3
    num_heads: int = 4
    d_kv: int = 48
    d_ff: int = 384


class TransformerSection(Section):
    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 2
    pooled_projection_dim: int = 256
    use_motion_blocks: bool = False
    max_regions: int = Field(default=0, ge=0)  # that can be clicked on at once
    motion_span: Literal["place", "picture"] = "place"  # how far a place sees over time
    motion_every: int = Field(default=1, ge=1)  # layers to each motion block
    use_motion_field: bool = False  # clicks move the first frame itself


class TextToImageModel(Section):
    vae: Path  # a diffusers AutoencoderKL folder; frozen
    start_from: Path | None = None  # an export of the same shape, tokenizers included; None: from scratch
    tokenizers: Path | None = None  # holds tokenizer/ and tokenizer_2/; None: start_from's, or new ones
    tokenizer_captions: int = Field(default=40_000, gt=0)
    text_len: int = 64
    text_len_t5: int = 64
    phrase_len: int = Field(default=12, gt=0)  # tokens of a motion phrase
    # film: motion blocks and clicks, but for the motion field; field: that alone; pictures: the transformer's rest
    trained: Literal["all", "film", "field", "pictures"] = "all"
    attention_backend: str | None = None  # a name diffusers' dispatcher knows; None: its default
    compile_whole: bool = True  # where run.compile says so; False: block by block, which takes seconds, not minutes
    bert: BertSection = BertSection()
    t5: T5Section = T5Section()
    transformer: TransformerSection = TransformerSection()


class TimestepsSection(Section):
    """Which timesteps are trained at, and how often."""

    timesteps: Literal["uniform", "stratified", "logit_normal"] = "stratified"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)


class TextToImageObjective(TimestepsSection):
    beta_start: float = Field(default=0.00085, gt=0)
    beta_end: float = Field(default=0.03, gt=0, lt=1)
    min_snr_gamma: float | None = Field(default=None, gt=0)
    clip_shift: float = Field(default=1.0, gt=0)  # of timesteps of clips: more noise, where it is decided what moves
    chinese: float = Field(default=0.5, ge=0, le=1)  # share of Chinese captions
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # both encoders together, motion phrases too
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # share of clicks that hide it (Follow-Your-Click)
    clips_continued: float = Field(default=0.3, ge=0, le=1)  # share of clips that show their first frame
    ways: float = Field(default=1.0, gt=0)  # weight of a motion field's error, in latents, where it is trained
    click_captions: float = Field(default=0.3, ge=0, le=1)  # share of clicks with the first frame that have one


class TextToImageSamples(Section):
    prompts: tuple[str, ...] = ()
    seed: int = 0
    steps: int = Field(default=20, gt=0)
    guidance_scale: float = 5.0
    num_frames: int = Field(default=8, gt=1)  # of films and clicks
    films: tuple[str, ...] = ()  # prompts of clips, drawn below the pictures
    clicks: int = Field(default=0, ge=0)  # clips from clicks, drawn below


class AutoencoderRun(Section):
    task: Literal["autoencoder"]
    run: RunSection
    data: DataSection
    optimizer: OptimizerSection
    model: AutoencoderModel = AutoencoderModel()
    objective: AutoencoderObjective = AutoencoderObjective()
    samples: AutoencoderSamples = AutoencoderSamples()


class SegmenterRun(Section):
    task: Literal["segmenter"]
    run: RunSection
    data: DataSection
    optimizer: OptimizerSection
    model: SegmenterModel = SegmenterModel()


class TextToImageRun(Section):
    task: Literal["text_to_image"]
    run: RunSection
    data: DataSection
    optimizer: OptimizerSection
    model: TextToImageModel
    objective: TextToImageObjective = TextToImageObjective()
    samples: TextToImageSamples = TextToImageSamples()

    @model_validator(mode="after")
    def _check_buckets(self) -> "TextToImageRun":
        shape, kinds = self.model.transformer, {bucket.kind for bucket in self.data.buckets}
        if kinds - {"picture"} and not shape.use_motion_blocks:
            raise ValueError("buckets of clips need model.transformer.use_motion_blocks = true")
        if "click" in kinds and not shape.max_regions:
            raise ValueError("a bucket of clicks needs model.transformer.max_regions")
        if self.model.trained == "film" and "picture" in kinds:
            raise ValueError('model.trained = "film" with a bucket of pictures, which would train nothing')
        if self.model.trained == "pictures" and kinds != {"picture"}:
            raise ValueError('model.trained = "pictures" needs buckets of pictures alone')
        if self.model.trained == "field" and not (kinds == {"click"} and shape.use_motion_field):
            raise ValueError('model.trained = "field" takes buckets of clicks alone, and transformer.use_motion_field')
        return self
