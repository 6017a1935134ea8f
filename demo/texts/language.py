"""Which of the two languages a caller reads."""

from typing import Literal

Language = Literal["zh", "en"]


def language_of(accept_language: str | None) -> Language:
    """Of an Accept-Language header: the one of the two that is wanted most; English where neither is named."""
    wanted: list[tuple[float, Language]] = []
    for part in (accept_language or "").split(","):
        tag, *parameters = (piece.strip().lower() for piece in part.split(";"))
        name = tag.partition("-")[0]
        if name == "zh":
            wanted.append((_weight(parameters), "zh"))
        elif name == "en":
            wanted.append((_weight(parameters), "en"))
    return max(wanted, key=lambda each: each[0])[1] if wanted else "en"


def _weight(parameters: list[str]) -> float:
    """RFC 9110, 12.4.2: 1 unless `q` says less."""
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
