"""The RTP thread: it serves the calls given to it, one or many.

A call is served by a reader, called when a packet has come for it (`read`), or by a function called
every 20 ms on absolute deadlines (`tick`), for as long as it returns True.
"""

import heapq
import itertools
import logging
import select
import selectors
import threading
import time

from rtp import MAX_PACKET

log = logging.getLogger(__name__)

TICK = 0.020  # seconds
BEHIND = 0.2  # seconds: what a stopped machine missed beyond that is not made up for
# A thread with many calls lets packets gather for a moment, unless it is behind: each time it
# wakes costs as much as one or two packets do.
MANY, GATHER = 20, 0.0003  # one in so many calls with a packet is behind; seconds
IDLE = 0.5  # seconds without a packet until every call is asked whether it goes on


class RTPThread:
    """One thread, there while it has calls to serve.

    clock, sleep: seconds, as in `time`. linger: seconds it waits for the next call when it has
    none. Calls may be given to it by any thread.
    """

    def __init__(self, clock=time.monotonic, sleep=time.sleep, linger=0.0):
        self._clock, self._sleep, self._linger = clock, sleep, linger
        self._lock = threading.Lock()
        self._given = threading.Condition(self._lock)
        self._readers, self._poll = {}, None  # file descriptor: reader
        self._heir = None  # an RTPThread that is to have the readers
        self._due = []  # a heap of (when, number, function)
        self._numbers = itertools.count()
        self._kept = False  # some could not be handed over
        self.thread = None  # while there is one

    def __len__(self):
        return len(self._readers) + len(self._due)

    def read(self, reader):
        """Call reader.take(view, now) when a packet has come, until it returns False.

        reader.sock: does not block; closed at the end. view: room for a packet, good during the
        call; now: by the clock, in units of 1/8000 s. Raises RuntimeError if no thread can be had,
        OSError if no poll object, or no room in it.
        """
        with self._lock:
            self._poll = self._poll or make_poll()
            self._start()
            fd = reader.sock.fileno()
            self._readers[fd] = reader
            try:
                self._poll.register(fd, selectors.EVENT_READ)  # EPOLLIN is the same
            except OSError:
                del self._readers[fd]
                raise
            self._given.notify()

    def hand_over(self, heir):
        """Give the readers to another RTPThread, when the next packet comes."""
        self._heir = heir

    def tick(self, function):
        """Call function() every 20 ms until it returns False. Raises RuntimeError as above."""
        with self._lock:
            self._start()
            heapq.heappush(self._due, (self._clock() + TICK, next(self._numbers), function))
            self._given.notify()

    def _start(self):
        if self.thread is None:
            thread = threading.Thread(target=self.run, daemon=True, name="rtp")
            try:
                thread.start()  # it waits for the lock
            except RuntimeError:
                self._close_poll()
                raise
            self.thread = thread

    def _close_poll(self):
        if self._poll:
            self._poll.close()
        self._poll = None

    def run(self):
        """Serve until nothing is left to be served."""
        view, wait, ready = memoryview(bytearray(MAX_PACKET)), IDLE, ()
        readers = self._readers
        while self._has_some():
            if self._due:
                wait = min(IDLE, self._run_due())
            if not readers:
                self._sleep(wait)  # more exact than a poll
                continue
            if len(ready) < len(readers) // MANY and wait > GATHER:
                self._sleep(GATHER)
                wait -= GATHER
            if self._heir is not None:
                self._hand_over()
                continue
            ready = self._poll.poll(wait, len(readers) + 1)
            now = int(self._clock() * 8000)
            if not ready and wait > IDLE - 2 * GATHER:
                ready = [(fd, 0) for fd in list(readers)]
            wait = IDLE
            # where nearly all have a packet more wait behind, and of two at a time each costs less
            late = len(ready) > MANY and len(ready) > len(readers) * 0.9
            for fd, _ in ready:
                reader = readers[fd]
                try:
                    if reader.take(view, now) and (not late or reader.take(view, now)):
                        continue
                except Exception:
                    log.exception("a call's audio failed")
                self._forget(fd)
                reader.sock.close()

    def _forget(self, fd):
        with self._lock:
            self._poll.unregister(fd)
            del self._readers[fd]

    def _hand_over(self):
        heir, self._heir = self._heir, None
        for fd, reader in list(self._readers.items()):
            self._forget(fd)  # first: the heir may close the socket at once
            try:
                heir.read(reader)
            except (RuntimeError, OSError) as error:
                log.log(logging.DEBUG if self._kept else logging.WARNING,
                        "a call keeps its thread: %s", error)
                self._kept = True  # it is tried again with each new call
                self.read(reader)

    def _has_some(self):
        """Say whether there is something to serve; else the thread is as good as ended."""
        if self._due or self._readers:
            return True
        with self._lock:
            if self._linger and not (self._due or self._readers):
                self._given.wait(self._linger)
            if self._due or self._readers:
                return True
            self._close_poll()
            self.thread = None
            return False

    def _run_due(self):
        """Call what is due; return the seconds until the next is."""
        while self._due:
            when, number, function = self._due[0]
            now = self._clock()
            if when > now:
                return when - now
            again = (max(when, now - BEHIND) + TICK, number, function)
            try:
                goes_on = function()
            except Exception:
                log.exception("a call's audio failed")
                goes_on = False
            with self._lock:
                if goes_on:
                    heapq.heapreplace(self._due, again)
                else:
                    heapq.heappop(self._due)
        return IDLE


def make_poll():
    """Return a poll object that another thread may register at: epoll, or what there is."""
    return select.epoll() if hasattr(select, "epoll") else SelectorPoll()


class SelectorPoll:
    """The same by any selector; what is registered meanwhile is seen after a poll's timeout."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self.register, self.unregister = self._selector.register, self._selector.unregister
        self.close = self._selector.close

    def poll(self, timeout, most):
        return [(key.fd, mask) for key, mask in self._selector.select(timeout)]
