"""The jitter buffer and the concealment of lost packets: the caller's audio in steps of 20 ms.

No I/O, no threads and no clock: a call of `pop` every 20 ms is the clock.
"""

import struct
from array import array
from collections import deque
from operator import mul
from typing import Deque, Optional, Tuple

# In G.711, and in G.722 by RFC 3551 4.5.2, a byte of payload is one unit of the timestamp. So the
# buffer counts audio in bytes, 8 for each ms, and a position in the stream is a timestamp.
FRAME = 160  # 20 ms
MAX_AHEAD = 1600  # 200 ms: if a packet is further ahead, the oldest waiting audio is dropped
MADE_UP = 1600  # 200 ms more may wait after a stall of our own, see thread.MAX_BEHIND
JUMP = 8000  # 1 s: a packet further back than this means that the sender's clock was reset
# Pops with old packets only, each newer than the last, after which the sender's clock was reset.
STALE_POPS = 5
# Bytes that must arrive early in a row before the delay shrinks: 12 s, because a network that
# stalled often stalls again within seconds; then 0.5 s before each further skip: it may be heard.
CALM, PACE = 12 * 8000, 4000
STALL = 640  # 80 ms: if a packet is this late, the network stood still
BURST = -1600  # early bytes not counted at first: after a stall, delayed packets arrive together
HALF, MASK = 1 << 31, (1 << 32) - 1
THERE = b"\xff"  # the mask of a byte that has arrived; that of a missing byte is 0
WHOLE = THERE * FRAME
FADE = 4  # frames of 20 ms from the start of a gap to silence
FULL = 1 << 16  # a gain of 1


