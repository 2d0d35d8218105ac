"""Encode and decode: one row per codec.

PCM is 16-bit signed little-endian mono throughout.
"""

from itertools import accumulate
from math import log2
from operator import itemgetter
from struct import unpack
from typing import Callable, NamedTuple, Optional

from siprtp.media import g722
from siprtp.media.resample import count_samples


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
    # mu-law, because it has a zero: the smallest A-law value is 8, which counts 16 here
    return MU_LAW.loudness(encode_pcmu(pcm))
