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
MAX_DATA = 0xFFFFFFFF - HEADER.size  # bytes: what the sizes in the header can tell, 4 GB
BLOCK = 50  # frames written at once, 1 s
NAME = "recorder"  # of a writing thread
MAX_WAITING = 3000  # frames, 60 s: a disk this far behind hangs


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
