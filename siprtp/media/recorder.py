"""Record both sides of a call to a stereo WAV file."""

import errno
import logging
import struct
import threading
from array import array
from collections import deque
from queue import SimpleQueue

log = logging.getLogger(__name__)

# RIFF size WAVE, fmt 16 PCM channels rate bytes/s bytes/sample bits, data size
HEADER = struct.Struct("<4sI4s 4sIHHIIHH 4sI")
MAX_DATA = 0xFFFFFFFF - HEADER.size  # bytes of audio at most: the header's sizes have 32 bits
BLOCK = 50  # frames written at once, 1 s: a crash loses no more
NAME = "recorder"  # of the threads that write
MAX_WAITING = 3000  # frames at most that wait for the disk, 60 s (4 MB at 16000 Hz)


class Recorder:
    """Write both sides of a call in a thread of its own, since a disk may block.

    path: overwritten. rate: Hz. The file can be played at any time, even after a crash: its header
    is updated with each second of audio. If the disk fails, the recorder logs that and ends the
    recording, not the call. Raises OSError if the file cannot be created.
    """

    def __init__(self, path, rate=8000, open_file=open):
        self.path = path
        self._rate, self._size = rate, 0  # size: bytes of audio in the file
        self._frames = deque()  # (left, right)
        self._wake = SimpleQueue()  # False for a block, True for the end
        self._ended = self._hangs = False
        # unbuffered, so that nothing is left to flush when the interpreter shuts down
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
        """Queue 20 ms of both sides, 16-bit mono PCM of equal length. Never blocks."""
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
        """End the recording once the queued frames are written. May be called repeatedly."""
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
        """Write the queued frames, then a header with the new sizes."""
        frames = [self._frames.popleft() for _ in range(len(self._frames))]
        if not frames:
            return
        left, right = (array("h", b"".join(side)) for side in zip(*frames))
        stereo = array("h", bytes(2 * left.itemsize * len(left)))
        stereo[::2], stereo[1::2] = left, right  # whole samples, in any byte order
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
            view = view[self._file.write(view):]  # an almost full disk takes only a part