class JitterBuffer:
    """Puts the audio of packets in order, with no more delay than the network causes.

    Each byte is placed by its timestamp, so packets may have any length, overlap, repeat or arrive
    out of order; of two bytes for one place, the first to arrive is played. The buffer adds no
    delay on purpose, except 20 ms after a stall of the network. A packet that arrives too late
    moves the play time back to it, which delays all later audio, so a second stall is not heard.
    If every packet has arrived early for 12 s, up to 20 ms are skipped every 0.5 s until the delay
    is needed. The buffer therefore also follows a sender whose clock runs slower or faster
    than ours. For one thread.
    """

    def __init__(self):
        self._ssrc: Optional[int] = None
        self._next = 0  # the position that the next pop plays
        # The audio from there to the end of the newest packet, 0 where none has arrived, and its
        # mask. Both are empty if no audio waits.
        self._audio, self._mask = bytearray(), bytearray()
        self._done = 0  # positions before this are over: they, or later ones, were played
        # start and end of the last parts of frames that had not arrived in time
        self._missed: Deque[Tuple[int, int]] = deque(maxlen=20)
        self._last = b""  # the last frame, unless it was a gap: it fills gaps in the next
        self._calm = BURST  # bytes that arrived early since one did not, or some were skipped
        self._spare = MAX_AHEAD  # how early the least early of them arrived
        self._in_time = False  # no packet was late since the last pop
        self._stalled: Optional[int] = None  # the position that the network delayed by a stall
        self._overfull = -MASK  # the play time when pops were behind last
        # pops with old packets only, the position of the last one, the position of its pop
        self._stale: Tuple[int, int, int] = (0, 0, 0)

    def put(self, ssrc: int, timestamp: int, payload: bytes) -> bool:
        """Take a packet; return False if it is a repeat or too old to be played.

        payload: of any length. A new SSRC is a new stream.
        """
        size = len(payload)
        if not size:
            return False
        if self._ssrc != ssrc:
            self._ssrc = ssrc
            self._begin(timestamp)
        ahead = (timestamp - self._next + HALF & MASK) - HALF
        at = self._next + ahead
        if at < self._done or self._is_too_late(ahead, size):
            return self._put_late(at, payload)
        self._stale = 0, 0, 0
        if ahead < 0:
            self._turn_back(at)
        elif ahead > MAX_AHEAD:
            self._limit(at)
        ahead = at - self._next
        if not self._insert(ahead, payload):
            return False
        self._adapt(ahead, size)
        return True

    def pop(self) -> Optional[bytes]:
        """Return the next 20 ms (160 bytes), or None if nothing of it has arrived.

        If a part has not arrived, the audio before it is repeated there, or, after a gap, the
        audio behind it.
        """
        frame, mask = self._audio[:FRAME], self._mask[:FRAME]
        del self._audio[:FRAME], self._mask[:FRAME]
        self._next += FRAME
        self._in_time = True
        if mask != WHOLE:
            return self._fill(frame.ljust(FRAME, b"\0"), mask.ljust(FRAME, b"\0"))
        self._done = self._next
        self._last = bytes(frame)
        return self._last

    def _insert(self, ahead, payload):
        """Place a payload so many bytes ahead; return False if all of it was there."""
        audio, mask, end = self._audio, self._mask, ahead + len(payload)
        whole = THERE * len(payload)
        if ahead > len(audio):
            audio.extend(bytes(ahead - len(audio)))
            mask.extend(bytes(ahead - len(mask)))
        if ahead == len(audio):
            audio += payload
            mask += whole
            return True
        if end > len(audio):
            audio.extend(bytes(end - len(audio)))
            mask.extend(bytes(end - len(mask)))
        there = mask[ahead:end]
        if there == whole:
            return False
        # all bytes at once, as large numbers: a loop over the bytes would be slow
        old, new = int.from_bytes(audio[ahead:end], "big"), int.from_bytes(payload, "big")
        there = int.from_bytes(there, "big")
        audio[ahead:end] = (old | new & ~there).to_bytes(len(payload), "big")
        mask[ahead:end] = whole
        return True

    def _fill(self, frame, mask):
        """Return the frame just popped with its gaps filled, or None if there is only a gap."""
        at, played = self._next - FRAME, mask.rfind(THERE) + 1
        start = mask.find(0)
        while start >= 0:
            end = mask.find(THERE, start) % (FRAME + 1)  # FRAME, where it returns -1
            if at + end > self._done:
                self._missed.append((max(at + start, self._done), at + end))
            if played:
                behind = frame[end:mask.find(0, end) % (FRAME + 1)]
                source, size = self._last + frame[:start] or behind, end - start
                frame[start:end] = (source * (size // len(source) + 1))[-size:]
            start = mask.find(0, end)
        self._done = max(self._done, at + played if played else 0)
        self._last = bytes(frame) if played else b""
        return self._last or None

    def _begin(self, timestamp):
        """Play timestamp next, and nothing that was there before."""
        self._clear()
        self._missed.clear()
        self._in_time = False
        self._next = timestamp
        self._done = timestamp - MAX_AHEAD  # packets before it may still arrive in time
        self._restart_calm()

    def _clear(self):
        self._audio.clear()
        self._mask.clear()

    def _drop(self, size):
        """Skip the next bytes."""
        del self._audio[:size], self._mask[:size]
        self._next += size

    def _wait(self, size):
        """Move the play time back."""
        self._next -= size
        if self._audio:
            self._audio[:0] = self._mask[:0] = bytes(size)

    def _is_too_late(self, ahead, size):
        """Return whether a packet would delay the newest audio by more than 200 ms."""
        return ahead < 0 < len(self._audio) and len(self._audio) - ahead - size > MAX_AHEAD

    def _put_late(self, at, payload):
        """Take a packet that begins before the audio which can still be played."""
        over = self._done - at
        if 0 < over < len(payload):  # its end can still be played
            return self.put(self._ssrc, self._done & MASK, payload[over:])
        if self._is_new_clock(at):
            self._begin(at)
            return self.put(self._ssrc, at & MASK, payload)
        self._miss(at, at + len(payload))
        return False

    def _turn_back(self, at):
        """Play position at next, which arrived late."""
        late = self._next - at
        if self._last and late % (FRAME // 2):
            # Wait for a whole frame, or packets that are no multiple of 10 ms would be late again
            # and again, each time by a little more.
            late += -late % FRAME
        self._in_time = False
        if late >= STALL:
            self._stalled = at
        self._wait(late)
        while self._missed and self._missed[-1][1] > at:
            self._missed.pop()
        self._restart_calm()

    def _limit(self, at):
        """Make room for a packet that is more than 200 ms ahead, if it is too far ahead."""
        ahead, room = at - self._next, MAX_AHEAD
        if self._in_time and ahead <= len(self._audio) + FRAME:
            # No packet was late since the last pop, and this one continues the audio: the pops
            # stalled, not the network. If they are not made up within 200 ms, it was the sender.
            if not 0 <= self._next - self._overfull <= 2 * MADE_UP:
                self._overfull = self._next
            if self._next - self._overfull < MADE_UP:
                room += MADE_UP
        if ahead > room:
            before = self._next
            self._jump(at, at - room)
            self._overfull += self._next - before  # so that it counts pops alone

    def _jump(self, at, first):
        """Skip to the first audio from position first on, or to position at."""
        self._drop(first - self._next)
        gap = self._mask.find(THERE)
        if gap >= 0:
            self._drop(gap)
        else:
            self._clear()
            self._next = at
        self._done = self._next
        self._restart_calm()

    def _restart_calm(self):
        """Start to measure again how long the delay has not been needed."""
        self._calm, self._spare = BURST, MAX_AHEAD

    def _adapt(self, early, size):
        """Note how early a packet arrived; if all did for long enough, skip 20 ms at most."""
        if not early:  # it arrived late, or just in time
            self._restart_calm()
            return
        self._calm += size
        if self._calm <= 0:
            if self._next == self._stalled and early >= STALL:
                # the packets that the stall delayed: the next one may begin a packet earlier
                self._stalled = None
                self._wait(FRAME)
            return
        self._spare = min(self._spare, early)
        if self._calm >= CALM:
            skipped = min(self._spare, FRAME)
            self._drop(skipped)
            self._done = max(self._done, self._next)
            self._spare -= skipped
            self._calm -= PACE
            if not self._spare:
                self._restart_calm()

    def _is_new_clock(self, at):
        """Return whether packets are too old because the sender's clock was set back."""
        pops, last, popped = self._stale
        if pops == 0 or (at > last and self._next != popped):
            pops += 1
            self._stale = pops, at, self._next
        return pops >= STALE_POPS or self._done - at > JUMP

    def _miss(self, start, end):
        """Delay later audio by 20 ms at most: one late packet does not make a bad network."""
        missed = [part for part in self._missed if part[0] < end and start < part[1]]
        if not missed:
            return  # a repeat
        for part in missed:
            self._missed.remove(part)
        self._wait(max(0, min(FRAME, self._next - start, MAX_AHEAD - len(self._audio))))
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
