"""How much one server takes on; every number can be chosen."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Limits:
    """max_cost is in pixels x frames x steps: 100 million is two pictures of 1024 px in 50 steps."""

    max_queue: int = 32
    max_queue_per_owner: int = 8
    max_cost: int = 100_000_000
    max_upload_bytes: int = 16 * 2**20
    max_upload_pixels: int = 16_000_000
    max_body_bytes: int = 24 * 2**20  # an upload in base64, and what is said about it
    max_jobs_kept_per_owner: int = 50
    max_jobs_kept: int = 2000
    keep_s: float = 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not value > 0:
                raise ValueError(f"{field.name} is {value!r}; give a number above 0")
