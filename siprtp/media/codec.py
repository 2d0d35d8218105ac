"""Encoding, decoding and resampling: one row per codec.

PCM is 16-bit signed little-endian mono throughout.
"""

from functools import lru_cache
from itertools import accumulate
from math import ceil, gcd, log2, pi, sin
from operator import itemgetter, mul
from struct import error, pack, unpack
from typing import Callable, NamedTuple, Optional

from siprtp.media import g722

try:
    from math import sumprod  # of Python 3.12: half the cost of a Resampler
except ImportError:
    def sumprod(p, q):
        return sum(map(mul, p, q))

HALF = 13  # periods of the lower rate the low-pass looks ahead and back: 1.6 ms at 8000 Hz
BETA = 6.0  # of its Kaiser window: the edge as steep as HALF allows with 60 dB behind it
MAX_PHASES = 1000  # of a Resampler; 441 are the most among the usual rates
PIECE = 1 << 16  # bytes: `resample` goes by pieces, for a float takes 16 times the room


def count_samples(pcm):
    """Return how many samples PCM has. Raises ValueError."""
    if len(pcm) % 2:
        raise ValueError(f"16-bit PCM has an even number of bytes, not {len(pcm)}")
    return len(pcm) // 2


class G711:
    """One law of ITU-T G.711 as tables, made of its decision values.

    steps: widths of the intervals in the eight segments, 16 each. below: how far the first begins
    below zero. mask: the bits inverted on the line. All in units of 16-bit PCM.
    """

    def __init__(self, steps, below, mask):
        widths = [step for step in steps for _ in range(16)]
        values = [end - below - width // 2 for end, width in zip(accumulate(widths), widths)]
        values = [values[code & 127 ^ mask] * (1 if code & 128 else -1) for code in range(256)]
        codes = b"".join(bytes([n ^ mask]) * width for n, width in enumerate(widths))[below:]
        codes = codes.ljust(32768, codes[-1:])  # past the last decision value: the last code
        # a negative sample x is coded as ~x, as in ITU-T G.191, but for the sign bit
        self._codes = codes.translate(bytes(c | 128 for c in range(256))) + codes[::-1]
        self._low = bytes(value & 255 for value in values)
        self._high = bytes(value >> 8 & 255 for value in values)
        self._loudness = bytes(round(16 * log2(1 + abs(value) / 8)) for value in values)

    def decode(self, payload):
        """Return the PCM of a payload, 8000 Hz."""
        pcm = bytearray(2 * len(payload))
        pcm[0::2], pcm[1::2] = payload.translate(self._low), payload.translate(self._high)
        return bytes(pcm)

    def encode(self, pcm):
        """Return the payload of PCM at 8000 Hz. Raises ValueError."""
        samples = unpack(f"<{count_samples(pcm)}H", pcm)
        # the quickest way through a table; itemgetter wants two indices or more to give a tuple
        return bytes(itemgetter(0, 0, *samples)(self._codes)[2:])

    def loudness(self, payload):
        """Return how loud a payload is, see the function `loudness`."""
        return sum(payload.translate(self._loudness)) / (len(payload) or 1)


A_LAW = G711((16, 16, 32, 64, 128, 256, 512, 1024), 0, 0x55)  # G.711 table 1, times 8
MU_LAW = G711((8, 16, 32, 64, 128, 256, 512, 1024), 4, 0x7F)  # G.711 table 2, times 4
decode_pcma, encode_pcma = A_LAW.decode, A_LAW.encode
decode_pcmu, encode_pcmu = MU_LAW.decode, MU_LAW.encode


class Codec(NamedTuple):
    """How the payloads of one format are coded.

    decoder(), encoder(): return a function bytes -> bytes for one direction of one call, because
    it may have memory. loudness(payload): see the function `loudness`; None if the codes alone do
    not tell.
    """

    sample_rate: int  # Hz of the PCM
    decoder: Callable
    encoder: Callable
    loudness: Optional[Callable] = None


CODECS = {  # by the name of the format
    "PCMA": Codec(8000, lambda: decode_pcma, lambda: encode_pcma, A_LAW.loudness),
    "PCMU": Codec(8000, lambda: decode_pcmu, lambda: encode_pcmu, MU_LAW.loudness),
    "G722": Codec(16000, g722.Decoder, g722.Encoder),
}


def loudness(pcm):
    """Return how loud PCM is: the mean of 16 * log2(1 + abs(x) / 8), 0..192. Raises ValueError."""
    # mu-law, for it has a zero: the least of A-law is 8, that's 16 here
    return MU_LAW.loudness(encode_pcmu(pcm))


def kaiser(r):
    """Return the Kaiser window at r of its half width, I0(BETA) times too large."""
    x, term, total, n = BETA * BETA / 4 * max(0.0, 1 - r * r), 1.0, 1.0, 1
    while term > 1e-9:  # the series of the Bessel function I0
        term *= x / (n * n)
        total, n = total + term, n + 1
    return total


@lru_cache(maxsize=None)
def low_pass(up, down):
    """Return (reach, cycle) of the polyphase low-pass for a rate times up / down.

    cycle: for each of `up` outputs made of `down` inputs (start, end, taps) of the inputs it is
    the weighted sum of. reach: how many inputs it looks ahead and back.
    """
    scale = max(1.0, down / up)  # inputs in a period of the lower rate
    reach, cycle = ceil(HALF * scale), []
    for base, phase in (divmod(n * down, up) for n in range(up)):
        taps = []
        for i in range(2 * reach):
            t = (phase / up + reach - 1 - i) / scale
            sinc = sin(pi * t) / (pi * t) if t else 1.0
            taps.append(sinc * kaiser(t / HALF) if abs(t) < HALF else 0.0)
        heard = [i for i, tap in enumerate(taps) if abs(tap) > 1e-9]  # a sinc has many zeros
        start, end = heard[0], heard[-1] + 1
        gain = sum(taps)
        cycle.append((base + start, base + end, [tap / gain for tap in taps[start:end]]))
    return reach, cycle


class Resampler:
    """Changes the sample rate of PCM that comes in chunks of any size, cut anywhere.

    What `feed` and `flush` return is, put together, what `resample` returns of the whole: in time
    with the input, for `feed` holds back what needs more of it (1.6 ms at 8000 Hz). Rates in Hz.
    Raises ValueError.
    """

    def __init__(self, from_hz, to_hz):
        if not all(type(hz) is int and hz > 0 for hz in (from_hz, to_hz)):
            raise ValueError(f"no sample rates: {from_hz!r}, {to_hz!r}")
        common = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        if max(self._up, self._down) > MAX_PHASES:
            raise ValueError(f"{from_hz} to {to_hz} Hz is too odd a ratio")
        self._reach, self._cycle = low_pass(self._up, self._down)
        self._restart()

    def _restart(self):
        self._rest = b""  # half a sample
        self._window = [0.0] * (self._reach - 1)  # the inputs still needed, silence before all
        self._next = 0  # in the cycle
        self._taken = self._given = 0  # samples

    def feed(self, pcm):
        """Return what can be made of this and earlier PCM."""
        pcm = self._rest + pcm
        size = len(pcm) & ~1
        pcm, self._rest = pcm[:size], pcm[size:]
        self._taken += size // 2
        if self._up == self._down:
            return pcm
        self._window.extend(map(float, unpack(f"<{size // 2}h", pcm)))
        samples = self._weigh()
        self._given += len(samples)
        return clip(samples)

    def flush(self):
        """Return the end of the output, and begin anew. Half a sample at the end is dropped."""
        self._window.extend([0.0] * (self._reach + 1))
        left = round(self._taken * self._up / self._down) - self._given
        samples = [] if self._up == self._down else self._weigh()[:left]
        self._restart()
        return clip(samples)

    def _weigh(self):
        """Return the samples the inputs in the window suffice for, as floats."""
        window, cycle, at, turn, samples = self._window, self._cycle, 0, self._next, []
        have = len(window)
        start, end, taps = cycle[turn]
        while at + end <= have:
            samples.append(sumprod(taps, window[at + start:at + end]))
            turn += 1
            if turn == len(cycle):
                turn, at = 0, at + self._down
            start, end, taps = cycle[turn]
        del window[:at]
        self._next = turn
        return samples


def clip(samples):
    """Return floats as PCM, the loudest cut off at 16 bits."""
    try:
        return pack(f"<{len(samples)}h", *map(round, samples))
    except error:
        return pack(f"<{len(samples)}h", *(round(min(max(s, -32768), 32767)) for s in samples))


def resample(pcm, from_hz, to_hz):
    """Return PCM at another sample rate, round(samples * to_hz / from_hz) of it, without delay.

    Raises ValueError.
    """
    count_samples(pcm)
    resampler = Resampler(from_hz, to_hz)
    pieces = [resampler.feed(pcm[at:at + PIECE]) for at in range(0, len(pcm), PIECE)]
    return b"".join(pieces) + resampler.flush()
