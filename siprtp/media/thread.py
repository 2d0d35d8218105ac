"""The RTP thread: it serves one call or many.

A call is served by a reader that is called when a packet has arrived (`read`), or by a function
that is called every 20 ms, on absolute deadlines (`tick`), until it returns False.
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
MAX_BEHIND = 0.2  # seconds: ticks missed before that, as on a stopped machine, are dropped
# Each wake-up costs as much as one or two packets, so a thread lets packets gather for
# GATHER_SECONDS, unless it is behind: unless one in GATHER_CALLS of its calls had a packet.
GATHER_CALLS, GATHER_SECONDS = 20, 0.0003
IDLE = 0.5  # seconds without any packet before each reader is asked whether its call continues


class RTPThread:
    """One thread, which runs while it has calls to serve.

    clock, sleep: seconds, as in `time`. linger: seconds it waits for the next call when it has
    none. Any thread may give it calls.
    """

    def __init__(self, clock=time.monotonic, sleep=time.sleep, linger=0.0):
        self._clock, self._sleep, self._linger = clock, sleep, linger
        self._lock = threading.Lock()
        self._call_added = threading.Condition(self._lock)
        self._readers, self._poll = {}, None  # file descriptor: reader
        self._successor = None  # the RTPThread that takes over the readers
        self._due = []  # a heap of (when, number, function, owner)
        self._numbers = itertools.count()
        self._kept_some = False  # a call could not be handed over
        self.thread = None  # while it runs

    def __len__(self):
        return len(self._readers) + len(self._due)

    def read(self, reader) -> None:
        """Call reader.take(view, now) when a packet has arrived, until it returns False.

        reader.sock: must not block; is closed at the end. str(reader): names the call in the log.
        view: a buffer for a packet, valid during the call; now: by the clock, in 1/8000 s.
        Raises RuntimeError if no thread can start, OSError if the poll object can't watch it.
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
            self._call_added.notify()

    def hand_over(self, successor: "RTPThread") -> None:
        """Give the readers to another RTPThread when the next packet arrives."""
        self._successor = successor

    def tick(self, function, owner=None) -> None:
        """Call function() every 20 ms until it returns False.

        str(owner): names the call in the log. Raises RuntimeError if no thread can start.
        """
        with self._lock:
            self._start()
            heapq.heappush(self._due, (self._clock() + TICK, next(self._numbers), function,
                                       owner))
            self._call_added.notify()

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
        """Serve the calls until none is left."""
        view, wait, ready = memoryview(bytearray(MAX_PACKET)), IDLE, ()
        readers = self._readers
        while self._has_some():
            if self._due:
                wait = min(IDLE, self._run_due())
            if not readers:
                self._sleep(wait)  # more precise than a poll with a timeout
                continue
            if len(ready) < len(readers) // GATHER_CALLS and wait > GATHER_SECONDS:
                self._sleep(GATHER_SECONDS)
                wait -= GATHER_SECONDS
            if self._successor is not None:
                self._hand_over()
                continue
            ready = self._poll.poll(wait, len(readers) + 1)
            now = int(self._clock() * 8000)
            if not ready and wait > IDLE - 2 * GATHER_SECONDS:
                ready = [(fd, 0) for fd in list(readers)]
            wait = IDLE
            # if nearly all have a packet, second ones wait, too; two at a time cost less each
            late = len(ready) > GATHER_CALLS and len(ready) > len(readers) * 0.9
            for fd, _ in ready:
                reader = readers[fd]
                try:
                    if reader.take(view, now) and (not late or reader.take(view, now)):
                        continue
                except Exception:
                    log.exception("%s: the audio failed, and the server stops it", reader)
                self._remove(fd)
                reader.sock.close()

    def _remove(self, fd):
        with self._lock:
            self._poll.unregister(fd)
            del self._readers[fd]

    def _hand_over(self):
        successor, self._successor = self._successor, None
        for fd, reader in list(self._readers.items()):
            self._remove(fd)  # first, as the successor may close the socket at once
            try:
                successor.read(reader)
            except (RuntimeError, OSError) as error:
                log.log(logging.DEBUG if self._kept_some else logging.WARNING,
                        "%s: not moved to the shared RTP thread: %s", reader, error)
                self._kept_some = True  # calls.py tries again with each new call
                self.read(reader)

    def _has_some(self):
        """Return whether there are calls to serve; if not, the thread must end now."""
        if self._due or self._readers:
            return True
        with self._lock:
            if self._linger and not (self._due or self._readers):
                self._call_added.wait(self._linger)
            if self._due or self._readers:
                return True
            self._close_poll()
            self.thread = None
            return False

    def _run_due(self):
        """Call the functions that are due; return the seconds until the next one is."""
        while self._due:
            when, number, function, owner = self._due[0]
            now = self._clock()
            if when > now:
                return when - now
            again = (max(when, now - MAX_BEHIND) + TICK, number, function, owner)
            try:
                goes_on = function()
            except Exception:
                log.exception("%s: the audio failed, and the server stops it", owner)
                goes_on = False
            with self._lock:
                if goes_on:
                    heapq.heapreplace(self._due, again)
                else:
                    heapq.heappop(self._due)
        return IDLE


def make_poll():
    """Return a poll object with which any thread may register: epoll, or a SelectorPoll."""
    return select.epoll() if hasattr(select, "epoll") else SelectorPoll()


class SelectorPoll:
    """A poll object for other systems.

    A socket registered during a poll is watched from the next poll on.
    """

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self.register, self.unregister = self._selector.register, self._selector.unregister
        self.close = self._selector.close

    def poll(self, timeout, most):
        return [(key.fd, mask) for key, mask in self._selector.select(timeout)]
