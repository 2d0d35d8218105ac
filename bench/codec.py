"""Measure what codecs and resampling cost, in microseconds per frame and percent of a core.

    python bench/codec.py

Each frame counts with its fastest of several runs: other processes only make a run slower.
"""

import io
import math
import os
import pathlib
import random
import struct
import sys
import time
import wave

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from bot import wav
from siprtp.media import codec
from siprtp.media.resample import Resampler

RUNS = 15
RATES = (16000, 22050, 24000, 44100, 48000)  # Hz, to and from 8000


def speech(rate):
    """Return 1 s of PCM in 20 ms frames: three tones that swell five times, and some noise."""
    rng, size, samples = random.Random(1), rate // 50, []
    for t in (i / rate for i in range(50 * size)):
        tones = sum(math.sin(2 * math.pi * hz * t) for hz in (150, 450, 1500))
        samples.append(round(4000 * math.sin(5 * math.pi * t) ** 2 * tones + rng.gauss(0, 100)))
    return [struct.pack(f"<{size}h", *samples[at:at + size]) for at in range(0, 50 * size, size)]


def seconds(make, frames):
    """Return the seconds for all frames, each at its fastest; make() gives each run's function."""
    best = [math.inf] * len(frames)
    for _ in range(RUNS):
        function = make()
        for i, frame in enumerate(frames):
            start = time.perf_counter()
            function(frame)
            best[i] = min(best[i], time.perf_counter() - start)
    return sum(best)


def report(what, taken):
    """Print one line. taken: seconds of CPU for one second of audio."""
    print(f"{what:24}{taken / 50 * 1e6:9.1f} us a frame {taken * 100:8.3f} % of a core")


def main():
    """Print one line per codec and direction, and one per change of rate."""
    print("Python", sys.version.split()[0])
    for name, row in codec.CODECS.items():
        frames, encode = speech(row.sample_rate), row.encoder()
        report(f"{name} encode", seconds(row.encoder, frames))
        report(f"{name} decode", seconds(row.decoder, [encode(frame) for frame in frames]))
    report("loudness, 8000 Hz", seconds(lambda: codec.loudness, speech(8000)))
    for rates in [(rate, 8000) for rate in RATES] + [(8000, rate) for rate in RATES]:
        report("{} to {} Hz".format(*rates),
               seconds(lambda rates=rates: Resampler(*rates).feed, speech(rates[0])))
    report_wav()


def report_wav():
    """Print what wav() takes for 10 s of 44.1 kHz stereo, and a loop over the samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(2)
        out.setsampwidth(2)
        out.setframerate(44100)
        out.writeframes(os.urandom(4 * 44100 * 10))
    started = time.process_time()
    wav(file.getvalue())
    taken = time.process_time() - started
    started = time.process_time()
    for left, right in struct.iter_unpack("<2h", file.getvalue()[44:]):
        (left + right) // 2
    loop = time.process_time() - started
    print(f"wav(), 44.1 kHz stereo    {taken / 10 * 1000:7.1f} ms per second of sound, "
          f"{taken / loop:.1f} times a Python loop that only adds the channels")


if __name__ == "__main__":
    main()
