"""Check and prepare the arguments of a call's methods, for bot.Call and for FakeCall."""

import re
from collections.abc import Iterable

CHUNK_SECONDS = 0.2  # of bytes given to say(): a barge-in wastes no more resampling than this
URI = re.compile(r"(sips?|tel):[^\s<>\"\x00-\x1f\x7f]+")
NEED_HEADERS = (401, 405, 407, 415, 420, 421, 422, 423)  # statuses that need more than a number


def check_rate(rate):
    """Raise ValueError if a call cannot be answered with this rate in Hz."""
    if rate not in (8000, 16000):
        raise ValueError(f"rate must be 8000 or 16000, not {rate!r}")


def check_status(status):
    """Raise ValueError if a bot cannot reject a call with this status."""
    if not 400 <= status <= 699 or status in NEED_HEADERS:
        raise ValueError(f"a call cannot be rejected with {status}; use 400 to 699, but none of "
                         + ", ".join(map(str, NEED_HEADERS)))


def check_utterances(silence, timeout):
    """Raise ValueError if utterances() cannot wait for such times."""
    if silence < 0.1 or (timeout is not None and timeout < 0):
        raise ValueError("silence must be 0.1 s or more, timeout 0 or more")


def terminators(count, until):
    """Return the keys that end an entry: by default "#", but none for one key."""
    return ("" if count == 1 else "#") if until is None else until


def check_barge_in(barge_in):
    """Raise ValueError for a value that say() does not take."""
    if barge_in not in (False, True, "voice", "keys"):
        raise ValueError('barge_in must be False, True, "voice" or "keys"')


def check_uri(uri):
    """Raise ValueError if a call cannot be transferred to this."""
    if not URI.fullmatch(uri):
        raise ValueError(f"{uri!r} is not a sip:, sips: or tel: URI")


def chunks_of(pcm, rate):
    """Return an iterator of the chunks that say() plays. Raises TypeError, also while it runs."""
    chunks = pcm
    if isinstance(pcm, (bytes, bytearray, memoryview)):
        step = 2 * max(1, int(rate * CHUNK_SECONDS))
        chunks = (bytes(pcm[at:at + step]) for at in range(0, len(pcm), step))
    elif isinstance(pcm, str) or not isinstance(pcm, Iterable):
        raise TypeError(f"say() takes bytes of PCM or an iterable of them, not "
                        f"{type(pcm).__name__}")
    return without_header(chunks)


def without_header(chunks):
    """Yield chunks; raise ValueError if they begin as a WAV file does."""
    for number, chunk in enumerate(chunks):
        if not number and isinstance(chunk, (bytes, bytearray, memoryview)) and (
                bytes(chunk[:4]) == b"RIFF"):
            raise ValueError("this is a WAV file, not PCM: read it with wav()")
        yield chunk


def resampled(chunks, resampler):
    """Yield chunks at another rate."""
    for chunk in chunks:
        yield resampler.feed(chunk)
    yield resampler.flush()
