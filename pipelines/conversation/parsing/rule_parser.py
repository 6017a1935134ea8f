"""The built-in parser: a text is split into clauses, and rules turn each clause into edits, without any model."""

import re
from dataclasses import dataclass
from functools import cached_property

from dianjing.errors import Message
from dianjing.pipelines.conversation.edits import Edit, Undo, apply_edit
from dianjing.pipelines.conversation.errors import EditError, LocalizedName
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
    """Instruction parser for Chinese and English, with the vocabulary of a model."""

    concept_vocabulary: ConceptVocabulary

    @cached_property
    def _tokenizer(self) -> InstructionTokenizer:
        return InstructionTokenizer(self.concept_vocabulary)

    def parse(self, text: str, scene: Scene | None) -> ParsedInstruction:
        """Parse a text. Raises: EditError for a text without an instruction that is understood."""
        tokens, unknown = self._tokenizer.tokenize(text)
        hints = (Message("unknown_words", words=unknown).render(detect_language(text)),) if unknown else ()
        full_clause = parse_clause(tokens)
        if "undo" in full_clause.senses and not any(mention.name for mention in full_clause.target_mentions):
            return ParsedInstruction(edits=(Undo(),))
        edits: list[Edit] = []
        if scene is None or "new" in full_clause.senses:
            edits = parse_new_scene(full_clause)
        else:
            clauses = self._split_clauses(text)
            while clauses:
                clause = clauses.pop(0)
                replacement = parse_split_replacement(clause, clauses[0], scene) if clauses else None
                if replacement is not None:
                    clause_edits, clauses = [replacement], clauses[1:]
                else:
                    clause_edits = self._parse_edits(clause, scene)
                for edit in clause_edits:
                    edits.append(edit)
                    scene = scene if isinstance(edit, Undo) else apply_edit(scene, edit)
        if not edits:
            raise EditError("only_unknown_words", words=unknown) if unknown else EditError("no_instruction")
        return ParsedInstruction(edits=tuple(edits), hints=hints)

    def _parse_edits(self, clause: Clause, scene: Scene) -> list[Edit]:
        try:
            return parse_edits(clause, scene)
        except ObjectNotFoundError as error:
            name, entry = str(error), self.concept_vocabulary.find_object(str(error))
            localized = LocalizedName(en=name, zh=name if entry is None else entry.names_zh[0])
            raise EditError("object_not_found", name=localized) from None

    def _split_clauses(self, text: str) -> list[Clause]:
        """Split a text into clauses of one edit; a part without an action joins the clause before it, or else after."""
        parts: list[str] = []
        is_open = False  # the current clause has no action yet
        for part in (part for part in CLAUSE_SEPARATORS.split(text) if part.strip()):
            has_action = bool(parse_clause(self._tokenizer.tokenize(part)[0]).senses & ACTION_SENSES)
            if parts and (is_open or not has_action):
                parts[-1] = f"{parts[-1]} {part}"
                is_open = is_open and not has_action
            else:
                parts.append(part)
                is_open = not has_action
        return [parse_clause(self._tokenizer.tokenize(part)[0]) for part in parts]
