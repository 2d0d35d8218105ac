"""WAV files: both sides of a call, written; sounds to play, read.  Imports: codec."""

import errno
import logging
import os
import struct
import threading
from array import array
from collections import deque
from queue import SimpleQueue

import codec

log = logging.getLogger(__name__)

# RIFF size WAVE, fmt 16 PCM channels rate bytes/s bytes/sample bits, data size
HEADER = struct.Struct("<4sI4s 4sIHHIIHH 4sI")
PCM, FLOAT, A_LAW, MU_LAW, EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # formats
MAX_DATA = 0xFFFFFFFF - HEADER.size  # bytes: what the sizes in the header can tell, 4 GB
BLOCK = 50  # frames written at once, 1 s
NAME = "recorder"  # of a writing thread
MAX_WAITING = 3000  # frames, 60 s: a disk this far behind hangs


def wav(source, rate=8000):
    """Return the sound of a WAV file as 16-bit mono PCM at rate Hz.

    source: a path, an open file, or the file's bytes; PCM of 8 to 32 bits, 32-bit floats, A-law or
    mu-law. Raises OSError, or ValueError for what is none.
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
    if channels > 1:
        mono = [sum(frame) // channels for frame in struct.iter_unpack(f"<{channels}h", pcm)]
        pcm = struct.pack(f"<{len(mono)}h", *mono)
    return codec.resample(pcm, own, rate)


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
        pcm[1::2] = data.translate(bytes(byte ^ 0x80 for byte in range(256)))  # unsigned
    return bytes(pcm)


class Recorder:
    """Writes both sides of a call, in step, from a thread of its own, as disks may block.

    path: overwritten. rate: Hz. The file can be played at any time, after a crash too: its header
    tells of each second written. What the disk does not take is logged, and ends the recording
    but not the call. Raises OSError where it cannot begin.
    """

    def __init__(self, path, rate=8000, open_file=open):
        self.path = path
        self._rate, self._size = rate, 0  # size: bytes of audio in the file
        self._frames = deque()  # (left, right)
        self._wake = SimpleQueue()  # False for a block, True for the end
        self._ended = self._hangs = False
        # unbuffered: nothing that interpreter shutdown would wait for, or flush once more
        self._file = open_file(path, "wb", buffering=0)
        self.thread = threading.Thread(target=self._run, daemon=True, name=NAME)
        try:
            self._write(self._header())
            self.thread.start()
        except RuntimeError as error:
            self._file.close()
            raise OSError(errno.EAGAIN, f"no thread for a recording: {error}") from error
        except OSError:
            self._file.close()
            raise

    def write(self, left, right):
        """Take 20 ms of both sides, 16-bit little-endian mono PCM of one length; never block."""
        if self._ended:
            return
        waiting = len(self._frames)
        if waiting >= MAX_WAITING:
            if not self._hangs:
                self._hangs = True
                log.warning("the recording %s has gaps: the disk hangs", self.path)
            return
        self._frames.append((left, right))
        if (waiting + 1) % BLOCK == 0:
            self._wake.put(False)

    def close(self):
        """End the recording; its thread writes what waits. From any thread, also repeatedly."""
        self._ended = True
        self._wake.put(True)

    def _run(self):
        try:
            with self._file:
                last = False
                while not last:
                    last = self._wake.get()
                    self._append()
            log.debug("recorded %s: %.1f s", self.path, self._size / 4 / self._rate)
        except OSError as error:
            log.warning("the recording %s ends: %s", self.path, error)
        except Exception:
            log.exception("the recording %s failed", self.path)
        finally:
            self._ended = True
            self._frames.clear()

    def _append(self):
        """Write the frames that wait, then the sizes that tell of them."""
        frames = [self._frames.popleft() for _ in range(len(self._frames))]
        if not frames:
            return
        left, right = (array("h", b"".join(side)) for side in zip(*frames))
        stereo = array("h", bytes(2 * left.itemsize * len(left)))
        stereo[::2], stereo[1::2] = left, right  # whole samples: their byte order stays
        data = stereo.tobytes()
        if self._size + len(data) > MAX_DATA:
            raise OSError(errno.EFBIG, "a WAV file holds 4 GB")
        self._write(data)
        self._size += len(data)
        self._file.seek(0)
        self._write(self._header())
        self._file.seek(0, 2)

    def _header(self):
        return HEADER.pack(b"RIFF", HEADER.size - 8 + self._size, b"WAVE", b"fmt ", 16, 1, 2,
                           self._rate, 4 * self._rate, 4, 16, b"data", self._size)

    def _write(self, data):
        view = memoryview(data)
        while view:
            view = view[self._file.write(view):]  # a disk almost full takes a part
