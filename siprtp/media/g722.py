"""ITU-T G.722 at 64 kbit/s (mode 1): each byte holds two samples of PCM at 16000 Hz.

A pair of filters (QMF) splits the audio at 4000 Hz. ADPCM codes each band at 8000 Hz, as the
difference from its prediction: the low band in 6 bits, the high band in 2. The comments name the
steps as clause 6.2 of the recommendation does. Encoding a call takes 4 % of a core, and so does
decoding it (Python 3.11; measured by bench/codec.py).
"""

from bisect import bisect_right
from operator import mul
from struct import pack, unpack

# every second one of the 24 taps, times 8192; the others are the same, backwards
QMF = (3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11)
FMQ = QMF[::-1]
TAPS = len(QMF)

# The value of a code, in 1/32768 of the band's scale: for the 6 bits of the low band, for the 4 of
# them from which both sides predict, and for the 2 bits of the high band (QM6, QM4, QM2).
POSITIVE = (24808, 21904, 19008, 16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192,
            6576, 6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776, 2400, 2032, 1688, 1360, 1040, 728)
LOW_6 = (-136,) * 4 + tuple(-v for v in POSITIVE) + POSITIVE + (432, 136, -432, -136)
NEGATIVE = (-20456, -12896, -8968, -6288, -4240, -2584, -1200)
LOW_4 = (0, *NEGATIVE, *(-v for v in NEGATIVE), 0)
HIGH_2 = (-7408, -1616, 7408, 1616)

# How a code changes the logarithm of the scale (WL by RL42, WH by RH2).
LOW_STEPS = (-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60)
HIGH_STEPS = (798, -214, 798, -214)

# The limits of the low band's codes, in 1/4096 of its scale (Q6), and the codes (ILN, ILP).
LIMITS = (35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940,
          1023, 1121, 1219, 1339, 1458, 1612, 1765, 1980, 2195, 2557, 2919)
LOW_POSITIVE = tuple(range(61, 31, -1))
LOW_NEGATIVE = (63, 62, *range(31, 3, -1))
HIGH_LIMIT = 564  # Q2


def exponentials(octaves):
    """Return a band's scales by their logarithm, in steps of 1/32 (SCALEL, SCALEH, ILB)."""
    return [round(2048 * 2 ** (n % 32 / 32)) * 2 >> octaves - n // 32 << 2
            for n in range(32 * octaves + 1)]


LOW = LOW_4, LOW_STEPS, exponentials(9)
HIGH = HIGH_2, HIGH_STEPS, exponentials(11)


def band(values, steps, scales):
    """Take a band's codes one by one; yield (prediction, scale) for the sample of the next.

    Blocks 3 and 4 of the recommendation: the adaptation of the scale, and the predictor. The
    recommendation limits all numbers to 16 bits; this function limits those that could be wider.
    """
    top = len(scales) - 1 << 6
    log, scale, prediction, from_zeros = 0, scales[0], 0, 0
    r1 = r2 = a1 = a2 = 0  # poles: twice the last two outputs, and their weights
    sign1 = sign2 = 1  # of the last two differences to the prediction from zeros alone
    d1 = d2 = d3 = d4 = d5 = d6 = b1 = b2 = b3 = b4 = b5 = b6 = 0  # zeros: differences, weights
    s1 = s2 = s3 = s4 = s5 = s6 = 1  # signs of the differences
    while True:
        code = yield prediction, scale
        d = scale * values[code] >> 15  # INVQAL, INVQAH

        log = (log * 127 >> 7) + steps[code]  # LOGSCL, LOGSCH
        if log < 0:
            log = 0
        elif log > top:
            log = top
        scale = scales[log >> 6]

        sign = 1 if from_zeros + d >= 0 else -1  # PARREC
        if sign == sign1:
            step, first = -a1 >> 5, (a1 * 255 >> 8) + 192
        else:
            step, first = a1 >> 5, (a1 * 255 >> 8) - 192
        if step > 255:
            step = 255
        elif step < -256:
            step = -256
        a2 = (a2 * 127 >> 7) + step + (128 if sign == sign2 else -128)  # UPPOL2
        if a2 > 12288:
            a2 = 12288
        elif a2 < -12288:
            a2 = -12288
        limit = 15360 - a2
        a1 = limit if first > limit else -limit if first < -limit else first  # UPPOL1
        sign1, sign2 = sign, sign1

        s = 1 if d >= 0 else -1
        step = 128 * s if d else 0
        b1 = (b1 * 255 >> 8) + step * s1  # UPZERO
        b2 = (b2 * 255 >> 8) + step * s2
        b3 = (b3 * 255 >> 8) + step * s3
        b4 = (b4 * 255 >> 8) + step * s4
        b5 = (b5 * 255 >> 8) + step * s5
        b6 = (b6 * 255 >> 8) + step * s6
        s1, s2, s3, s4, s5, s6 = s, s1, s2, s3, s4, s5
        d1, d2, d3, d4, d5, d6 = d, d1, d2, d3, d4, d5
        r1, r2 = prediction + d << 1, r1  # RECONS
        if not -32768 <= r1 <= 32767:
            r1 = 32767 if r1 > 0 else -32768

        from_zeros = ((b1 * d1 >> 14) + (b2 * d2 >> 14) + (b3 * d3 >> 14)  # FILTEZ
                      + (b4 * d4 >> 14) + (b5 * d5 >> 14) + (b6 * d6 >> 14))
        # limits the sum, as others do; no encoder makes a stream in which a part would need it
        if not -32768 <= from_zeros <= 32767:
            from_zeros = 32767 if from_zeros > 0 else -32768
        prediction = (a1 * r1 >> 15) + (a2 * r2 >> 15)  # FILTEP
        if not -32768 <= prediction <= 32767:
            prediction = 32767 if prediction > 0 else -32768
        # PREDIC; without a limit, as its users limit their results to 15 bits, and a code has 14
        prediction += from_zeros


