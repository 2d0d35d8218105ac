"""The jitter buffer and the concealment of what is lost: the caller's voice in steps of 20 ms.

No I/O, no threads, no clock: the call of `pop` every 20 ms is the clock.
"""

import struct
from array import array
from collections import deque
from operator import mul

SLOT = 80  # bytes and timestamp units, 10 ms: of G.711, and of G.722 by RFC 3551 4.5.2
TICK = 2  # slots a pop, 20 ms
MAX_AHEAD = 20  # slots, 200 ms: where a packet is further ahead, the oldest that wait are dropped
JUMP = 100  # slots, 1 s: a packet further back than that is a new clock
STALE = 5  # ticks with packets all too old, but each later than the one before: a new clock
CALM = 4800  # slots times the square of how early they were: 12 s at 20 ms early, 3 s at 40 ms
BURST = -20  # slots until that is counted: what was held up comes at once, and only at first late
HALF, MASK = 1 << 31, (1 << 32) - 1
FADE = 4  # frames of 20 ms until a gap is silent
FULL = 1 << 16  # a gain of 1


class JitterBuffer:
    """Puts the audio of packets in order and delays it by no more than the network makes it.

    Audio is placed by timestamp in slots of 10 ms: what length packets have, whether they come
    twice or in disorder does not matter. Nothing is held on purpose: a packet that comes too late
    turns the time of playing back to it, which delays all after it, and where every packet came
    early for some time, 10 or 20 ms are left out. So it also follows a sender whose clock is
    slower or faster than ours. For one thread.
    """

    def __init__(self):
        self._ssrc = None
        self._origin = 0  # the timestamp of slot 0
        self._slots = {}  # slot: 80 bytes
        self._next = 0  # the slot that the next pop plays
        self._done = 0  # slots before this are over: they or later ones were played
        self._missed = deque(maxlen=MAX_AHEAD)  # the last slots that were not there in time
        self._calm = BURST  # slots that came early since one did not, or some were left out
        self._spare = MAX_AHEAD  # how early the least early of them came, in slots
        self._stale = 0, 0, 0  # ticks with only packets too old, the slot of the last, its tick

    def put(self, ssrc, timestamp, payload):
        """Take a packet; return False for a repeat and for what can't be played any more.

        payload: bytes, any multiple of 10 ms; what is over is dropped. A new SSRC is a new stream.
        """
        count = len(payload) // SLOT
        if not count:
            return False
        if self._ssrc != ssrc:
            self._ssrc = ssrc
            self._begin(timestamp)
        # to the nearest slot: after a pause the step need be no multiple of 10 ms
        ahead = ((timestamp - self._origin - SLOT * self._next + SLOT // 2 + HALF & MASK)
                 - HALF) // SLOT
        slot = self._next + ahead
        if slot in self._slots:
            return False
        if slot < self._done:
            if slot + count > self._done:  # the end of it can be played
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

    def pop(self):
        """Return the next 20 ms, 160 bytes, or None where nothing of it is there.

        Where only one half is there, it is the other as well.
        """
        at, slots = self._next, self._slots
        self._next = at + TICK
        first, second = slots.pop(at, None), slots.pop(at + 1, None)
        if first is not None and second is not None:
            self._done = at + 2
            return first + second
        for slot, there in ((at, first), (at + 1, second)):
            if there is not None:
                self._done = slot + 1
            elif slot >= self._done:
                self._missed.append(slot)
        half = first or second
        return half and half + half

    def _begin(self, timestamp):
        """Play timestamp next, nothing of what was there before."""
        self._slots.clear()
        self._origin = timestamp - SLOT * self._next
        self._done = self._next - MAX_AHEAD  # reordered: what precedes it may yet come in time
        self._need()

    def _turn_back(self, slot):
        """Play slot next: it comes late, or just in time."""
        self._next = slot
        while self._missed and self._missed[-1] >= slot:
            self._missed.pop()
        self._need()

    def _jump(self, slot):
        """Go ahead to what is there of the 200 ms before slot, or to slot itself."""
        self._next = min((s for s in self._slots if s >= slot - MAX_AHEAD), default=slot)
        self._done = self._next
        for old in [s for s in self._slots if s < self._next]:
            del self._slots[old]
        self._need()

    def _need(self):
        """Begin anew to look for how long the delay is not needed."""
        self._calm, self._spare = BURST, MAX_AHEAD

    def _adapt(self, early, count):
        """Take note of how early count slots came; leave out what all did, but 20 ms at most."""
        if not early:
            return
        self._calm += count
        if self._calm <= 0:
            return
        self._spare = min(self._spare, early)
        if self._calm * self._spare ** 2 >= CALM:
            for _ in range(min(self._spare, TICK)):
                self._slots.pop(self._next, None)
                self._next += 1
            self._done = max(self._done, self._next)
            self._need()

    def _is_new_clock(self, slot):
        """Say whether a packet too old is so because the sender's clock was set back."""
        ticks, last, tick = self._stale
        if ticks == 0 or (slot > last and self._next != tick):
            ticks += 1
            self._stale = ticks, slot, self._next
        return ticks >= STALE or self._done - slot > JUMP

    def _miss(self, slot):
        """Delay what follows by 20 ms at most: one packet too late to play is no bad network."""
        if slot not in self._missed:
            return  # a repeat
        self._missed.remove(slot)
        self._next -= min(TICK, max(0, self._next - slot))
        self._need()


class Concealer:
    """Fills gaps with what was heard last, and fades it to silence within 80 ms.

    rate: Hz, for the silence where nothing was heard yet. PCM is 16-bit little-endian mono.
    """

    def __init__(self, rate=8000):
        self._last = bytes(rate // 50 * 2)
        self._samples = ()
        self._gap = 0  # frames since the last that was there

    def feed(self, pcm):
        """Return pcm itself, or what is to be heard in its place where it is None."""
        if pcm is not None:
            self._last, self._gap = pcm, 0
            return pcm
        size = len(self._last) // 2
        if self._gap == 0:
            self._samples = struct.unpack(f"<{size}h", self._last)
        if self._gap >= FADE:
            return bytes(2 * size)
        # back and forth, so that the wave has no step where two frames meet
        samples = self._samples if self._gap % 2 else self._samples[::-1]
        step = FULL // (FADE * size)
        gains = range((FADE - self._gap) * size * step, 0, -step)
        self._gap += 1
        products = struct.pack(f"<{size}i", *map(mul, samples, gains))
        return array("h", products)[1::2].tobytes()  # the high halves: divided by FULL
