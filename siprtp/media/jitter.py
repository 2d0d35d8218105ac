"""The jitter buffer and the concealment of lost packets: the caller's audio in steps of 20 ms.

No I/O, no threads and no clock: a call of `pop` every 20 ms is the clock.
"""

import struct
from array import array
from collections import deque
from operator import mul
from typing import Deque, Dict, Optional, Tuple

SLOT = 80  # bytes and timestamp units in 10 ms: of G.711, and of G.722 by RFC 3551 4.5.2
SLOTS_PER_POP = 2  # 20 ms
MAX_AHEAD = 20  # slots, 200 ms: if a packet is further ahead, the oldest waiting audio is dropped
JUMP = 100  # slots, 1 s: a packet further back than this means that the sender's clock was reset
# Pops with old packets only, each newer than the last, after which the sender's clock was reset.
STALE_POPS = 5
# Before the delay shrinks: early slots times the square of how many slots they were early, that is
# 12 s at 20 ms early and 3 s at 40 ms.
CALM = 4800
BURST = -20  # early slots not counted at first: after a stall, delayed packets arrive together
HALF, MASK = 1 << 31, (1 << 32) - 1
FADE = 4  # frames of 20 ms from the start of a gap to silence
FULL = 1 << 16  # a gain of 1


class JitterBuffer:
    """Puts the audio of packets in order, with no more delay than the network causes.

    Audio is placed in slots of 10 ms by its timestamp, so packets may have any length, repeat or
    arrive out of order. The buffer adds no delay on purpose. A packet that arrives too late moves
    the play time back to it, which delays all later audio. If every packet has arrived early for
    some time, 10 or 20 ms are skipped. The buffer therefore also follows a sender whose clock runs
    slower or faster than ours. For one thread.
    """

    def __init__(self):
        self._ssrc: Optional[int] = None
        self._origin = 0  # the timestamp of slot 0
        self._slots: Dict[int, bytes] = {}  # slot: 80 bytes
        self._next = 0  # the slot that the next pop plays
        self._done = 0  # slots before this are over: they, or later ones, were played
        # the last slots that had not arrived in time
        self._missed: Deque[int] = deque(maxlen=MAX_AHEAD)
        self._calm = BURST  # slots that arrived early since one did not, or some were skipped
        self._spare = MAX_AHEAD  # how early the least early of them arrived, in slots
        # pops with old packets only, the slot of the last one, the slot of its pop
        self._stale: Tuple[int, int, int] = (0, 0, 0)

    def put(self, ssrc: int, timestamp: int, payload: bytes) -> bool:
        """Take a packet; return False if it is a repeat or too old to be played.

        payload: a multiple of 10 ms; any rest is dropped. A new SSRC is a new stream.
        """
        count = len(payload) // SLOT
        if not count:
            return False
        if self._ssrc != ssrc:
            self._ssrc = ssrc
            self._begin(timestamp)
        # to the nearest slot: after a pause the step may be any number of units
        ahead = ((timestamp - self._origin - SLOT * self._next + SLOT // 2 + HALF & MASK)
                 - HALF) // SLOT
        slot = self._next + ahead
        if slot in self._slots:
            return False
        if slot < self._done:
            if slot + count > self._done:  # its end can still be played
                over = SLOT * (self._done - slot)
                return self.put(ssrc, timestamp + over & MASK, payload[over:])
            if self._is_new_clock(slot):
                self._begin(timestamp)
                return self.put(ssrc, timestamp, payload)
            self._miss(slot)
            return False
        self._stale = 0, 0, 0
        if ahead <= 0:
            self._turn_back(slot)
        elif ahead > MAX_AHEAD:
            self._jump(slot)
        for at in range(count):
            self._slots[slot + at] = payload[SLOT * at:SLOT * at + SLOT]
        self._adapt(slot - self._next, count)
        return True

    def pop(self) -> Optional[bytes]:
        """Return the next 20 ms (160 bytes), or None if neither half has arrived.

        If only one half has arrived, it is played twice.
        """
        at, slots = self._next, self._slots
        self._next = at + SLOTS_PER_POP
        first, second = slots.pop(at, None), slots.pop(at + 1, None)
        if first is not None and second is not None:
            self._done = at + 2
            return first + second
        for slot, half in ((at, first), (at + 1, second)):
            if half is not None:
                self._done = slot + 1
            elif slot >= self._done:
                self._missed.append(slot)
        half = first or second
        return half and half + half

    def _begin(self, timestamp):
        """Play timestamp next, and nothing that was there before."""
        self._slots.clear()
        self._origin = timestamp - SLOT * self._next
        self._done = self._next - MAX_AHEAD  # packets before it may still arrive in time
        self._restart_calm()

    def _turn_back(self, slot):
        """Play slot next: it arrived late, or just in time."""
        self._next = slot
        while self._missed and self._missed[-1] >= slot:
            self._missed.pop()
        self._restart_calm()

    def _jump(self, slot):
        """Skip to the first audio within the 200 ms before slot, or to slot itself."""
        self._next = min((s for s in self._slots if s >= slot - MAX_AHEAD), default=slot)
        self._done = self._next
        for old in [s for s in self._slots if s < self._next]:
            del self._slots[old]
        self._restart_calm()

    def _restart_calm(self):
        """Start to measure again how long the delay has not been needed."""
        self._calm, self._spare = BURST, MAX_AHEAD

    def _adapt(self, early, count):
        """Note how early count slots arrived; if all did for long enough, skip 20 ms at most."""
        if not early:
            return
        self._calm += count
        if self._calm <= 0:
            return
        self._spare = min(self._spare, early)
        if self._calm * self._spare ** 2 >= CALM:
            for _ in range(min(self._spare, SLOTS_PER_POP)):
                self._slots.pop(self._next, None)
                self._next += 1
            self._done = max(self._done, self._next)
            self._restart_calm()

    def _is_new_clock(self, slot):
        """Return whether packets are too old because the sender's clock was set back."""
        pops, last, at = self._stale
        if pops == 0 or (slot > last and self._next != at):
            pops += 1
            self._stale = pops, slot, self._next
        return pops >= STALE_POPS or self._done - slot > JUMP

    def _miss(self, slot):
        """Delay later audio by 20 ms at most: one late packet does not make a bad network."""
        if slot not in self._missed:
            return  # a repeat
        self._missed.remove(slot)
        self._next -= min(SLOTS_PER_POP, max(0, self._next - slot))
        self._restart_calm()


class Concealer:
    """Fills a gap with the last audio, which fades to silence within 80 ms.

    rate: Hz, for the silence before any audio. PCM is 16-bit little-endian mono.
    """

    def __init__(self, rate: int = 8000):
        self._last = bytes(rate // 50 * 2)
        self._samples: Tuple[int, ...] = ()
        self._gap = 0  # frames since the last one that arrived

    def feed(self, pcm: Optional[bytes]) -> bytes:
        """Return pcm, or the audio that replaces it if it is None."""
        if pcm is not None:
            self._last, self._gap = pcm, 0
            return pcm
        size = len(self._last) // 2
        if self._gap == 0:
            self._samples = struct.unpack(f"<{size}h", self._last)
        if self._gap >= FADE:
            return bytes(2 * size)
        # alternately backwards and forwards, so that the wave has no step between two frames
        samples = self._samples if self._gap % 2 else self._samples[::-1]
        step = FULL // (FADE * size)
        gains = range((FADE - self._gap) * size * step, 0, -step)
        self._gap += 1
        products = struct.pack(f"<{size}i", *map(mul, samples, gains))
        return array("h", products)[1::2].tobytes()  # the high halves: divided by FULL