def bands():
    """Return the functions that take the codes of the low and high band, and their first yields."""
    low, high = band(*LOW), band(*HIGH)
    return low.send, high.send, next(low), next(high)


class Encoder:
    """Encodes the PCM of one call. Call an instance with bytes; it returns bytes."""

    def __init__(self):
        self._low, self._high, self._at_low, self._at_high = bands()
        self._even = self._odd = (0,) * (TAPS - 1)  # the last samples

    def __call__(self, pcm: bytes) -> bytes:
        """Encode PCM at 16000 Hz. Raises ValueError if the number of samples is odd."""
        if len(pcm) % 4:
            raise ValueError(f"G.722 takes pairs of 16-bit samples, not {len(pcm)} bytes")
        samples = unpack(f"<{len(pcm) // 2}h", pcm)
        even, odd = self._even + samples[0::2], self._odd + samples[1::2]
        low, high, payload = self._low, self._high, bytearray()
        at_low, scale_low = self._at_low
        at_high, scale_high = self._at_high
        for i in range(len(samples) // 2):
            half, other = sum(map(mul, QMF, even[i:i + TAPS])), sum(map(mul, FMQ, odd[i:i + TAPS]))
            e = (half + other >> 14) - at_low  # SUBTRA
            # QUANTL: the last code whose limit, times the scale, does not exceed the difference
            size = e if e >= 0 else ~e
            n = bisect_right(LIMITS, ((size + 1 << 12) - 1) // scale_low)
            code = LOW_POSITIVE[n] if e >= 0 else LOW_NEGATIVE[n]
            e = (other - half >> 14) - at_high
            size = e if e >= 0 else ~e  # QUANTH
            top = (3 if e >= 0 else 1) - (size >= HIGH_LIMIT * scale_high >> 12)
            payload.append(top << 6 | code)
            at_low, scale_low = low(code >> 2)
            at_high, scale_high = high(top)
        self._at_low, self._at_high = (at_low, scale_low), (at_high, scale_high)
        self._even, self._odd = even[1 - TAPS:], odd[1 - TAPS:]
        return bytes(payload)


class Decoder:
    """Decodes the payloads of one call. Call an instance with bytes; it returns bytes."""

    def __init__(self):
        self._low, self._high, self._at_low, self._at_high = bands()
        self._sums = self._differences = [0] * (TAPS - 1)  # of the last samples of both bands

    def __call__(self, payload: bytes) -> bytes:
        """Decode a payload to PCM at 16000 Hz."""
        low, high = self._low, self._high
        sums, differences, samples = self._sums[:], self._differences[:], []
        at_low, scale_low = self._at_low
        at_high, scale_high = self._at_high
        for byte in payload:
            code, top = byte & 63, byte >> 6
            r = at_low + (scale_low * LOW_6[code] >> 15)  # INVQBL, RECONS; LIMIT
            r_low = 16383 if r > 16383 else -16384 if r < -16384 else r
            r = at_high + (scale_high * HIGH_2[top] >> 15)
            r_high = 16383 if r > 16383 else -16384 if r < -16384 else r
            sums.append(r_low + r_high)
            differences.append(r_low - r_high)
            at_low, scale_low = low(code >> 2)
            at_high, scale_high = high(top)
        self._at_low, self._at_high = (at_low, scale_low), (at_high, scale_high)
        for i in range(len(payload)):
            samples.append(sum(map(mul, FMQ, differences[i:i + TAPS])) >> 11)
            samples.append(sum(map(mul, QMF, sums[i:i + TAPS])) >> 11)
        self._sums, self._differences = sums[1 - TAPS:], differences[1 - TAPS:]
        return pack(f"<{len(samples)}h", *[min(max(x, -32768), 32767) for x in samples])
