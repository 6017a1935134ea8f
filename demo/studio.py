"""The pipelines of one model on one device, loaded once, and what each kind of request does with them.

F frames, H height, W width.
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing import __version__
from dianjing.demo.files import Files
from dianjing.demo.jobs import Job, Result
from dianjing.demo.masks import Masks
from dianjing.demo.requests import AT_ONCE, Abilities, AnimateRequest, FilmRequest, PictureRequest, TalkRequest
from dianjing.demo.watching import Steps, TalkPipeline, Tell
from dianjing.pipelines.conversation.talk import Conversation
from dianjing.pipelines.film_media import film_settings
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.media import Record, run_settings
from dianjing.pipelines.regions import region_settings
from dianjing.pipelines.segmenting import GrabCut, Segmenter
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline

SHARED = ("vae", "text_encoder", "tokenizer", "transformer", "scheduler", "text_encoder_2", "tokenizer_2")


class Studio:
    """Draws for one worker at a time; masks are answered beside it.

    films and animations are None for a model that draws pictures only; model is the name that records carry.
    """

    def __init__(
        self,
        pictures: TextToImagePipeline,
        *,
        model: str,
        films: TextToVideoPipeline | None = None,
        animations: ImageToVideoPipeline | None = None,
        make_segmenter: Callable[[], Segmenter] = GrabCut,
    ):
        self.pictures, self.films, self.animations, self.model = pictures, films, animations, model
        self.talks = TalkPipeline(**pictures.components, **_defaults(pictures))
        self.talks.lexicon, self.talks.names = pictures.lexicon, pictures.names
        self.masks = Masks(make_segmenter)
        if animations is not None:
            animations.segmenter = make_segmenter()
        for pipe in (pictures, films, animations, self.talks):
            if pipe is not None:
                pipe.set_progress_bar_config(disable=True)
        self.abilities = _abilities(pictures, films, model)

    @classmethod
    def open(
        cls, model: str = "sticker", *, device: str = "cpu", dtype: Any = torch.float32, **options: Any
    ) -> "Studio":
        """Load a registry name, a folder or a Hub id once for all pipelines.

        Raises: WeightsError, a ValueError, for what cannot be loaded.
        """
        pictures = TextToImagePipeline.from_pretrained(model, dtype=dtype).to(device)
        name = Path(model).resolve().name if Path(model).is_dir() else model  # where a folder lies is nobody's business
        if not pictures.transformer.config.use_motion_blocks:
            return cls(pictures, model=name, **options)
        parts = {name: pictures.components[name] for name in SHARED}
        films, animations = (
            pipeline.from_pretrained(model, dtype=dtype, **parts)
            for pipeline in (TextToVideoPipeline, ImageToVideoPipeline)
        )
        return cls(pictures, model=name, films=films, animations=animations, **options)

    def run(self, job: Job, files: Files, *, tell: Tell) -> Result:
        """Draw what a job asks for, and write its files. tell hears every step, and may raise to stop the run."""
        request, label = job.request, {"visible_label": job.request.visible_label}
        if isinstance(request, PictureRequest):
            images, records = self._draw(request, tell)
            paths, fit, turn = files.save_pictures(job.id, images, records, **label), None, None
        elif isinstance(request, TalkRequest):
            turn, records = self._say(request, tell)
            paths, fit = files.save_pictures(job.id, [turn.image], records, **label), None
        else:
            assert request.fps is not None
            frames, records, fit = self._film(request, tell)
            paths, turn = files.save_film(job.id, frames, records[0], fps=request.fps, **label), None
        said = records[0].prompt
        unknown = self.pictures.unknown_words(said) if said else []
        return Result(files=paths, records=records, unknown_words=tuple(unknown), fit=fit, turn=turn)

    def conversation(
        self, *, seed: int = 0, num_inference_steps: int | None = None, guidance_scale: float | None = None
    ) -> Conversation:
        """A new conversation for `TalkRequest`; it holds the model, so do not copy it deeply."""
        return Conversation(
            self.talks, seed=seed, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale
        )

    def mask(
        self, image: Image.Image, points: Sequence[tuple[float, float]], labels: Sequence[int | bool]
    ) -> np.ndarray:
        """`Masks.mask`: bool (H, W). Waits for other masks only, never for the worker."""
        return self.masks.mask(image, points, labels)

    def free_memory(self) -> None:
        """After a run that had too little."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _draw(self, request: PictureRequest, tell: Tell) -> tuple[list[Image.Image], tuple[Record, ...]]:
        assert request.seed is not None
        assert request.num_inference_steps is not None
        seeds = [request.seed + i for i in range(request.num_images)]
        batches = [seeds[i : i + AT_ONCE] for i in range(0, len(seeds), AT_ONCE)]
        on_step = Steps(self.pictures, tell, steps=[sum(steps for _, steps in request.runs(self.abilities))])
        images: list[Image.Image] = []
        for batch in batches:
            drawn: Any = self.pictures(
                request.prompt, num_images_per_prompt=len(batch),
                generator=[torch.Generator().manual_seed(seed) for seed in batch],
                callback_on_step_end=on_step, **_common(request),
            )  # fmt: skip
            images += drawn.images
        size = {"width": request.width, "height": request.height}
        settings = {**size, "negative_prompt": request.negative_prompt, **run_settings(self.pictures)}
        return images, tuple(self._record(request.prompt, seed, settings) for seed in seeds)

    def _say(self, request: TalkRequest, tell: Tell) -> tuple[Any, tuple[Record, ...]]:
        self.talks.listen(tell)
        try:
            turn = request.conversation.say(request.text)
        finally:
            self.talks.listen(None)
        settings = {"width": turn.image.width, "height": turn.image.height, **run_settings(self.talks)}
        return turn, (self._record(turn.prompt, turn.seed, settings),)

    def _film(
        self, request: FilmRequest | AnimateRequest, tell: Tell
    ) -> tuple[np.ndarray, tuple[Record, ...], str | None]:
        """Frames uint8 (F, H, W, 3), their record, and how an uploaded picture was cut."""
        assert request.seed is not None
        assert request.fps is not None
        common = {
            **_common(request), "num_frames": request.num_frames, "fps": request.fps, "output_type": "uint8",
            "generator": torch.Generator().manual_seed(request.seed),
        }  # fmt: skip
        own: dict[str, Any] = {"negative_prompt": request.negative_prompt}
        fit = None
        pipe: Any = self.animations if isinstance(request, AnimateRequest) else self.films
        on_step = Steps(pipe, tell, steps=[steps for _, steps in request.runs(self.abilities)])
        if isinstance(request, AnimateRequest):
            made = pipe(request.image, request.regions, request.prompt, callback_on_step_end=on_step, **common)
            own["regions"], fit = [region_settings(region) for region in request.regions], str(made.fit)
        else:
            common |= self._left_open(request)
            made = pipe(request.prompt, long_film=request.long_film, callback_on_step_end=on_step, **common)
            own["long_film"] = request.long_film
        frames = made.frames[0]
        settings = {**film_settings(frames, request.fps), **run_settings(pipe), **own}
        return frames, (self._record(request.prompt, request.seed, settings),), fit

    def _left_open(self, request: FilmRequest) -> dict[str, None]:
        """Steps and guidance as the model has them are left to it: frames that go on may take fewer than a picture."""
        names = ("num_inference_steps", "guidance_scale")
        return {name: None for name in names if getattr(request, name) == getattr(self.abilities, name)}

    def _record(self, prompt: str, seed: int, settings: dict[str, object]) -> Record:
        return Record(prompt=prompt, seed=seed, settings=settings, model=self.model, version=__version__)


