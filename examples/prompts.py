"""The prompts of the examples: your WAV files, or speech from espeak-ng, or a tone.

Record your prompts as WAV files and set PROMPTS to their directory. If a file is missing, espeak-ng
speaks the text (Debian: apt-get install espeak-ng). Without espeak-ng the prompt is a tone, so the
examples run with nothing installed.
"""

import functools
import io
import math
import os
import shutil
import struct
import subprocess

from bot import wav


@functools.lru_cache(maxsize=None)
def prompt(name, text):
    """Return 16-bit mono PCM at 8000 Hz: PROMPTS/name.wav, the text spoken, or a tone."""
    path = os.path.join(os.environ.get("PROMPTS", ""), f"{name}.wav")
    if os.path.exists(path):
        return wav(path)
    if not shutil.which("espeak-ng"):
        return tone(440, 0.5)
    spoken = subprocess.run(["espeak-ng", "--stdin", "--stdout"], input=text.encode(),
                            stdout=subprocess.PIPE, timeout=10, check=True).stdout
    return wav(io.BytesIO(spoken))


def tone(hz, seconds):
    """Return a sine as 16-bit mono PCM at 8000 Hz."""
    samples = [round(6000 * math.sin(2 * math.pi * hz * n / 8000))
               for n in range(round(8000 * seconds))]
    return struct.pack(f"<{len(samples)}h", *samples)
