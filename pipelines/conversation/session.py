"""Multi-turn image editing: an instruction is parsed into edits of the scene, and the changed regions are rendered."""

from collections.abc import Callable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from dianjing.pipelines.conversation.captions import caption_scene
from dianjing.pipelines.conversation.edit_summary import summarize_edit
from dianjing.pipelines.conversation.edits import Edit, NewScene, Regenerate, Undo, apply_edit
from dianjing.pipelines.conversation.errors import EditError
from dianjing.pipelines.conversation.parsing.base import InstructionParser, detect_language
from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser
from dianjing.pipelines.conversation.scene import Scene
from dianjing.pipelines.conversation.storage import ConversationState, read_conversation_file, write_conversation_file
from dianjing.pipelines.conversation.turn import Turn
from dianjing.pipelines.few_steps import should_use_few_steps
from dianjing.pipelines.named_adapters import get_adapter_state
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.pipelines.validation import (
    MAX_SEED,
    check_guidance_scale,
    check_num_inference_steps,
    check_prompt,
    check_seed,
)
from dianjing.weights import registry
from dianjing.weights.resolve import resolve_local_model


class Conversation:
    """Multi-turn image generation and editing by instructions; what an instruction does not mention stays as it was.

    model: a registry name, a folder, a Hub id, or a `TextToImagePipeline`; weights load when the first image is
    generated. parser: turns a text into edits, None for the built-in rules. seed: seed of the noise that all images
    share. slow: as for `TextToImagePipeline`. load_pipeline: loads the weights of `model`, None for
    `TextToImagePipeline.from_pretrained`.

        conversation = Conversation(seed=7)
        conversation.send("a cat on the grass").image.save("cat.png")
        conversation.send("add a dog on the left").image.save("cat-and-dog.png")
    """

    def __init__(
        self,
        model: Any = "sticker",
        *,
        seed: int = 0,
        parser: InstructionParser | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        slow: bool | None = None,
        load_pipeline: Callable[[Any], Any] | None = None,
    ):
        self.model, self.load_pipeline = model, load_pipeline
        self.seed = check_seed(seed)
        self.num_inference_steps = (
            None if num_inference_steps is None else check_num_inference_steps(num_inference_steps)
        )
        self.guidance_scale = None if guidance_scale is None else check_guidance_scale(guidance_scale)
        self.slow = slow
        self.turns: tuple[Turn, ...] = ()
        self.concept_vocabulary = _load_concept_vocabulary(model)
        self.parser = RuleParser(self.concept_vocabulary) if parser is None else parser
        self._renderers: dict[tuple, Any] = {}

    @property
    def slow(self) -> bool | None:
        """True for the model alone, False for few steps, None for the default, see `TextToImagePipeline`."""
        return self._slow

    @slow.setter
    def slow(self, slow: bool | None) -> None:
        steps, guidance_scale = self.num_inference_steps, self.guidance_scale
        should_use_few_steps(slow, {"num_inference_steps": steps, "guidance_scale": guidance_scale})
        self._slow = slow

    def send(self, text: str) -> Turn:
        """Generate the first image, or edit the last one, as the text asks.

        Raises: DianjingError for a text that cannot be understood or done; the conversation stays as it was.
        """
        check_prompt(text, "text")
        language = detect_language(text)
        instruction = self.parser.parse(text, self.turns[-1].scene if self.turns else None)
        turns, scene, seed, changes = self._apply_edits(instruction.edits, language)
        is_new = not turns or any(isinstance(edit, NewScene) for edit in instruction.edits)
        is_undo = all(isinstance(edit, Undo) for edit in instruction.edits)
        if is_undo:
            image, latents = turns[-1].image, turns[-1].latents
        else:
            image, latents = self._render(scene, seed, previous=None if is_new else turns[-1], text=text)
        turn = Turn(
            text=text,
            prompt=caption_scene(scene, self.concept_vocabulary, language=language),
            changes=changes,
            hints=instruction.hints,
            scene=scene,
            seed=seed,
            image=image,
            latents=latents,
        )
        self.turns = turns if is_undo else (*turns, turn)
        return turn

    def _apply_edits(
        self, edits: Sequence[Edit], language: str
    ) -> tuple[tuple[Turn, ...], Scene, int, tuple[str, ...]]:
        """Return the remaining turns, the scene and its seed after the edits, and a summary of each edit."""
        turns = self.turns
        scene, seed = (turns[-1].scene, turns[-1].seed) if turns else (None, self.seed)
        changes: list[str] = []
        for edit in edits:
            changes.append(summarize_edit(edit, scene, self.concept_vocabulary, language=language))
            if isinstance(edit, Undo):
                if len(turns) < 2:
                    raise EditError("no_previous_image")
                turns = turns[:-1]
                scene, seed = turns[-1].scene, turns[-1].seed
            else:
                seed = (seed + isinstance(edit, Regenerate)) % (MAX_SEED + 1)
                scene = apply_edit(scene, edit)
        assert scene is not None
        return turns, scene, seed, tuple(changes)

    def undo(self) -> Turn | None:
        """Remove the last turn, and return the one before it, or None if there is none.

        Raises: DianjingError if there is no turn.
        """
        if not self.turns:
            raise EditError("nothing_to_undo")
        self.turns = self.turns[:-1]
        return self.turns[-1] if self.turns else None

    def fork(self) -> "Conversation":
        """Return a copy with the same turns; neither changes the other from then on."""
        other = Conversation.__new__(Conversation)
        other.__dict__.update(self.__dict__)
        return other

    def save(self, path: str | PathLike) -> None:
        """Write all turns with their images to one JSON file, atomically.

        Raises: DianjingError for a path that cannot be written.
        """
        state = ConversationState(
            seed=self.seed,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            slow=self.slow,
            turns=self.turns,
        )
        write_conversation_file(Path(path), state)

    @classmethod
    def load(cls, path: str | PathLike, model: Any = "sticker", **options: Any) -> "Conversation":
        """Load a saved conversation, without loading any weights.

        options: parser and load_pipeline, as for a new one.

        Raises: DianjingError for a file that holds no conversation.
        """
        state = read_conversation_file(Path(path))
        conversation = cls(
            model,
            seed=state.seed,
            num_inference_steps=state.num_inference_steps,
            guidance_scale=state.guidance_scale,
            slow=state.slow,
            **options,
        )
        conversation.turns = state.turns
        return conversation

    @cached_property
    def pipe(self) -> Any:
        """The text-to-image pipeline, loaded at the first use."""
        if not isinstance(self.model, str | PathLike):
            return self.model
        if self.load_pipeline is not None:
            return self.load_pipeline(self.model)
        from dianjing.pipelines.text_to_image import TextToImagePipeline

        pipe = TextToImagePipeline.from_pretrained(self.model)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _render(self, scene: Scene, seed: int, *, previous: Turn | None, text: str) -> tuple[Image.Image, Any]:
        from dianjing.pipelines.conversation.renderer import SceneRenderer

        adapters = get_adapter_state(self.pipe)  # a renderer keeps the backgrounds of its weights
        key = (seed, self.slow, adapters)
        if key not in self._renderers:
            self._renderers[key] = SceneRenderer(
                self.pipe,
                concept_vocabulary=self.concept_vocabulary,
                seed=seed,
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                slow=self.slow,
            )
        renderer = self._renderers[key]
        # prompts of one language in all turns: in the other one, the same background would come out different
        language = detect_language(self.turns[0].text if self.turns else text)
        is_continued = previous is not None and previous.seed == seed
        pair = (previous.scene, previous.latents) if previous is not None and is_continued else None
        latents = renderer.render(scene, language=language, previous=pair)
        return renderer.decode_image(latents), latents.cpu()


def _load_concept_vocabulary(model: Any) -> ConceptVocabulary:
    """Return the names that a model knows of objects, colours and backgrounds; else those of the bundled model."""
    folder = None
    if isinstance(model, str | PathLike):
        folder = resolve_local_model(model)
    elif (concept_vocabulary := getattr(model, "concept_vocabulary", None)) is not None:
        return concept_vocabulary
    if folder is None or not (folder / CONCEPTS_FILE).is_file():
        folder = next(entry.bundled_folder for entry in registry.MODELS if entry.bundled_folder is not None)
        assert folder is not None
    return ConceptVocabulary.from_file(folder / CONCEPTS_FILE)
