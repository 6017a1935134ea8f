"""What a run tells of every step, and where it can be stopped."""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from dianjing.demo.jobs import Progress
from dianjing.demo.previews import Previews
from dianjing.pipelines.text_to_image import TextToImagePipeline

Tell = Callable[[Progress], None]


class Steps:
    """A `callback_on_step_end` that counts over all windows of one job. steps: of each."""

    def __init__(self, pipe: Any, tell: Tell, *, steps: Sequence[int]):
        self.tell, self.windows = tell, len(steps)
        self.ends = list(accumulate(steps))
        self.total = self.ends[-1]
        self.previews = Previews(pipe)
        self.taken = 0
        tell(Progress(step=0, total=self.total, windows=self.windows))

    def __call__(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        window = min(1 + bisect(self.ends, self.taken), self.windows)
        self.taken += 1
        self.total = max(self.total, self.taken)  # a schedule of higher order has more steps than were asked for
        preview = self.previews.see(step, tensors["latents"])
        self.tell(Progress(step=self.taken, total=self.total, preview=preview, window=window, windows=self.windows))
        return {}


class TalkPipeline(TextToImagePipeline):
    """Tells of every step, also where a conversation's painter runs it; how many runs a turn takes is not known."""

    tell: Tell | None = None
    _taken = 0

    def listen(self, tell: Tell | None) -> None:
        self.tell, self._taken, self._previews = tell, 0, Previews(self)

    def _denoise(self, latents: Any, timesteps: Any, text: Any, *, call_back: Any, **how: Any) -> Any:
        total = self._taken + len(timesteps)

        def told(step: int, timestep: Any, latents: Any, text: Any) -> tuple[Any, Any]:
            if call_back is not None:
                latents, text = call_back(step, timestep, latents, text)  # what stays is part of the preview
            self._taken += 1
            if self.tell is not None:
                preview = self._previews.see(step, latents)
                self.tell(Progress(step=self._taken, total=total, preview=preview))
            return latents, text

        return super()._denoise(latents, timesteps, text, call_back=told, **how)
