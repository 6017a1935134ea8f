"""Statistics and interleaving, on a fake clock."""

import pytest
import torch

from benchmarks.timing import compute_quantiles, compute_ratios, time_interleaved


class FakeClock:
    """A clock that advances only by `work`."""

    def __init__(self):
        self.now_s = 100.0
        self.slowness = 1.0

    def __call__(self):
        return self.now_s

    def work(self, seconds):
        self.now_s += seconds * self.slowness


def make_run(clock, step_s, *, steps=3, start_s=0.0, log=None, name=""):
    """Return a run whose steps take step_s and yield the index of the step."""

    def start():
        clock.work(start_s)

        def iterate():
            for step in range(steps):
                clock.work(step_s)
                if log is not None:
                    log.append(name)
                yield torch.tensor(step)

        return iterate()

    return start


def test_quantiles_give_median_quartiles_and_ends():
    found = compute_quantiles([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.min, found.quartile_1, found.median, found.quartile_3, found.max) == (1, 2, 3, 4, 5)
    assert found.count == 5


def test_quantiles_of_one_value_is_that_value():
    found = compute_quantiles([2.0])
    assert found.min == found.quartile_1 == found.median == found.quartile_3 == found.max == 2.0


def test_ratios_are_computed_pair_by_pair():
    numerator, denominator = [1.0, 10.0, 100.0], [1.0, 2.0, 200.0]
    assert compute_ratios(numerator, denominator) == [1.0, 5.0, 0.5]  # median 1, where the ratio of the medians is 5


def test_time_outside_the_steps_is_added_to_the_denominator():
    assert compute_ratios([3.0, 6.0], [1.0, 2.0], denominator_extra_s=1.0) == [1.5, 2.0]


def test_pairs_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        compute_ratios([1.0, 2.0], [1.0])


def test_implementations_run_one_step_each_in_turn():
    clock, log = FakeClock(), []
    runs = {name: make_run(clock, 1.0, log=log, name=name) for name in "ABC"}
    time_interleaved(runs, num_inference_steps=3, num_rounds=4, clock=clock)
    assert "".join(log) == "ABCABCABCABC"


def test_each_step_is_timed_by_itself():
    clock = FakeClock()
    times = time_interleaved(
        {"A": make_run(clock, 2.0), "B": make_run(clock, 0.5)}, num_inference_steps=3, num_rounds=5, clock=clock
    )
    assert times.seconds == {"A": [2.0] * 5, "B": [0.5] * 5}


def test_a_machine_that_slows_down_leaves_the_ratio_alone():
    clock = FakeClock()

    def slow_down():
        clock.slowness *= 3

    runs = {"diffusers": make_run(clock, 2.0), "dianjing": make_run(clock, 0.5)}
    times = time_interleaved(runs, num_inference_steps=3, num_rounds=7, clock=clock, on_round_end=slow_down)
    assert times.seconds["dianjing"][-1] > 100 * times.seconds["dianjing"][0]
    assert compute_ratios(times.seconds["diffusers"], times.seconds["dianjing"]) == pytest.approx([4.0] * 7)


def test_starting_a_run_is_not_timed():
    clock = FakeClock()
    times = time_interleaved(
        {"A": make_run(clock, 1.0, start_s=50.0)}, num_inference_steps=3, num_rounds=6, clock=clock
    )
    assert times.seconds["A"] == [1.0] * 6
    assert clock.now_s == 100.0 + 6 * 1.0 + 2 * 50.0


def test_final_latents_are_those_of_the_first_run():
    clock = FakeClock()
    times = time_interleaved({"A": make_run(clock, 1.0, steps=4)}, num_inference_steps=4, num_rounds=6, clock=clock)
    assert int(times.final_latents["A"]) == 3
