"""Windows of long videos: which frames are denoised together, in which runs, and how many steps that takes.

Autoregressive windows follow each other and share a frame. The windows of a joint run do not overlap, so the time grows
linearly with the video; their edges are elsewhere at every step, so that all neighbouring frames meet.
"""

from dataclasses import dataclass
from typing import Literal

LongVideo = Literal["joint", "autoregressive"]
LONG_VIDEO_MODES: tuple[LongVideo, ...] = ("joint", "autoregressive")
MIN_WINDOW_FRACTION = 0.25  # of a window: a shorter rest is joined to its neighbour


def get_max_window_size(window_size: int) -> int:
    """Frames in the longest window that `make_joint_windows` makes: one with a rest at either end."""
    return window_size + 2 * int(window_size * MIN_WINDOW_FRACTION)


def make_joint_windows(num_frames: int, *, window_size: int, step: int) -> list[slice]:
    """Split all frames into the windows of one step.

    The offsets of consecutive steps are far apart: 0, 1/2, 1/4, 3/4, 1/8 ... of a window (van der Corput).
    """
    if num_frames <= get_max_window_size(window_size):
        return [slice(0, num_frames)]
    offset, digit, rest = 0.0, 0.5, step
    while rest:
        offset, digit, rest = offset + digit * (rest % 2), digit / 2, rest // 2
    edges = list(range(int(offset * window_size), num_frames, window_size))
    min_size = window_size * MIN_WINDOW_FRACTION
    inner = [edge for edge in edges if min_size <= edge <= num_frames - min_size]
    return [slice(a, b) for a, b in zip([0, *inner], [*inner, num_frames], strict=True)]


def make_autoregressive_windows(num_frames: int, *, window_size: int) -> list[slice]:
    """Split a video after its first frame into windows that each begin with the last frame before them."""
    starts = range(0, num_frames - 1, window_size - 1)
    return [slice(start, min(start + window_size, num_frames)) for start in starts]


@dataclass(frozen=True, kw_only=True)
class SamplingRun:
    """One run of the sampling loop: the frames that are denoised together, and the steps."""

    num_frames: int
    num_steps: int


def plan_image_to_video_runs(
    *, num_frames: int, window_size: int, num_steps: int, has_flow_field: bool
) -> list[SamplingRun]:
    """List the runs of a video from an image: one after the other with a flow field, else all frames in one."""
    if not has_flow_field:
        return [SamplingRun(num_frames=num_frames, num_steps=num_steps)]
    windows = make_autoregressive_windows(num_frames, window_size=window_size)
    return [SamplingRun(num_frames=window.stop - window.start, num_steps=num_steps) for window in windows]


def plan_text_to_video_runs(
    *,
    num_frames: int,
    window_size: int,
    num_steps: int,
    continuation_steps: int,
    long_video: LongVideo | None,
    takes_first_frame: bool,
    has_flow_field: bool,
) -> list[SamplingRun]:
    """List the runs of a video from text: its first frame and the windows after it, or all frames in one run.

    num_steps: of the first frame or the only run. continuation_steps: of each run after the first frame.
    """
    long_video = resolve_long_video(long_video, takes_first_frame=takes_first_frame)
    if long_video == "joint" and not has_flow_field:
        return [SamplingRun(num_frames=num_frames, num_steps=num_steps)]
    first = SamplingRun(num_frames=1, num_steps=num_steps)
    if long_video == "joint" and num_frames > 1:
        return [first, SamplingRun(num_frames=num_frames, num_steps=continuation_steps)]
    windows = make_autoregressive_windows(num_frames, window_size=window_size)
    return [first, *(SamplingRun(num_frames=w.stop - w.start, num_steps=continuation_steps) for w in windows)]


def resolve_long_video(long_video: LongVideo | None, *, takes_first_frame: bool) -> LongVideo:
    """Return the mode of a long video; the default is autoregressive for a model that takes first frames."""
    return long_video or ("autoregressive" if takes_first_frame else "joint")
