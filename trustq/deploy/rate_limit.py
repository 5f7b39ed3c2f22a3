"""How often one sender may ask: a bucket that refills, for each address."""

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_SENDERS = 10_000  # buckets that are kept; who was seen longest ago starts afresh


class RateLimit:
    """Lets each sender ask `per_minute` times a minute, so many at once; 0: without limit.

    >>> now = [0.0]
    >>> limit = RateLimit(2, clock=lambda: now[0])
    >>> [limit.wait_for("a") for _ in range(3)]
    [0.0, 0.0, 30.0]
    >>> now[0] = 30.0
    >>> limit.wait_for("a"), limit.wait_for("b")
    (0.0, 0.0)
    """

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # left, when

    def wait_for(self, sender: str, n: int = 1) -> float:
        """Seconds until `sender` may ask for `n` images; 0.0 takes them from its bucket."""
        if self.per_minute <= 0:
            return 0.0
        now = self._clock()
        left, last = self._buckets.pop(sender, (self.per_minute, now))
        left = min(self.per_minute, left + (now - last) * self.per_minute / 60)
        needed = min(n, self.per_minute)  # more at once than ever fits must still be possible
        wait = 0.0
        if left >= needed:
            left -= needed
        else:
            wait = (needed - left) * 60 / self.per_minute
        self._buckets[sender] = (left, now)
        while len(self._buckets) > _MOST_SENDERS:
            self._buckets.popitem(last=False)
        return wait
