"""How long a film is, checked without weights."""

import psutil

from dianjing.pipelines import request

MAX_FPS = 120.0


def check_fps(fps: float) -> float:
    if isinstance(fps, bool) or not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps is {fps}; give a number above 0, at most {MAX_FPS:g}")
    return float(fps)


def check_num_frames(num_frames: object, duration_s: object, fps: float, *, bytes_a_frame: int) -> int | None:
    """How many frames are asked for, by number or by length; None where neither is. Too many are refused."""
    if num_frames is not None and duration_s is not None:
        raise ValueError("num_frames and duration_s are both given; give one of them")
    most = max(2, int(0.5 * psutil.virtual_memory().available / bytes_a_frame))
    if duration_s is not None:
        if isinstance(duration_s, bool) or not isinstance(duration_s, int | float) or not 0 < duration_s < 1e6:
            raise ValueError(f"duration_s is {duration_s!r}; give seconds, more than 0")
        num_frames = max(1, round(duration_s * fps))
    if num_frames is None:
        return None
    try:
        return request.check_whole(num_frames, "num_frames", low=1, high=most)
    except ValueError as error:
        raise ValueError(f"{error}; {most:,} fit in half of the memory that is free") from None
