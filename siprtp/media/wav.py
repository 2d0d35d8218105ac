"""Read sounds from WAV files."""

import os
import struct

from siprtp.media import codec
from siprtp.media.resample import FLIP, mix_stereo, resample

PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # formats


def wav(source, rate=8000):
    """Return the sound of a WAV file as 16-bit mono PCM at rate Hz.

    source: a path, an open file, or the file's bytes; PCM of 8 to 32 bits, 32-bit floats, A-law or
    mu-law. Raises OSError, or ValueError if it cannot read the source as such a file.
    """
    name = source if isinstance(source, (str, os.PathLike)) else "the sound"
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            data = file.read()
    else:
        data = bytes(source if isinstance(source, (bytes, bytearray)) else source.read())
    try:
        kind, channels, own, width, data = read_chunks(data)
        whole = len(data) - len(data) % (width * channels)
        pcm = as_pcm(kind, width, data[:whole])
    except (struct.error, LookupError) as error:
        raise ValueError(f"{name}: not a WAV file of a kind that can be read ({error})") from None
    if channels == 2:
        pcm = mix_stereo(pcm)
    elif channels > 2:
        mono = [sum(frame) // channels for frame in struct.iter_unpack(f"<{channels}h", pcm)]
        pcm = struct.pack(f"<{len(mono)}h", *mono)
    return resample(pcm, own, rate)


def read_chunks(data):
    """Return (format, channels, rate, bytes a sample, the sound) of a WAV file."""
    if data[:4] + data[8:12] != b"RIFFWAVE":
        raise LookupError("it does not begin with RIFF and WAVE")
    at, form = 12, None
    while True:
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"fmt ":
            form = struct.unpack_from("<HHIIHH", data, at + 8)
            if form[0] == EXTENSIBLE:
                form = struct.unpack_from("<H", data, at + 32) + form[1:]
        elif name == b"data" and form:
            kind, channels, rate, _, _, bits = form
            if not bits or not channels:
                raise LookupError(f"format {kind} of {bits} bits, {channels} channels")
            return kind, channels, rate, (bits + 7) // 8, data[at + 8:at + 8 + size]
        at += 8 + size + size % 2


def as_pcm(kind, width, data):
    """Return samples of one kind as 16-bit little-endian PCM."""
    if (kind, width) in ((A_LAW, 1), (MU_LAW, 1)):
        return (codec.decode_pcma if kind == A_LAW else codec.decode_pcmu)(data)
    if (kind, width) == (FLOAT, 4):
        samples = struct.unpack(f"<{len(data) // 4}f", data)
        return struct.pack(f"<{len(samples)}h",
                           *(round(32767 * min(1.0, max(-1.0, sample))) for sample in samples))
    if kind != PCM or not 1 <= width <= 4:
        raise LookupError(f"format {kind} of {8 * width} bits")
    pcm = bytearray(2 * (len(data) // width))  # the upper two bytes of each sample
    pcm[1::2] = data[width - 1::width]
    if width > 1:
        pcm[0::2] = data[width - 2::width]
    else:
        pcm[1::2] = data.translate(FLIP)  # 8-bit samples are unsigned
    return bytes(pcm)
