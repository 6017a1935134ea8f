"""The statistics, on a clock that goes as told."""

import pytest
import torch

from benchmarks.timing import compute_quantiles, compute_ratios, time_interleaved


class FakeClock:
    """Goes on only when someone works."""

    def __init__(self):
        self.now_s = 100.0
        self.slowness = 1.0

    def __call__(self):
        return self.now_s

    def work(self, seconds):
        self.now_s += seconds * self.slowness


def walker(clock, step_s, *, steps=3, start_s=0.0, log=None, name=""):
    """A contender whose step takes step_s and yields the number of the step."""

    def walk():
        clock.work(start_s)

        def go():
            for step in range(steps):
                clock.work(step_s)
                if log is not None:
                    log.append(name)
                yield torch.tensor(step)

        return go()

    return walk


def test_spread_gives_median_quartiles_and_ends():
    found = compute_quantiles([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.min, found.quartile_1, found.median, found.quartile_3, found.max) == (1, 2, 3, 4, 5)
    assert found.count == 5


def test_spread_of_one_value_is_that_value():
    found = compute_quantiles([2.0])
    assert found.min == found.quartile_1 == found.median == found.quartile_3 == found.max == 2.0


def test_ratios_are_taken_pair_by_pair():
    theirs, ours = [1.0, 10.0, 100.0], [1.0, 2.0, 200.0]
    assert compute_ratios(theirs, ours) == [1.0, 5.0, 0.5]  # median 1, where the ratio of the medians is 5


def test_our_work_outside_the_steps_counts_against_us():
    assert compute_ratios([3.0, 6.0], [1.0, 2.0], denominator_extra_s=1.0) == [1.5, 2.0]


def test_pairs_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        compute_ratios([1.0, 2.0], [1.0])


def test_contenders_take_turns_one_step_each():
    clock, log = FakeClock(), []
    walks = {name: walker(clock, 1.0, log=log, name=name) for name in "ABC"}
    time_interleaved(walks, num_inference_steps=3, num_rounds=4, clock=clock)
    assert "".join(log) == "ABCABCABCABC"


def test_each_turn_is_timed_on_its_own():
    clock = FakeClock()
    turns = time_interleaved(
        {"A": walker(clock, 2.0), "B": walker(clock, 0.5)}, num_inference_steps=3, num_rounds=5, clock=clock
    )
    assert turns.seconds == {"A": [2.0] * 5, "B": [0.5] * 5}


def test_a_machine_that_slows_down_leaves_the_ratio_alone():
    clock = FakeClock()

    def slow_down():
        clock.slowness *= 3

    walks = {"theirs": walker(clock, 2.0), "ours": walker(clock, 0.5)}
    turns = time_interleaved(walks, num_inference_steps=3, num_rounds=7, clock=clock, on_round_end=slow_down)
    assert turns.seconds["ours"][-1] > 100 * turns.seconds["ours"][0]
    assert compute_ratios(turns.seconds["theirs"], turns.seconds["ours"]) == pytest.approx([4.0] * 7)


def test_starting_a_walk_is_not_timed():
    clock = FakeClock()
    turns = time_interleaved({"A": walker(clock, 1.0, start_s=50.0)}, num_inference_steps=3, num_rounds=6, clock=clock)
    assert turns.seconds["A"] == [1.0] * 6
    assert clock.now_s == 100.0 + 6 * 1.0 + 2 * 50.0


def test_the_end_kept_is_the_last_step_of_the_first_walk():
    clock = FakeClock()
    turns = time_interleaved({"A": walker(clock, 1.0, steps=4)}, num_inference_steps=4, num_rounds=6, clock=clock)
    assert int(turns.final_latents["A"]) == 3
