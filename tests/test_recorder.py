"""Recordings: what is in the file at the end, in the middle, and when the disk is full or hangs."""

import errno
import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
import wave
from queue import SimpleQueue
from unittest import mock

from siprtp.media import recorder
from siprtp.media.recorder import BLOCK, HEADER, MAX_WAITING, Recorder
from tests.support import wait_until

ROOT = pathlib.Path(__file__).parent.parent
SECOND = 4 * 8000  # bytes of stereo


class Disk(io.FileIO):
    """A file that tells of each write, takes `room` bytes, and hangs where `hangs` is set."""

    def __init__(self, path, mode, buffering, room=2 ** 40, hangs=None):
        super().__init__(path, mode)
        self.written, self.room, self.hangs = SimpleQueue(), room, hangs

    def write(self, data):
        if self.hangs and self.tell() >= HEADER.size:
            self.hangs.wait(10)
        taken = min(len(data), max(0, self.room - self.tell()))
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(bytes(data[:taken]))
        self.written.put(taken)
        return taken

    def wait_for(self, *sizes):
        for size in sizes:
            assert self.written.get(timeout=10) == size


def frame(number, size=160):
    """Return 20 ms of the caller and of us, different for each side and each number."""
    return (struct.pack("<h", number) * size, struct.pack("<h", -number - 1) * size)


