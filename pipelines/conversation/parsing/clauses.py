"""Clauses of an instruction: the objects that it mentions with their attributes, and the attributes of no object."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dianjing.pipelines.conversation.edits import ObjectSpec
from dianjing.pipelines.conversation.parsing.tokenizer import Token

EDGE_POSITIONS = ("left", "right", "top", "bottom")
POSITION_TO_RELATION = {"left": "left", "right": "right", "top": "above", "bottom": "below"}
COPULAS = ("是", "有", "is")


@dataclass(frozen=True, kw_only=True)
class ObjectMention:
    """One mention of an object; name None is "it".

    is_new: indefinite, "a cat" as opposed to "the cat". is_anchor: it only says where another object is.
    """

    name: str | None
    count: int | None = None
    colour: str | None = None
    size: str | None = None
    position: str | None = None
    is_new: bool = False
    is_anchor: bool = False

    def to_object_spec(self) -> ObjectSpec:
        """Return the specification of the mentioned object; its name must be given."""
        assert self.name is not None
        return ObjectSpec(
            name=self.name, count=self.count or 1, colour=self.colour, size=self.size, position=self.position
        )


@dataclass(kw_only=True)
class Clause:
    """Senses, mentions and background of a clause, with the attributes that belong to no mention ("make it red")."""

    senses: set[str] = field(default_factory=set)
    mentions: list[ObjectMention] = field(default_factory=list)
    count: int | None = None
    colour: str | None = None
    size: str | None = None
    position: str | None = None
    relation: str | None = None
    background: str | None = None

    @property
    def anchor(self) -> ObjectMention | None:
        return next((mention for mention in self.mentions if mention.is_anchor), None)

    @property
    def target_mentions(self) -> list[ObjectMention]:
        """The mentions without the anchor."""
        return [mention for mention in self.mentions if not mention.is_anchor]


class _ClauseParser:
    """Builds a clause token by token; attributes are collected until the next object takes them."""

    def __init__(self) -> None:
        self.clause = Clause()
        self.count: int | None = None
        self.colour: str | None = None
        self.size: str | None = None
        self.position: str | None = None
        self.is_new = False
        self.next_is_anchor = False
        self.previous_type: str = ""  # type of the previous token: "object", "position", "word" ...
        self.is_demonstrative = False  # the previous token is "this" or "that", perhaps of an object

    def parse_token(self, token: Token, following: Sequence[Token]) -> None:
        if not token.text.strip():
            return
        follows_demonstrative, self.is_demonstrative = self.is_demonstrative, False
        if (name := token.get_value("object")) is not None:
            if follows_demonstrative:  # "that cat"
                self.next_is_anchor = self.clause.mentions.pop().is_anchor
            self._add_mention(name)
        elif (relation := token.get_value("relation")) is not None:
            self.clause.relation, self.next_is_anchor, self.previous_type = relation, True, "relation"
        elif (position := token.get_value("position")) is not None:
            self._parse_position(position, token, following)
        elif (background := token.get_value("background")) is not None:
            self.clause.background, self.previous_type = background, "background"
        elif "pronoun" in token.senses:
            count = len(self.clause.mentions)
            self._add_mention(None)
            self.is_demonstrative = len(self.clause.mentions) > count
        else:
            self._parse_attribute(token)
        self.clause.senses |= {sense for sense in token.senses if " " not in sense}

    def _parse_attribute(self, token: Token) -> None:
        if (number := token.get_value("number")) is not None:
            self.count, self.is_new = int(number), True
        if (colour := token.get_value("colour")) is not None:
            self.colour = colour
        if token.senses & {"big", "small"}:
            self.size = "big" if "big" in token.senses else "small"
        if "indefinite" in token.senses:
            self.is_new = True
        if token.text not in ("的", "of", "s", "'"):
            self.previous_type = "word"

    def _add_mention(self, name: str | None) -> None:
        may_repeat = name is None and self.clause.mentions and not self.next_is_anchor
        if may_repeat and self.clause.mentions[-1].name is not None and not self.clause.mentions[-1].is_new:
            return  # "the cat, make it bigger": one mention
        mention = ObjectMention(
            name=name,
            count=self.count,
            colour=self.colour,
            size=self.size,
            position=self.position,
            is_new=self.is_new,
            is_anchor=self.next_is_anchor,
        )
        self.clause.mentions.append(mention)
        self.count = self.colour = self.size = self.position = None
        self.is_new = self.next_is_anchor = False
        self.previous_type = "object" if name is not None or not mention.is_anchor else "word"

    def _parse_position(self, position: str, token: Token, following: Sequence[Token]) -> None:
        is_chinese = not token.text.isascii()
        if is_chinese and self.previous_type == "object" and position in EDGE_POSITIONS:  # 猫的左边
            self.clause.relation = POSITION_TO_RELATION[position]
            self.clause.mentions[-1] = replace(self.clause.mentions[-1], is_anchor=True)
        elif is_chinese and self.previous_type == "background":
            return  # 雪地上面
        elif following and following[0].text in COPULAS:  # 左边是
            self.position = position
        elif (
            self.clause.mentions
            and self.clause.mentions[-1].position is None
            and not self.clause.mentions[-1].is_anchor
        ):
            self.clause.mentions[-1] = replace(self.clause.mentions[-1], position=position)
        else:
            self.clause.position = position
        self.previous_type = "position"

    def finish(self) -> Clause:
        """Return the clause, with the attributes that no object took."""
        clause = self.clause
        clause.count, clause.colour, clause.size = self.count, self.colour, self.size
        clause.position = clause.position or self.position
        return clause


def parse_clause(tokens: Sequence[Token]) -> Clause:
    """Build the clause of these tokens."""
    parser = _ClauseParser()
    for index, token in enumerate(tokens):
        parser.parse_token(token, tokens[index + 1 :])
    return parser.finish()
