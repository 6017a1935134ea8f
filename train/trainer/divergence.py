"""Signs of a run that does not learn: a loss that grows tenfold, or does not fall."""

from collections.abc import Iterable, Mapping
from statistics import fmean, median

from dianjing.errors import Message

WINDOW_STEPS = 20  # the loss of a single step depends on its timesteps most of all
MAX_GROWTH = 10.0
MIN_WINDOWS = 8  # before the loss is expected to have fallen
CHECKED_FRACTIONS = (0.5, 1.0)  # of the run, at which it is expected to have fallen


class LossMonitor:
    """Watches the logged losses of a run of `total_steps`; each sign is reported once until it has gone."""

    def __init__(self, total_steps: int) -> None:
        self._losses: list[float] = []  # since the last complete window
        self._window_start = 0
        self._windows: list[float] = []
        self._reported: set[str] = set()
        self._checks = [fraction * total_steps for fraction in CHECKED_FRACTIONS]  # in steps

    def add(self, step: int, loss: float) -> Message | None:
        """Add the mean loss of the steps up to `step`; returns what is wrong, if it is new."""
        self._losses.append(loss)
        if step - self._window_start < WINDOW_STEPS:
            return None
        window, self._losses, self._window_start = fmean(self._losses), [], step
        earlier, self._windows = self._windows, [*self._windows, window]
        if not earlier:
            return None
        if window > MAX_GROWTH * median(earlier):
            return self._report(Message("loss_grew", step=step, loss=f"{window:.4g}", typical=f"{median(earlier):.4g}"))
        self._reported.discard("loss_grew")
        if not self._checks or step < self._checks[0] or len(self._windows) < MIN_WINDOWS:
            return None
        self._checks.pop(0)
        quarter = len(self._windows) // 4
        first, last = fmean(self._windows[:quarter]), fmean(self._windows[-quarter:])
        if last >= first:
            return self._report(Message("loss_not_falling", step=step, first=f"{first:.4g}", last=f"{last:.4g}"))
        self._reported.discard("loss_not_falling")
        return None

    def _report(self, message: Message) -> Message | None:
        if message.message_id in self._reported:
            return None
        self._reported.add(message.message_id)
        return message


def find_divergence(records: Iterable[Mapping[str, float]], total_steps: int) -> list[Message]:
    """All that a monitor reports on the lines of metrics.jsonl."""
    monitor = LossMonitor(total_steps)
    losses = ((int(record["step"]), record["loss"]) for record in records if "loss" in record)
    return [message for step, loss in losses if (message := monitor.add(step, loss)) is not None]
