"""Windows of long videos, joint and autoregressive."""

import numpy as np
import pytest

from dianjing.pipelines.video.windows import (
    get_max_window_size,
    make_autoregressive_windows,
    make_joint_windows,
    plan_image_to_video_runs,
    plan_text_to_video_runs,
)


@pytest.mark.parametrize("num_frames", [1, 16, 20, 21, 37, 128])
def test_windows_are_all_frames_once_and_none_is_too_long(num_frames):
    for step in range(20):
        windows = make_joint_windows(num_frames, window_size=16, step=step)
        frames = [frame for window in windows for frame in range(window.start, window.stop)]
        assert frames == list(range(num_frames))
        assert max(w.stop - w.start for w in windows) <= get_max_window_size(16)
        assert num_frames < 4 or min(w.stop - w.start for w in windows) >= 4


def test_edges_of_windows_move_so_that_any_two_frames_meet():
    met = np.zeros((64, 64), bool)
    for step in range(8):
        for window in make_joint_windows(64, window_size=16, step=step):
            met[window, window] = True
    assert all(met[frame, frame + 1] for frame in range(63))
    assert all(met[frame, frame + 8] for frame in range(56))


@pytest.mark.parametrize("num_frames", [1, 2, 8, 9, 10, 17, 128])
def test_autoregressive_windows_share_a_frame_and_end_with_the_video(num_frames):
    windows = make_autoregressive_windows(num_frames, window_size=9)
    assert [a.stop - 1 for a in windows[:-1]] == [b.start for b in windows[1:]]
    assert all(2 <= window.stop - window.start <= 9 for window in windows)
    assert (windows[0].start, windows[-1].stop) == (0, num_frames) if num_frames > 1 else not windows


@pytest.mark.parametrize("has_flow_field", [True, False])
def test_a_joint_video_has_a_first_frame_only_with_a_flow_field(has_flow_field):
    runs = plan_text_to_video_runs(
        num_frames=20,
        window_size=9,
        num_steps=30,
        continuation_steps=10,
        long_video="joint",
        takes_first_frame=True,
        has_flow_field=has_flow_field,
    )
    expected = [(1, 30), (20, 10)] if has_flow_field else [(20, 30)]
    assert [(run.num_frames, run.num_steps) for run in runs] == expected


@pytest.mark.parametrize(("has_flow_field", "expected"), [(True, [9, 9, 2]), (False, [18])])
def test_an_animation_takes_windows_only_with_a_flow_field(has_flow_field, expected):
    runs = plan_image_to_video_runs(num_frames=18, window_size=9, num_steps=10, has_flow_field=has_flow_field)
    assert [run.num_frames for run in runs] == expected
