"""The base of request bodies, and the ranges in their documentation."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def make_bounds(low: float, high: float) -> dict[str, Any]:
    """The part of a field's JSON schema that documents its range."""
    return {"minimum": low, "maximum": high}


class StrictSchema(BaseModel):
    """The base of all bodies: a field that is null counts as left out, also one that does not exist here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data
