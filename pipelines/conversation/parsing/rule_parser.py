"""Rule parser."""

import re
from dataclasses import dataclass
from functools import cached_property

from dianjing.pipelines.conversation.edits import Edit, Undo, apply_edit
from dianjing.pipelines.conversation.messages import (
    NO_INSTRUCTION,
    OBJECT_NOT_FOUND,
    ONLY_UNKNOWN_WORDS,
    UNKNOWN_WORDS,
    EditError,
)
from dianjing.pipelines.conversation.parsing.base import ParsedInstruction, detect_language
from dianjing.pipelines.conversation.parsing.clauses import Clause, parse_clause
from dianjing.pipelines.conversation.parsing.rules import (
    ACTION_SENSES,
    ObjectNotFoundError,
    parse_edits,
    parse_new_scene,
    parse_split_replacement,
)
from dianjing.pipelines.conversation.parsing.tokenizer import InstructionTokenizer
from dianjing.pipelines.conversation.scene import Scene
from dianjing.pipelines.prompting.concepts import ConceptVocabulary

CLAUSE_SEPARATORS = re.compile(
    r"[,，;；.。!！?？、\n]+(?!不如)|\band then\b|\bthen\b|然后|并且|同时|接着|顺便|\band (?=[a-z]+\b)"
)


@dataclass(frozen=True)
class RuleParser:
    """Knows the names of a model; `Rewriter`."""

    concept_vocabulary: ConceptVocabulary

    @cached_property
    def _tokenizer(self) -> InstructionTokenizer:
        return InstructionTokenizer(self.concept_vocabulary)

    def parse(self, text: str, scene: Scene | None) -> ParsedInstruction:
        """Raises: NotPossibleError for a text that asks for nothing that is understood."""
        language = detect_language(text)
        read, unknown = self._tokenizer.tokenize(text)
        words = ("、" if language == "zh" else ", ").join(unknown)
        hints = (UNKNOWN_WORDS.render(language, words=words),) if unknown else ()
        whole = parse_clause(read)
        if "undo" in whole.senses and not any(mention.name for mention in whole.target_mentions):
            return ParsedInstruction(edits=(Undo(),))
        edits: list[Edit] = []
        if scene is None or "new" in whole.senses:
            edits = parse_new_scene(whole)
        else:
            clauses = self._split_clauses(text)
            while clauses:
                clause = clauses.pop(0)
                if (instead := parse_split_replacement(clause, clauses[0], scene) if clauses else None) is not None:
                    found, clauses = [instead], clauses[1:]
                else:
                    found = self._parse_edits(clause, scene, language)
                for edit in found:
                    edits.append(edit)
                    scene = scene if isinstance(edit, Undo) else apply_edit(scene, edit)
        if not edits:
            raise EditError(ONLY_UNKNOWN_WORDS if unknown else NO_INSTRUCTION, language, words=words)
        return ParsedInstruction(edits=tuple(edits), hints=hints)

    def _parse_edits(self, clause: Clause, scene: Scene, language: str) -> list[Edit]:
        try:
            return parse_edits(clause, scene)
        except ObjectNotFoundError as error:
            entry = self.concept_vocabulary.find_object(str(error))
            name = entry.names_zh[0] if entry is not None and language == "zh" else str(error)
            raise EditError(OBJECT_NOT_FOUND, language, name=name) from None

    def _split_clauses(self, text: str) -> list[Clause]:
        """Split where one change ends; a part that asks for none belongs to the one before, or else after."""
        parts: list[str] = []
        is_open = False  # nothing is asked for yet
        for part in (part for part in CLAUSE_SEPARATORS.split(text) if part.strip()):
            asks = bool(parse_clause(self._tokenizer.tokenize(part)[0]).senses & ACTION_SENSES)
            if parts and (is_open or not asks):
                parts[-1] = f"{parts[-1]} {part}"
                is_open = is_open and not asks
            else:
                parts.append(part)
                is_open = not asks
        return [parse_clause(self._tokenizer.tokenize(part)[0]) for part in parts]