class Recording(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "call.wav")

    def record(self, frames=0, rate=8000, **of_disk):
        """Return a Recorder to which so many frames were written; its file is `self.disk`."""
        def open_file(*args, **kwargs):
            self.disk = Disk(*args, **kwargs, **of_disk)
            return self.disk
        one = Recorder(self.path, rate, open_file)
        self.addCleanup(one.close)
        for number in range(frames):
            one.write(*frame(number, rate // 50))
        return one

    def finish(self, one):
        one.close()
        one.thread.join(10)
        self.assertFalse(one.thread.is_alive())
        self.assertTrue(self.disk.closed)

    def heard(self, data=None, rate=8000):
        """Return the samples of both sides as the wave module reads them."""
        with wave.open(io.BytesIO(data) if data else self.path, "rb") as file:
            self.assertEqual(file.getparams()[:3], (2, 2, rate))
            count = file.getnframes()
            data = file.readframes(count)
        self.assertEqual(len(data), 4 * count)
        samples = struct.unpack(f"<{2 * count}h", data)
        return samples[::2], samples[1::2]

    def assert_frames(self, count, data=None, rate=8000):
        size = rate // 50
        left, right = self.heard(data, rate)
        self.assertEqual(left, tuple(n for n in range(count) for _ in range(size)))
        self.assertEqual(right, tuple(-n - 1 for n in range(count) for _ in range(size)))


class Files(Recording):
    def test_the_caller_is_left_and_we_are_right_to_the_last_frame(self):
        for frames in (0, 1, BLOCK, 2 * BLOCK + 7):
            with self.subTest(frames=frames):
                self.finish(self.record(frames))
                self.assert_frames(frames)
                size = os.path.getsize(self.path)
                self.assertEqual(size, HEADER.size + 640 * frames)
                header = HEADER.unpack(pathlib.Path(self.path).read_bytes()[:HEADER.size])
                self.assertEqual((header[1], header[8]), (size - 8, SECOND))

    def test_wideband_is_recorded_at_its_rate(self):
        self.finish(self.record(60, rate=16000))
        self.assert_frames(60, rate=16000)

    def test_it_opens_the_file_itself_and_overwrites_what_was_there(self):
        pathlib.Path(self.path).write_bytes(b"x" * 5000)
        one = Recorder(pathlib.Path(self.path))
        one.write(*frame(0))
        one.close()
        one.thread.join(10)
        self.assert_frames(1)

    def test_it_may_be_closed_twice_and_written_to_after(self):
        one = self.record(3)
        one.close()
        one.write(*frame(3))
        self.finish(one)
        one.write(*frame(3))
        one.close()
        self.assert_frames(3)
        self.assertFalse(one._frames)

    def test_a_file_or_thread_that_cannot_be_created_raises_os_error(self):
        with self.assertRaises(FileNotFoundError):
            Recorder(os.path.join(self.path, "nowhere.wav"))
        with self.assertRaises(OSError):
            self.record(room=20)
        self.assertTrue(self.disk.closed)
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start")), \
                self.assertRaisesRegex(OSError, "can't start"):
            self.record()
        self.assertTrue(self.disk.closed)

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_disk_full_from_the_beginning_raises_os_error(self):
        with self.assertRaises(OSError) as caught:
            Recorder("/dev/full")
        self.assertEqual(caught.exception.errno, errno.ENOSPC)


class Crashes(Recording):
    def test_the_file_can_be_played_while_it_is_written(self):
        one = self.record()
        self.disk.wait_for(HEADER.size)
        for seconds in range(4):
            data = pathlib.Path(self.path).read_bytes()
            self.assert_frames(BLOCK * seconds, data)
            for number in range(BLOCK * seconds, BLOCK * (seconds + 1)):
                one.write(*frame(number))
            self.disk.wait_for(SECOND, HEADER.size)

    def test_a_crash_between_audio_and_sizes_leaves_what_the_sizes_tell(self):
        self.finish(self.record(BLOCK * 3))
        data = pathlib.Path(self.path).read_bytes()
        sizes = struct.pack("<I", SECOND)
        data = data[:4] + struct.pack("<I", SECOND + 36) + data[8:40] + sizes + data[44:-999]
        self.assert_frames(BLOCK, data)

    def test_a_process_that_is_killed_leaves_all_but_the_last_second(self):
        code = ("import os, sys; from tests.test_recorder import *; disks = []\n"
                "def open_file(*args, **kwargs):\n"
                "    disks.append(Disk(*args, **kwargs)); return disks[0]\n"
                "one = Recorder(sys.argv[1], open_file=open_file)\n"
                "for number in range(BLOCK): one.write(*frame(number))\n"
                "disks[0].wait_for(HEADER.size, SECOND, HEADER.size)\n"
                "for number in range(BLOCK - 1): one.write(*frame(number))\n"
                "os.kill(os.getpid(), signal.SIGKILL)")
        done = subprocess.run([sys.executable, "-c", code, self.path], cwd=str(ROOT), timeout=30)
        self.assertEqual(done.returncode, -signal.SIGKILL)
        self.assert_frames(BLOCK)


class Disks(Recording):
    def wait_until_taken(self, one):
        """Wait until the thread has taken the frames that wait, to write them."""
        wait_until(lambda: not one._frames)

    def test_a_full_disk_is_logged_once_and_keeps_what_was_written(self):
        with self.assertLogs("siprtp.media.recorder", "WARNING") as logged:
            one = self.record(room=HEADER.size + 2 * SECOND + 1001)
            self.disk.wait_for(HEADER.size)
            for number in range(5 * BLOCK):
                if number in (BLOCK, 2 * BLOCK):
                    self.disk.wait_for(SECOND, HEADER.size)
                one.write(*frame(number))
            one.thread.join(10)  # it ends by itself
            one.write(*frame(0))
            self.finish(one)
        self.assertEqual(len(logged.output), 1)
        self.assertRegex(logged.output[0], "^WARNING.*No space left")
        self.assertIn(self.path, logged.output[0])
        self.assert_frames(2 * BLOCK)
        self.assertFalse(one._frames)

    def test_a_disk_that_hangs_never_blocks_the_call_and_takes_no_more_than_60_s_of_it(self):
        release = threading.Event()
        self.addCleanup(release.set)
        with self.assertLogs("siprtp.media.recorder", "WARNING") as logged:
            one = self.record(BLOCK, hangs=release)
            self.assertTrue(one.thread.daemon)  # nor does it hold up the end of the process
            self.wait_until_taken(one)
            for number in range(BLOCK, MAX_WAITING + 2 * BLOCK):
                one.write(*frame(number))
            one.close()
            release.set()
            self.finish(one)
        self.assertEqual(len(logged.output), 1)
        self.assert_frames(BLOCK + MAX_WAITING)

    def test_when_the_disk_fails_what_waits_is_let_go(self):
        release = threading.Event()
        self.addCleanup(release.set)
        with self.assertLogs("siprtp.media.recorder", "WARNING"):
            one = self.record(BLOCK, room=HEADER.size, hangs=release)
            self.wait_until_taken(one)
            one.write(*frame(0))
            release.set()
            one.thread.join(10)
        self.assertFalse(one._frames)

    def test_it_ends_before_the_sizes_overflow(self):
        with mock.patch.object(recorder, "MAX_DATA", 3 * SECOND - 1), \
                self.assertLogs("siprtp.media.recorder", "WARNING") as logged:
            one = self.record()
            self.disk.wait_for(HEADER.size)
            for number in range(3 * BLOCK):
                if number and number % BLOCK == 0:
                    self.disk.wait_for(SECOND, HEADER.size)
                one.write(*frame(number))
            one.thread.join(10)
        self.assertIn("4 GB", logged.output[0])
        self.assert_frames(2 * BLOCK)
        self.assertLessEqual(recorder.MAX_DATA, 2 ** 32 - 1 - 36)

    def test_sides_of_different_length_end_the_recording_and_not_the_caller_of_write(self):
        with self.assertLogs("siprtp.media.recorder", "ERROR"):
            one = self.record()
            one.write(bytes(320), bytes(160))
            self.finish(one)


if __name__ == "__main__":
    unittest.main()
