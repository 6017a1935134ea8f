"""Building a text-to-image run: its tokenizers, its task, and the definition of the task."""

from pathlib import Path

from accelerate import Accelerator

from dianjing.train.config.text_to_image import TextToImageObjectiveConfig, TextToImageRunConfig
from dianjing.train.data.captions import BilingualCaptionEncoder
from dianjing.train.data.samples import CaptionEncoder, SampleSource
from dianjing.train.diffusion.noise_process import NoiseProcess, make_vp_diffusion
from dianjing.train.tasks.base import CardSections, Task
from dianjing.train.tasks.scratch import VALIDATION_SEED_OFFSET, ScratchDefinition
from dianjing.train.tasks.text_to_image import TextToImageTask
from dianjing.train.tokenizers import extend_tokenizers, save_tokenizers

USAGE = """\
from dianjing import TextToImagePipeline

pipe = TextToImagePipeline.from_pretrained("FOLDER")"""


class TextToImageDefinition(ScratchDefinition[TextToImageRunConfig]):
    """The definition of task "text_to_image"."""

    config_class = TextToImageRunConfig

    def make_task(
        self, config: TextToImageRunConfig, source: SampleSource, accelerator: Accelerator
    ) -> tuple[Task, CaptionEncoder]:
        samples, seed = config.samples, config.run.seed + VALIDATION_SEED_OFFSET
        model = config.model.model_copy(update={"tokenizers": prepare_tokenizers(config, source, accelerator)})
        captions = BilingualCaptionEncoder(model, config.objective)
        clips = [
            source.get_controlled_clip(seed, position, num_frames=samples.num_frames, fps=config.data.fps)
            for position in range(samples.num_controlled_clips)
        ]
        task = TextToImageTask(
            model, config.objective, samples, captions, size_px=config.data.size_px, validation_clips=clips
        )
        return task, captions

    def make_noise_process(self, config: TextToImageRunConfig) -> tuple[NoiseProcess, TextToImageObjectiveConfig]:
        return make_vp_diffusion(config.objective), config.objective

    def make_card_sections(self, config: TextToImageRunConfig, folder: Path) -> CardSections:
        has_video = config.model.transformer.use_motion_blocks
        return CardSections(
            description=f"A text-to-{'image and text-to-video' if has_video else 'image'} model", usage=USAGE
        )


def prepare_tokenizers(config: TextToImageRunConfig, source: SampleSource, accelerator: Accelerator) -> Path:
    """The folder of the run's tokenizers: as configured, or made by the main process when the run first starts.

    They are built from captions of the whole curriculum, or extend those of `start_from` with the words of clips.
    """
    model, run = config.model, config.run
    has_clips = any(bucket.kind != "image" for bucket in config.data.buckets)
    if model.tokenizers is not None:
        return model.tokenizers
    if model.start_from is not None and not has_clips:
        return model.start_from
    folder, seed = run.folder / "tokenizers", run.seed + VALIDATION_SEED_OFFSET
    with accelerator.main_process_first():
        if (folder / "tokenizer_2").exists():
            return folder
        num_clips = model.num_tokenizer_clips if has_clips else 0
        texts = collect_clip_texts(source, seed, fps=config.data.fps, num_clips=num_clips)
        if model.start_from is not None:
            extend_tokenizers(model.start_from, folder, texts)
            return folder
        stride = max(1, run.total_steps * run.batch_size // model.num_tokenizer_captions)
        for index in range(model.num_tokenizer_captions):
            sample = source.get_image_sample(seed, index * stride)
            texts += (sample.text_zh, sample.text_en)
        names = get_sticker_names()
        save_tokenizers(folder, texts, names=names, text_len=model.text_len, text_len_t5=model.text_len_t5)
    return folder


def collect_clip_texts(source: SampleSource, seed: int, *, fps: float, num_clips: int) -> list[str]:
    """Captions of clips, and all phrases for the motions in them."""
    texts: list[str] = []
    for position in range(num_clips):
        clip = source.get_captioned_clip(seed, position, num_frames=2, fps=fps)
        texts += (clip.text_zh, clip.text_en)
        texts += (text for phrases in clip.motion_phrases if phrases is not None for some in phrases for text in some)
    return texts


def get_sticker_names() -> list[str]:
    """Chinese names of the sticker world that become single tokens."""
    from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

    return [*(name for sprite in load_sprite_classes() for name in sprite.names_zh), *(c.name_zh for c in COLOURS)]
