"""The RTP thread, on a clock that the test sets and a sleep that advances it."""

import socket
import threading
import types
import unittest
from unittest import mock

from siprtp.media import thread as rtp_thread
from siprtp.media.thread import GATHER_CALLS, MAX_BEHIND, TICK, RTPThread


class Time:
    """A clock that only sleep() advances."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Reader:
    def __init__(self, sock, take):
        self.sock, self.take = sock, take


class Ticks(unittest.TestCase):
    def setUp(self):
        self.time, self.at = Time(), {}
        self.served = RTPThread(self.time, self.time.sleep)
        self.served.thread = threading.current_thread()  # the test calls run() itself

    def add(self, name, times, work=0.0):
        """Add a function that takes `work` seconds a tick and ends after `times` ticks."""
        self.at[name] = []

        def tick():
            self.at[name].append(round(self.time.now - 100, 6))
            self.time.now += work
            return len(self.at[name]) < times

        self.served.tick(tick)

    def test_ticks_run_every_20_ms_however_long_their_work_takes(self):
        self.add("one", 4, 0.003)
        self.served.run()
        self.assertEqual(self.at["one"], [0.020, 0.040, 0.060, 0.080])

    def test_many_keep_their_own_phase(self):
        self.add("one", 3, 0.001)
        self.time.now += 0.007
        self.add("two", 3, 0.001)
        self.served.run()
        self.assertEqual(self.at, {"one": [0.020, 0.040, 0.060], "two": [0.027, 0.047, 0.067]})

    def test_missed_ticks_are_made_up_for_but_not_those_of_a_long_stop(self):
        self.add("one", 4, 0.050)
        self.served.run()
        self.assertEqual(self.at["one"], [0.020, 0.070, 0.120, 0.170])  # due at 20, 40, 60, 80
        self.served.thread = threading.current_thread()
        self.add("two", 20)
        self.time.now += 10
        begun = self.time.now - 100
        self.served.run()
        late = [at for at in self.at["two"] if at <= begun + 1e-6]
        self.assertAlmostEqual(len(late), 1 + MAX_BEHIND / TICK, delta=1)

    def test_a_call_that_raises_is_dropped_and_the_others_go_on(self):
        def broken():
            raise ZeroDivisionError

        self.served.tick(broken)
        self.add("one", 3)
        with self.assertLogs("siprtp.media.thread", "ERROR") as logged:
            self.served.run()
        self.assertEqual((len(logged.records), len(self.at["one"])), (1, 3))

    def test_the_thread_ends_with_the_last_call_and_restarts_with_the_next(self):
        pacer = RTPThread(sleep=lambda seconds: None, clock=self.time)
        done = []
        for _ in range(2):
            self.time.now += 1
            pacer.tick(lambda: done.append(1))
            while pacer.thread:
                self.time.now += TICK  # the other thread reads this clock
        self.assertEqual(done, [1, 1])


class Readers(unittest.TestCase):
    """On loopback sockets, with the poll object of this system and with that of other systems."""

    polls = (rtp_thread.make_poll, rtp_thread.SelectorPoll)

    def setUp(self):
        self.sender = self.open()

    def open(self):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        self.addCleanup(sock.close)
        return sock

    def reader(self, until):
        """Return (socket, packets taken, take(), which ends the reader at `until`, an Event)."""
        sock, got, over = self.open(), [], threading.Event()

        def take(view, now):
            try:
                size = sock.recv_into(view)
            except OSError:
                return not over.is_set()
            got.append(bytes(view[:size]))
            return got[-1] != until

        return sock, got, take, over

    def each_poll(self):
        for make in self.polls:
            with mock.patch("siprtp.media.thread.make_poll", make), self.subTest(make.__name__):
                yield RTPThread()

    def wait_for_end(self, served):
        thread = served.thread
        if thread:
            thread.join(5)
        self.assertIsNone(served.thread)
        self.assertEqual(len(served), 0)

    def test_many_readers_are_served_and_each_socket_is_closed_at_its_end(self):
        for served in self.each_poll():
            readers = [self.reader(b"end") for _ in range(20)]
            for sock, _, take, _ in readers:
                served.read(Reader(sock, take))
            for number, (sock, _, _, _) in enumerate(readers):
                for data in (b"%d" % number, b"end"):
                    self.sender.sendto(data, sock.getsockname())
            self.wait_for_end(served)
            self.assertEqual([got for _, got, _, _ in readers],
                             [[b"%d" % number, b"end"] for number in range(20)])
            self.assertEqual({sock.fileno() for sock, _, _, _ in readers}, {-1})

    def test_a_call_that_raises_is_dropped_and_the_others_go_on(self):
        for served in self.each_poll():
            bad, good = self.reader(b""), self.reader(b"end")
            served.read(Reader(bad[0], lambda view, now: 1 // 0))
            served.read(Reader(good[0], good[2]))
            with self.assertLogs("siprtp.media.thread", "ERROR") as logged:
                self.sender.sendto(b"x", bad[0].getsockname())
                for data in (b"1", b"2", b"end"):
                    self.sender.sendto(data, good[0].getsockname())
                self.wait_for_end(served)
            self.assertEqual((len(logged.records), good[1]), (1, [b"1", b"2", b"end"]))

    def test_a_reader_without_packets_is_asked_whether_it_goes_on(self):
        for served in self.each_poll():
            sock, got, take, over = self.reader(b"end")
            served.read(Reader(sock, take))
            over.set()
            self.wait_for_end(served)
            self.assertEqual(got, [])

    def test_a_thread_that_ended_starts_again(self):
        for served in self.each_poll():
            for _ in "12":
                sock, got, take, _ = self.reader(b"end")
                served.read(Reader(sock, take))
                self.sender.sendto(b"end", sock.getsockname())
                self.wait_for_end(served)
                self.assertEqual(got, [b"end"])

    def test_a_thread_that_lingers_takes_the_next_call(self):
        served = RTPThread(linger=30)
        threads = set()
        for end in (b"1", b"2"):
            sock, _, take, _ = self.reader(end)
            served.read(Reader(sock, take))
            threads.add(served.thread)
            self.sender.sendto(end, sock.getsockname())
            while len(served):
                pass  # the other thread closes the socket at once
        self.assertEqual(len(threads), 1)
        served._linger = 0
        served.tick(lambda: False)
        self.wait_for_end(served)

    def test_a_reader_that_was_handed_over_is_served_by_the_other_thread(self):
        for served in self.each_poll():
            successor, by = RTPThread(), []
            (sock, got, take, _), (stays, _, take_other, _) = self.reader(b"end"), self.reader(b"")

            def noting(view, now, take=take, by=by):
                by.append(threading.current_thread())
                return take(view, now)

            successor.read(Reader(stays, take_other))
            served.read(Reader(sock, noting))
            first, second = served.thread, successor.thread
            served.hand_over(successor)
            self.sender.sendto(b"1", sock.getsockname())
            self.wait_for_end(served)
            self.sender.sendto(b"end", sock.getsockname())
            self.sender.sendto(b"", stays.getsockname())
            self.wait_for_end(successor)
            self.assertEqual((got, by[-1]), ([b"1", b"end"], second))
            self.assertLessEqual(set(by), {first, second})

    def test_a_reader_that_can_not_be_handed_over_stays(self):
        for served in self.each_poll():
            sock, got, take, _ = self.reader(b"end")
            served.read(Reader(sock, take))
            successor = RTPThread()
            successor.read = mock.Mock(side_effect=OSError("no more"))
            with self.assertLogs("siprtp.media.thread", "WARNING"):
                served.hand_over(successor)
                for data in (b"1", b"2", b"end"):
                    self.sender.sendto(data, sock.getsockname())
                self.wait_for_end(served)
            self.assertEqual(got, [b"1", b"2", b"end"])

    def test_if_many_calls_are_behind_two_packets_are_taken_at_a_time(self):
        for served in self.each_poll():
            order, readers = [], [self.reader(b"end") for _ in range(GATHER_CALLS + 1)]
            for number, (sock, _, take, _) in enumerate(readers):
                for data in (b"1", b"2", b"end"):
                    self.sender.sendto(data, sock.getsockname())

                def noting(view, now, take=take, number=number, order=order):
                    order.append(number)
                    return take(view, now)

                with mock.patch.object(served, "_start"):  # until all have been added
                    served.read(Reader(sock, noting))
            served.thread = threading.current_thread()
            served.run()
            for _, got, _, _ in readers:
                self.assertEqual(got, [b"1", b"2", b"end"])
            self.assertEqual(order[0], order[1])

    def test_a_socket_that_can_not_be_watched_raises_and_ends_no_thread(self):
        for served in self.each_poll():
            (sock, _, take, _), bad = self.reader(b"end"), self.open()
            served.read(Reader(sock, take))
            poll, full = served._poll, mock.Mock(side_effect=OSError("no more"))
            served._poll = types.SimpleNamespace(poll=poll.poll, unregister=poll.unregister,
                                                 close=poll.close, register=full)
            with self.assertRaises(OSError):
                served.read(Reader(bad, lambda view, now: False))
            self.assertEqual(len(served), 1)
            self.sender.sendto(b"end", sock.getsockname())
            self.wait_for_end(served)

    def test_if_no_thread_can_start_it_raises_and_keeps_nothing(self):
        served, sock = RTPThread(), self.open()
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
            for give in (lambda: served.read(Reader(sock, print)), lambda: served.tick(print)):
                with self.assertRaises(RuntimeError):
                    give()
        self.assertEqual((len(served), served.thread), (0, None))


if __name__ == "__main__":
    unittest.main()
