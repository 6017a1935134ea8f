"""A conversation that draws: every turn changes the picture of the one before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from dianjing.pipelines.conversation.captions import caption
from dianjing.pipelines.conversation.changes import describe
from dianjing.pipelines.conversation.edits import Draw, Edit, Redraw, Undo, apply
from dianjing.pipelines.conversation.reading import language_of
from dianjing.pipelines.conversation.refusals import NO_PICTURE_BEFORE, NOTHING_DRAWN, NotPossibleError
from dianjing.pipelines.conversation.rewriting import Rewriter
from dianjing.pipelines.conversation.rules import Rules
from dianjing.pipelines.conversation.scenes import Scene
from dianjing.pipelines.names import FILE_NAME as NAMES_FILE
from dianjing.pipelines.names import Names
from dianjing.pipelines.request import MAX_SEED, check_guidance, check_prompt, check_seed, check_steps
from dianjing.weights import registry
from dianjing.weights.fetching import local_folder


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One thing said and the picture it led to.

    prompt: the whole scene as understood. changes: what became different, one phrase each. hints: what was passed
    over. latents: (1, C, Y, X), what the next picture goes on from.
    """

    text: str
    prompt: str
    changes: tuple[str, ...]
    hints: tuple[str, ...]
    scene: Scene
    seed: int
    image: Image.Image
    latents: Any


class Conversation:
    """Draws what is said, and changes it as is said next; what was not mentioned stays.

    model: a registry name, a folder, a Hub id, or a `TextToImagePipeline`; weights load when the first picture is
    drawn. rewriter: what turns a text into edits, None for the embedded rules. seed: of the noise all pictures share.
    load_pipe: how weights are loaded, None for `TextToImagePipeline.from_pretrained`.
    """

    def __init__(
        self,
        model: Any = "sticker",
        *,
        seed: int = 0,
        rewriter: Rewriter | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        load_pipe: Callable[[Any], Any] | None = None,
    ):
        self.model, self.load_pipe = model, load_pipe
        self.seed = check_seed(seed)
        self.num_inference_steps = None if num_inference_steps is None else check_steps(num_inference_steps)
        self.guidance_scale = None if guidance_scale is None else check_guidance(guidance_scale)
        self.turns: tuple[Turn, ...] = ()
        self.names = _names_of(model)
        self.rewriter = Rules(self.names) if rewriter is None else rewriter
        self._painters: dict[int, Any] = {}

    def say(self, text: str) -> Turn:
        """Draw what is said, or change the picture as is said.

        Raises: ValueError for what cannot be read, understood or drawn; the conversation is then as it was.
        """
        check_prompt(text, "text")
        language = language_of(text)
        try:
            return self._turn(text, language)
        except NotPossibleError as error:
            raise error.told(language) from None

    def _turn(self, text: str, language: str) -> Turn:
        understood = self.rewriter.rewrite(text, self.turns[-1].scene if self.turns else None)
        turns, scene, seed, changes = self._follow(understood.edits, language)
        is_new = not turns or any(isinstance(edit, Draw) for edit in understood.edits)
        is_back = all(isinstance(edit, Undo) for edit in understood.edits)
        if is_back:
            image, latents = turns[-1].image, turns[-1].latents
        else:
            image, latents = self._draw(scene, seed, before=None if is_new else turns[-1], text=text)
        turn = Turn(
            text=text, prompt=caption(scene, self.names, language=language), changes=changes, hints=understood.hints,
            scene=scene, seed=seed, image=image, latents=latents,
        )  # fmt: skip
        self.turns = turns if is_back else (*turns, turn)
        return turn

    def _follow(self, edits: Sequence[Edit], language: str) -> tuple[tuple[Turn, ...], Scene, int, tuple[str, ...]]:
        """The turns that are left, the scene and its seed after the edits, and what each edit did."""
        turns = self.turns
        scene, seed = (turns[-1].scene, turns[-1].seed) if turns else (None, self.seed)
        changes: list[str] = []
        for edit in edits:
            changes.append(describe(edit, scene, self.names, language=language))
            if isinstance(edit, Undo):
                if len(turns) < 2:
                    raise NotPossibleError(NO_PICTURE_BEFORE)
                turns = turns[:-1]
                scene, seed = turns[-1].scene, turns[-1].seed
            else:
                seed = (seed + isinstance(edit, Redraw)) % (MAX_SEED + 1)
                scene = apply(scene, edit)
        assert scene is not None
        return turns, scene, seed, tuple(changes)

    def undo(self) -> Turn | None:
        """Take back the last turn, and return the one before it, None where that was the first.

        Raises: ValueError where nothing has been said.
        """
        if not self.turns:
            raise NotPossibleError(NOTHING_DRAWN)
        self.turns = self.turns[:-1]
        return self.turns[-1] if self.turns else None

    def fork(self) -> "Conversation":
        """Another conversation that goes on from here; neither changes the other."""
        other = Conversation.__new__(Conversation)
        other.__dict__.update(self.__dict__)
        return other

    def save(self, path: str | PathLike) -> None:
        """Write all turns with their pictures as one JSON file, whole or not at all."""
        from dianjing.pipelines.conversation.files import write

        write(self, Path(path))

    @classmethod
    def load(cls, path: str | PathLike, model: Any = "sticker", **options: Any) -> "Conversation":
        """Go on with a saved conversation; no weights are loaded for it, and none but `model`'s are later.

        options: rewriter and load_pipe, as for a new one.

        Raises: ValueError for a file that holds no conversation.
        """
        from dianjing.pipelines.conversation.files import read

        return read(Path(path), model=model, **options)

    @cached_property
    def pipe(self) -> Any:
        """The pipeline, loaded when first used."""
        if not isinstance(self.model, str | PathLike):
            return self.model
        if self.load_pipe is not None:
            return self.load_pipe(self.model)
        from dianjing.pipelines.text_to_image import TextToImagePipeline

        pipe = TextToImagePipeline.from_pretrained(self.model)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _draw(self, scene: Scene, seed: int, *, before: Turn | None, text: str) -> tuple[Image.Image, Any]:
        from dianjing.pipelines.conversation.painting import Painter

        if seed not in self._painters:
            self._painters[seed] = Painter(
                self.pipe, names=self.names, seed=seed, steps=self.num_inference_steps, guidance=self.guidance_scale
            )
        painter = self._painters[seed]
        # one language for all drawing: a background drawn in another would not be the same
        language = language_of(self.turns[0].text if self.turns else text)
        goes_on = before is not None and before.seed == seed
        pair = (before.scene, before.latents) if before is not None and goes_on else None
        latents = painter.paint(scene, language=language, before=pair)
        return painter.picture(latents), latents.cpu()


def _names_of(model: Any) -> Names:
    """What a model was taught to name; the embedded model's names where it says nothing of that."""
    if not isinstance(model, str | PathLike):
        own = getattr(model, "names", None)
        folder = None
    else:
        own, folder = None, local_folder(model)
    if own is not None:
        return own
    if folder is None or not (folder / NAMES_FILE).is_file():
        folder = next(entry.folder for entry in registry.ENTRIES if entry.folder is not None)
        assert folder is not None
    return Names.from_file(folder / NAMES_FILE)
