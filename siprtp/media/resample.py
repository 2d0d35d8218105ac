"""Change the sample rate of PCM: 16-bit signed little-endian mono.

The low-pass has integer taps, so two ways of computing it give the same samples. The fast way packs
many samples into one long integer, a lane of bits each: a multiplication by a tap then multiplies
all of them in C. It pays off if an output phase of the filter has many samples.
"""

from functools import lru_cache
from itertools import accumulate
from math import ceil, gcd, pi, sin
from operator import mul
from struct import pack, unpack

try:
    # Python 3.12: half the cost of the slow way
    from math import sumprod  # type: ignore[attr-defined]
except ImportError:
    def sumprod(p, q):
        return sum(map(mul, p, q))

HALF = 15  # periods of the lower rate that the low-pass looks ahead and back: 1.9 ms at 8000 Hz
# The part of a lower rate's band that the low-pass lets through. To 8000 Hz it is flat up to
# 3400 Hz, as far as a phone line reaches, and 47 dB down from 4300 Hz up: those tones would alias
# to audible ones. To a higher rate the part is 1: then many taps are 0 and cost nothing.
CUTOFF = 0.96
BETA = 5.8  # of its Kaiser window: 60 dB of attenuation from 4600 Hz up
MAX_PHASES = 1000  # of a Resampler; the usual rates need 441 at most
PIECE = 1 << 20  # bytes that `resample` converts at a time; bounds its memory
UNIT = 1 << 16  # the sum of the taps; with it each sample ends at a byte of its lane
LANE = 5  # bytes per sample in a long integer: 16 of the sample, 16 of the taps, 8 of headroom
BIAS = 1 << 16  # keeps every lane positive, and the lane's last byte at 1 unless it overshoots
MANY = 16  # samples per phase from which the fast way is faster
FLIP = bytes(byte ^ 0x80 for byte in range(256))  # a sample's top byte: signed <-> unsigned


