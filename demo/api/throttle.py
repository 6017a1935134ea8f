"""Slows down guesses of passwords and keys: an address waits longer after each failure, within bounded memory."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_FAILURES = 5
MAX_WAIT_S = 60.0
FORGET_AFTER_S = 15 * 60.0
MAX_ADDRESSES = 10_000
IPV6_PREFIX = 64  # one subscriber has all addresses of such a network


@dataclass(kw_only=True)
class _Record:
    failures: int = 0
    last_failure_s: float = 0.0
    blocked_until_s: float = 0.0


class LoginThrottle:
    """Failures by address: after five in a row the address waits 1, 2, 4 and up to 60 seconds.

    clock: the monotonic time in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def get_wait_s(self, address: str) -> float:
        """Seconds until the address may try again; 0 if it may now."""
        record = self._records.get(_get_network(address))
        return 0.0 if record is None else max(0.0, record.blocked_until_s - self._clock())

    def add_failure(self, address: str) -> None:
        """Count a failed attempt."""
        network, now_s = _get_network(address), self._clock()
        record = self._records.get(network)
        if record is None or now_s - record.last_failure_s > FORGET_AFTER_S:
            record = self._records[network] = _Record()
        self._records.move_to_end(network)
        record.failures, record.last_failure_s = record.failures + 1, now_s
        excess = record.failures - FREE_FAILURES
        if excess >= 0:
            record.blocked_until_s = now_s + min(MAX_WAIT_S, 2.0 ** min(excess, 10))
        while len(self._records) > MAX_ADDRESSES:
            self._records.popitem(last=False)

    def reset(self, address: str) -> None:
        """Forget the failures of an address that has given valid credentials."""
        self._records.pop(_get_network(address), None)


def _get_network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if parsed.version == 4 or parsed.ipv4_mapped is not None:
        return address
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
