"""One thread that serves many calls: each gets its tick every 20 ms, on absolute deadlines.

Imports: standard library only.
"""

import heapq
import itertools
import logging
import threading
import time

log = logging.getLogger(__name__)

TICK = 0.020  # seconds
BEHIND = 0.2  # seconds: what a stopped machine missed beyond that is not made up for


class Pacer:
    """Calls each function given to it every 20 ms until it returns False or raises.

    clock, sleep: seconds, as in `time`. The thread is there while something is to be served.
    """

    def __init__(self, clock=time.monotonic, sleep=time.sleep):
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._due = []  # a heap of (when, number, tick)
        self._numbers = itertools.count()
        self._running = False

    def add(self, tick):
        """Call tick() from now on; from any thread. Raises RuntimeError if no thread can be had."""
        with self._lock:
            heapq.heappush(self._due, (self._clock() + TICK, next(self._numbers), tick))
            if self._running:
                return
            try:
                threading.Thread(target=self.run, daemon=True, name="rtp-pacer").start()
            except RuntimeError:
                self._due.clear()
                raise
            self._running = True

    def run(self):
        """Serve until nothing is left to be served."""
        while True:
            with self._lock:
                if not self._due:
                    self._running = False
                    return
                when, number, tick = self._due[0]
            now = self._clock()
            if when > now:
                self._sleep(when - now)
                continue
            again = (max(when, now - BEHIND) + TICK, number, tick)
            goes_on = self._call(tick)
            with self._lock:
                if goes_on:
                    heapq.heapreplace(self._due, again)
                else:
                    heapq.heappop(self._due)

    def _call(self, tick):
        try:
            return tick()
        except Exception:
            log.exception("a call's audio failed")
            return False