def count_samples(pcm):
    """Return how many samples PCM has. Raises ValueError."""
    if len(pcm) % 2:
        raise ValueError(f"16-bit PCM has an even number of bytes, not {len(pcm)}")
    return len(pcm) // 2


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

    cycle: for each of `up` outputs made of `down` inputs (base, taps): the output is the weighted
    sum of the 2 * reach inputs from base on, in units of 1 / UNIT. reach: how many inputs the
    filter looks ahead and back.
    """
    scale = max(1.0, down / up)  # inputs in a period of the lower rate
    cutoff = CUTOFF if down > up else 1.0
    reach, cycle = ceil(HALF * scale), []
    for base, phase in (divmod(n * down, up) for n in range(up)):
        taps = []
        for i in range(2 * reach):
            t = (phase / up + reach - 1 - i) / scale
            x = pi * cutoff * t
            sinc = sin(x) / x if x else 1.0
            taps.append(sinc * kaiser(t / HALF) if abs(t) < HALF else 0.0)
        # rounding the running sum keeps the whole at UNIT
        total = sum(taps)
        marks = [round(UNIT * part / total) for part in accumulate(taps)]
        cycle.append((base, [mark - before for mark, before in zip(marks, [0, *marks])]))
    return reach, cycle


class Resampler:
    """Changes the sample rate of PCM that comes in chunks of any size, cut anywhere.

    The results of `feed` and `flush`, put together, equal `resample` of the whole: in time with
    the input, because `feed` holds back what needs more of it (1.9 ms at 8000 Hz). Rates in Hz.
    Raises ValueError.
    """

    def __init__(self, from_hz: int, to_hz: int):
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
        self._window = bytes(2 * self._reach - 2)  # inputs still needed, silence before all
        self._next = 0  # output in the cycle
        self._taken = self._given = 0  # samples

    def feed(self, pcm: bytes) -> bytes:
        """Return what can be made of this and earlier PCM."""
        pcm = self._rest + pcm
        size = len(pcm) & ~1
        pcm, self._rest = pcm[:size], pcm[size:]
        self._taken += size // 2
        if self._up == self._down:
            return pcm
        self._window += pcm
        out = self._weigh()
        self._given += len(out) // 2
        return out

    def flush(self) -> bytes:
        """Return the end of the output, and begin anew. Half a sample at the end is dropped."""
        self._window += bytes(2 * self._reach + 2)
        left = round(self._taken * self._up / self._down) - self._given
        out = b"" if self._up == self._down else self._weigh()[:2 * left]
        self._restart()
        return out

    def _weigh(self):
        """Return the PCM that the window suffices for, and drop the inputs no longer needed."""
        spare = len(self._window) // 2 - 2 * self._reach
        # output n needs base + n // up * down <= spare
        end = (spare * self._up + self._up - 1) // self._down + 1 if spare >= 0 else 0
        if end <= self._next:
            return b""
        weigh = weigh_many if end - self._next >= MANY * self._up else weigh_few
        out = weigh(self._window, self._cycle, self._down, self._next, end)
        cycles, self._next = divmod(end, self._up)
        self._window = self._window[2 * cycles * self._down:]
        return out


def weigh_few(window, cycle, down, first, end):
    """Return outputs first..end-1 of the inputs in window, one by one."""
    samples, out = unpack(f"<{len(window) // 2}h", window), []
    for n in range(first, end):
        cycles, phase = divmod(n, len(cycle))
        base, taps = cycle[phase]
        at = base + cycles * down
        value = (sumprod(taps, samples[at:at + len(taps)]) + UNIT // 2) // UNIT
        out.append(min(max(value, -32768), 32767))
    return pack(f"<{len(out)}h", *out)


def weigh_many(window, cycle, down, first, end):
    """Return the same, each phase of the cycle at once."""
    up, out = len(cycle), bytearray(2 * (end - first))
    low, high = window[0::2], window[1::2].translate(FLIP)
    # inputs[at]: the inputs at, at + down, at + 2 * down ..., a lane each
    inputs = [pack_lanes(low[at::down], high[at::down]) for at in range(down)]
    while len(inputs) < cycle[-1][0] + len(cycle[-1][1]) + down:
        inputs.append(inputs[-down] >> 8 * LANE)
    for phase, (base, taps) in enumerate(cycle):
        skip = 1 if phase < first else 0  # the first cycle has given this one already
        count = len(range(phase + skip * up, end, up))
        total = spread(UNIT * BIAS + UNIT // 2, count)  # the half rounds
        start = base + skip * down
        for lanes, tap in zip(inputs[start:start + len(taps)], taps):
            if tap:
                total += lanes * tap
        lanes = (total & (1 << 8 * LANE * count) - 1).to_bytes(LANE * count, "little")
        at = 2 * (phase + skip * up - first)
        out[at::2 * up], out[at + 1::2 * up] = unpack_lanes(lanes)
    return bytes(out)


def pack_lanes(low, high):
    """Return the bytes of samples in offset binary as one integer, a lane each."""
    lanes = bytearray(LANE * len(low))
    lanes[0::LANE], lanes[1::LANE] = low, high
    return int.from_bytes(lanes, "little")


def unpack_lanes(lanes):
    """Return the low and the high bytes of the PCM in lanes of UNIT * (BIAS + 32768 + sample)."""
    low, high, over = bytearray(lanes[2::LANE]), bytearray(lanes[3::LANE]), lanes[4::LANE]
    if over.count(1) != len(over):
        for at, value in enumerate(over):
            if value != 1:
                low[at], high[at] = (0, 0) if value < 1 else (255, 255)
    return bytes(low), high.translate(FLIP)


def spread(value, count):
    """Return an integer of so many lanes that all hold value."""
    return int.from_bytes(value.to_bytes(LANE, "little") * count, "little")


def mix_stereo(pcm):
    """Return the mean of both channels of interleaved 16-bit stereo, rounded down."""
    high = pcm[1::2].translate(FLIP)
    lanes = bytearray(3 * (len(pcm) // 4)), bytearray(3 * (len(pcm) // 4))
    for side, channel in enumerate(lanes):
        channel[0::3], channel[1::3] = pcm[2 * side::4], high[side::2]
    total = sum(int.from_bytes(channel, "little") for channel in lanes) >> 1
    mixed = total.to_bytes(len(lanes[0]), "little")
    out = bytearray(2 * (len(pcm) // 4))
    out[0::2], out[1::2] = mixed[0::3], mixed[1::3].translate(FLIP)
    return bytes(out)


def resample(pcm: bytes, from_hz: int, to_hz: int) -> bytes:
    """Return PCM at another sample rate, round(samples * to_hz / from_hz) of it, without delay.

    Raises ValueError.
    """
    count_samples(pcm)
    resampler = Resampler(from_hz, to_hz)
    pieces = [resampler.feed(pcm[at:at + PIECE]) for at in range(0, len(pcm), PIECE)]
    return b"".join(pieces) + resampler.flush()
