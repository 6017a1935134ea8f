"""The throttle of guesses: an address waits longer after each failure, within bounded memory."""

import pytest

from dianjing.demo.api import throttle
from dianjing.demo.api.throttle import LoginThrottle


@pytest.fixture
def clock():
    class Clock:
        now_s = 0.0

        def __call__(self):
            return self.now_s

    return Clock()


def fail(guesses, address, times):
    for _ in range(times):
        guesses.add_failure(address)


def test_a_few_failures_are_free_and_then_the_wait_doubles(clock):
    guesses, waits = LoginThrottle(clock=clock), []
    for _ in range(14):
        guesses.add_failure("198.51.100.1")
        waits.append(guesses.get_wait_s("198.51.100.1"))
        clock.now_s += waits[-1]
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert guesses.get_wait_s("198.51.100.2") == 0


def test_a_success_and_a_quarter_of_an_hour_end_the_wait(clock):
    guesses = LoginThrottle(clock=clock)
    fail(guesses, "198.51.100.1", 8)
    guesses.reset("198.51.100.1")
    assert guesses.get_wait_s("198.51.100.1") == 0
    fail(guesses, "198.51.100.1", 8)
    clock.now_s += throttle.FORGET_AFTER_S + 1
    guesses.add_failure("198.51.100.1")
    assert guesses.get_wait_s("198.51.100.1") == 0


def test_all_addresses_of_a_subscriber_wait_together(clock):
    guesses = LoginThrottle(clock=clock)
    for number in range(8):
        guesses.add_failure(f"2001:db8:0:1::{number}")
    assert guesses.get_wait_s("2001:db8:0:1:ffff::1") > 0
    assert guesses.get_wait_s("2001:db8:0:2::1") == 0
    fail(guesses, "::ffff:198.51.100.1", 8)
    assert guesses.get_wait_s("::ffff:198.51.100.2") == 0


def test_memory_is_bounded_for_any_number_of_addresses(clock, monkeypatch):
    monkeypatch.setattr(throttle, "MAX_ADDRESSES", 10)
    guesses = LoginThrottle(clock=clock)
    for number in range(100):
        guesses.add_failure(f"address {number} {'x' * 1000}")
    assert len(guesses._records) == 10
    assert all(len(address) <= 100 for address in guesses._records)