def _abilities(pictures: TextToImagePipeline, films: TextToVideoPipeline | None, model: str) -> Abilities:
    config, scale = pictures.transformer.config, pictures.vae_scale_factor
    film: dict[str, Any] = {}
    if films is not None:
        film = {
            "num_frames": films.config.default_num_frames, "fps": films.config.default_fps,
            "max_regions": config.max_regions, "has_motion_field": config.use_motion_field,
            "film_steps": films.config.default_film_steps,
            "film_guidance_scale": films.config.default_film_guidance_scale,
        }  # fmt: skip
    return Abilities(
        model=model,
        side_px=config.sample_size * scale,
        size_multiple_px=config.patch_size * scale,
        num_inference_steps=pictures.config.default_num_inference_steps,
        guidance_scale=pictures.config.default_guidance_scale,
        **film,
    )


def _defaults(pipe: TextToImagePipeline) -> dict[str, Any]:
    names = ("default_num_inference_steps", "default_guidance_scale")
    return {name: pipe.config[name] for name in names}


def _common(request: PictureRequest | FilmRequest | AnimateRequest) -> dict[str, Any]:
    """What every pipeline takes."""
    names = ("width", "height", "num_inference_steps", "guidance_scale", "negative_prompt")
    return {name: getattr(request, name) for name in names}
