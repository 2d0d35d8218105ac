"""Injected faults: the response is right or the call goes on, with few log lines and no leak.

See also: test_recorder for a full or hanging disk, test_calls and test_session_timer for a peer
that dies, test_calls and test_bot_calls for a call without a thread, and test_rtp.
"""

import errno
import itertools
import logging
import os
import pathlib
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
import unittest
from unittest import mock

import bot
from rtp import open_rtp_socket
from server import SIPServer
from sip_message import SIPMessage
from siprtp.agreement import Agreement
from siprtp.config import Config
from siprtp.logs import ALIKE, LogThrottle
from siprtp.media import codec, rtcp
from siprtp.media import session as session_module
from siprtp.media.conversation import Conversation
from siprtp.media.echo import Echo
from siprtp.media.jitter import JitterBuffer
from siprtp.media.recorder import Recorder
from siprtp.media.session import RTPSession
from siprtp.media.thread import RTPThread
from siprtp.sip import lookup, next_hop, uas
from siprtp.sip.tcp import TCPTransport
from siprtp.sip.transaction import resend_while
from tests.support import (
    OFFER,
    PEER,
    Clock,
    Server,
    Trunk,
    free_port,
    offer,
    statuses,
    wait_until,
)
from tests.test_main import ROOT, Caller, Process
from tests.test_main import SECONDS as PATIENCE
from tests.test_recorder import Disk
from tests.test_rtp import PCMA, A, OnSockets, RTPPacket, Wire, packet

ERRORS = errno.ENOBUFS, errno.ECONNREFUSED, errno.EPERM, errno.ENETUNREACH
TIMES = 1000  # how often a fault repeats
HOUR = 3600.0
INVITED = (f"v=0\r\no=- 1 1 IN IP4 {A}\r\ns=-\r\nc=IN IP4 {A}\r\nt=0 0\r\n"
           "m=audio 9000 RTP/AVP 8\r\n")
LOST, REPEATED, DELAYED = 0.05, 0.10, 0.15  # ranges of a random number from 0 to 1
CALLS = 300


class Faulty:
    """A socket whose methods raise the errors in `faults`, by name; otherwise a real one."""

    def __init__(self, sock, **faults):
        self.sock, self.faults = sock, faults

    def __getattr__(self, name):
        if name in self.faults:
            return mock.Mock(side_effect=self.faults[name])
        return getattr(self.sock, name)


def fault(number):
    return OSError(number, os.strerror(number))


def no_thread():
    return mock.patch.object(threading.Thread, "start",
                             side_effect=RuntimeError("can't start new thread"))


class Leaks(unittest.TestCase):
    """At the end there is no thread or descriptor that was not there at the start."""

    def held(self):
        return (set(threading.enumerate())
                | set(os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ()))

    def assert_held(self, before):
        """Wait for threads and sockets that still end, then compare."""
        deadline, held = time.monotonic() + PATIENCE, self.held()
        while held - before and time.monotonic() < deadline:
            threading.Event().wait(0.01)
            held = self.held()
        self.assertLessEqual(held, before)

    def assert_nothing_left(self, trunk):
        """Assert that no table has a row and no timer is left after all have run."""
        trunk.advance(10000)
        server = trunk.server
        self.assertEqual((len(server.calls), len(server.transactions),
                          len(server.client_transactions)), (0, 0, 0))
        self.assertTrue(server._timers.empty())
        self.assertEqual({media.stopped for media in server.media_made}, {1})


class RTPSockets(OnSockets):
    def test_send_errors_are_one_log_line_a_call_and_the_echo_goes_on(self):
        for number in ERRORS:
            wire, view, echoes = Wire(), memoryview(bytearray(2048)), []
            session = RTPSession(wire)
            session.update(Agreement((A, 6000), PCMA, True, True, "PCMA", events=101))
            session.start(types.SimpleNamespace(read=echoes.append))
            faulty = Faulty(wire, sendto=fault(number))
            echoes[0].sock = session.sock = faulty
            with self.assertLogs("siprtp.media.session", "WARNING") as logged:
                for sequence in range(TIMES):
                    wire.coming.append((packet(sequence, 160 * sequence), (A, 6000)))
                    self.assertTrue(echoes[0].take(view, 160 * sequence))
            self.assertEqual(len(logged.output), 1)
            self.assertIn(os.strerror(number), logged.output[0])
            faulty.faults.clear()
            for sequence in range(TIMES, TIMES + 10):
                wire.coming.append((packet(sequence, 160 * sequence), (A, 6000)))
                echoes[0].take(view, 160 * sequence)
            self.assertEqual(len(wire.sent), 10)
            self.assertEqual((session.packets_in, session.packets_out), (TIMES + 10, 10))

    def test_send_errors_of_a_bot_are_one_log_line_and_it_goes_on_receiving(self):
        caller, session = self.open(A), RTPSession(open_rtp_socket(A, 18000, 18998))
        self.addCleanup(session.sock.close)
        session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA", events=101))
        session.sock = Faulty(session.sock, sendto=fault(errno.ENOBUFS))
        talker = Conversation(session)
        talker.begin(8000)
        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            for sequence in range(100):
                caller.sendto(packet(sequence, 160 * sequence, b"\x2a" * 160), (A, session.port))
                self.assertTrue(talker.tick())
                self.assertEqual(talker.next_frame()[1], codec.decode_pcma(b"\x2a" * 160))
        self.assertEqual(len(logged.output), 1)

    def test_errors_raised_by_recv_end_nothing(self):
        caller, sock = self.open(A), open_rtp_socket(A, 18000, 18998)
        self.addCleanup(sock.close)
        for number in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOBUFS):
            raised = itertools.repeat(fault(number))
            session = RTPSession(Faulty(sock, recvfrom_into=raised, recvmsg_into=raised))
            session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA", events=101))
            view = memoryview(bytearray(2048))
            for _ in range(TIMES):
                self.assertTrue(Echo(session).take(view, 0))
            self.assertEqual(list(session.waiting(view)), [])
            session.sock.faults.clear()
            caller.sendto(packet(1), (A, session.port))
            self.assertEqual(len(list(session.waiting(view))), 1)

    def test_a_peer_port_that_closes_ends_nothing(self):
        """With real ICMP port unreachable messages."""
        caller, gone = self.open(A), self.open(A)
        closed = gone.getsockname()
        gone.close()
        session = RTPSession(open_rtp_socket(A, 18000, 18998))
        self.addCleanup(session.stop)
        session.update(Agreement(closed, PCMA, True, True, "PCMA", events=101))
        session.start(RTPThread())
        for sequence in range(100):
            caller.sendto(packet(sequence, 160 * sequence), (A, session.port))
        wait_until(lambda: session.packets_in >= 100)
        session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA", events=101))
        caller.sendto(packet(100, 16000, b"here"), (A, session.port))
        self.assertEqual(RTPPacket.parse(caller.recv(2048)).payload, b"here")


class SIPSockets(Leaks):
    def test_a_200_that_could_not_be_sent_is_sent_by_the_next_timer(self):
        for number in ERRORS:
            with mock.patch.object(Server, "send", SIPServer.send):
                trunk, sent = Trunk(), []
                server = trunk.server
                server.sock = Faulty(None, sendto=fault(number))
                with self.assertLogs("server", "WARNING") as logged:
                    server.receive(trunk.request("INVITE", body=OFFER), PEER)
                self.assertEqual(len(logged.output), 1)  # once a minute per address
                server.sock = types.SimpleNamespace(
                    sendto=lambda data, at, sent=sent: sent.append(data))
                trunk.advance(0.6)
                self.assertEqual(statuses(map(SIPMessage, sent)), [200])
                self.assert_nothing_left(trunk)

    def serve(self):
        """Return a server that serves in a thread until the test ends."""
        server = SIPServer(Config.from_env({"SIP_PORT": "0", "BIND_IP": A}))
        server.open()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        self.addCleanup(server.call_soon, server.stop)
        return server

    def options(self, server, sock, port):
        sock.sendto(f"OPTIONS sip:a@{A} SIP/2.0\r\nVia: SIP/2.0/UDP {A}:{port};"
                    f"branch=z9hG4bK{random.random()}\r\nFrom: <sip:b@{A}>;tag=1\r\n"
                    f"To: <sip:a@{A}>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n".encode(),
                    (A, server.port))

    def test_replies_to_a_closed_port_end_nothing(self):
        """With real ICMP port unreachable messages."""
        server = self.serve()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((A, 0))
            sock.settimeout(PATIENCE)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
                gone.bind((A, 0))
                closed = gone.getsockname()[1]
            for _ in range(50):
                self.options(server, sock, closed)
            self.options(server, sock, sock.getsockname()[1])
            self.assertEqual(SIPMessage(sock.recv(65535)).status, 200)

    def test_errors_raised_by_recv_end_nothing(self):
        server = self.serve()
        real, raised = server.sock, iter([fault(number) for number in ERRORS])

        def recvfrom(size):
            for error in raised:
                raise error
            return real.recvfrom(size)

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, \
                self.assertLogs("server", "WARNING") as logged:
            sock.bind((A, 0))
            sock.settimeout(PATIENCE)
            server.sock = Faulty(real, recvfrom=recvfrom)
            for _ in "12":
                self.options(server, sock, sock.getsockname()[1])
                self.assertEqual(SIPMessage(sock.recv(65535)).status, 200)
        self.assertEqual(len(logged.output), len(ERRORS))

    def test_posted_functions_run_even_if_the_loop_can_not_be_woken(self):
        with mock.patch("server.NAP_SECONDS", 0.02):
            server, done = self.serve(), threading.Event()
            server.sock = Faulty(server.sock, sendto=fault(errno.EPERM))
            for function in (lambda: None, done.set):
                server.call_soon(function)
                threading.Event().wait(0.01)
            self.assertTrue(done.wait(PATIENCE))


class Descriptors(Leaks):
    """A server process that can open only a few more file descriptors."""

    def setUp(self):
        if not hasattr(resource, "prlimit"):
            self.skipTest("the limits of another process can't be set here")

    def start(self, **environ):
        self.server = Process(self, BIND_IP=A, **environ)
        self.hard = resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE)[1]
        # a thread in accept() already holds a descriptor, which /proc does not show
        self.assert_becomes({"S"}, self.states)
        self.held_before = self.descriptors()

    def states(self):
        """Return the states of the server's threads; S: sleeping."""
        found = set()
        for path in pathlib.Path(f"/proc/{self.server.process.pid}/task").glob("*/stat"):
            found.add(path.read_text().rpartition(")")[2].split()[0])
        return found

    def descriptors(self):
        return sorted(map(int, os.listdir(f"/proc/{self.server.process.pid}/fd")))

    def leave(self, free):
        """Limit the server to `free` more descriptors, plus the next connection; None: no limit."""
        held, limit = set(self.descriptors()), self.hard
        if free is not None:
            limit = next(n for n in itertools.count() if n - len([f for f in held if f < n]) > free)
        resource.prlimit(self.server.process.pid, resource.RLIMIT_NOFILE, (limit, self.hard))

    def lines(self, text):
        """Return how many new log lines have this text."""
        found = []
        while not self.server.lines.empty():
            found.append(self.server.lines.get())
        return sum(text in line for line in found)

    def assert_a_call_works(self):
        caller = Caller(self, self.server.port)
        caller.send("BYE", 2, caller.call().header("To"))
        caller.receive(200)
        self.server.wait_for("ended")

    def assert_released(self):
        self.assert_becomes(self.held_before, self.descriptors)

    def assert_becomes(self, value, function):
        deadline, found = time.monotonic() + PATIENCE, function()
        while found != value and time.monotonic() < deadline:
            threading.Event().wait(0.02)
            found = function()
        self.assertEqual(found, value)

    def test_none_for_the_rtp_port_its_poll_object_or_its_reports(self):
        self.start()
        for free in range(3):
            self.leave(free)
            caller = Caller(self, self.server.port)
            caller.send("INVITE", 1, body=INVITED)
            refused = caller.receive(486)
            caller.send("ACK", 1, refused.header("To"))
            self.server.wait_for("Too many open files")
        self.leave(None)
        self.assert_a_call_works()
        self.assert_released()

    def test_a_thousand_calls_that_find_none_are_refused_in_ten_warnings(self):
        self.start(SIP_RATE="0")
        self.leave(0)
        caller = Caller(self, self.server.port)
        here = caller.here
        for number in range(TIMES):  # each INVITE is a new call, with its own Call-ID and branch
            caller.here = f"{here};number={number}"
            caller.send("INVITE", number, body=INVITED)
            refused = caller.receive(486)
            while refused.cseq[0] != number:
                refused = caller.receive(486)  # a retransmission: the ACK was late
            ack = caller.request("ACK", number, refused.header("To"))
            caller.sock.sendto(ack.replace(b"KACK", b"KINVITE"), caller.server)
        self.leave(None)
        self.server.process.terminate()
        self.server.process.wait(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        found = []
        while not any("stopped" in line for line in found) and time.monotonic() < deadline:
            found.append(self.server.lines.get(timeout=PATIENCE))
        warned = sum(" WARNING siprtp.calls: " in line for line in found)
        self.assertTrue(ALIKE <= warned < TIMES / 10, warned)  # ten a minute

    def test_none_for_a_tcp_connection_is_one_line_and_it_is_taken_later(self):
        self.start()
        self.leave(0)
        with socket.create_connection((A, self.server.port), PATIENCE) as sock:
            self.server.wait_for("cannot accept TCP connections: .*Too many open files")
            threading.Event().wait(0.35)  # the server tries again ten times a second
            self.assertEqual(self.lines("cannot accept"), 0)
            self.leave(None)
            sock.sendall(b"\r\n\r\n")
            self.assertEqual(sock.recv(10), b"\r\n")
        self.assert_released()

    def test_none_for_a_recording_is_one_line_and_the_call_goes_on(self):
        with tempfile.TemporaryDirectory() as path:
            self.start(RECORD_DIR=path)
            self.leave(2)
            caller = Caller(self, self.server.port)
            ok = caller.call()
            self.server.wait_for("is not recorded: .*Too many open files")
            caller.send("BYE", 2, ok.header("To"))
            caller.receive(200)
            self.leave(None)
            self.assert_a_call_works()
            # its bot may start to record only after the call has ended
            self.assert_becomes(1, lambda: len(os.listdir(path)))
            self.assert_released()


class Threads(Leaks):
    def test_none_to_listen_for_tcp_is_an_error_at_the_start(self):
        before = self.held()
        server = SIPServer(Config.from_env({"SIP_PORT": "0", "BIND_IP": A}))
        with no_thread(), self.assertRaises(RuntimeError):
            server.open()
        server.sock.close()
        self.assert_held(before)

    def test_none_for_a_connection_closes_it(self):
        before, transport = self.held(), TCPTransport(None, None, None)
        ours, theirs = socket.socketpair()
        with no_thread(), self.assertLogs("siprtp.sip.tcp", "WARNING") as logged:
            self.assertIsNone(transport._begin(PEER, ours))
        self.assertEqual((len(logged.output), theirs.recv(1), len(transport)), (1, b"", 0))
        theirs.close()
        self.assert_held(before)

    def test_none_for_a_call_leaves_no_poll_object(self):
        before, served = self.held(), [RTPThread() for _ in range(10)]
        with open_rtp_socket(A, 18000, 18998) as sock, no_thread():
            for one in served:
                with self.assertRaises(RuntimeError):
                    one.read(types.SimpleNamespace(sock=sock))
        self.assert_held(before)

    def test_none_to_look_a_name_up_ends_the_call_all_the_same(self):
        trunk = Trunk()
        trunk.server.sock = types.SimpleNamespace(family=socket.AF_INET)
        call = trunk.call(contact="sip:x@name.invalid")
        with no_thread(), self.assertLogs("siprtp.sip.next_hop", "WARNING") as logged:
            call.on("hang up", why="test")
        self.assertEqual((len(logged.output), len(trunk.server.calls)), (1, 0))
        self.assert_nothing_left(trunk)

    def test_names_that_are_not_found_for_long_take_few_threads(self):
        trunk, found = Trunk(), threading.Event()
        self.addCleanup(found.set)
        trunk.server.sock = types.SimpleNamespace(family=socket.AF_INET)

        def look_up(*args):
            found.wait(10)
            raise OSError("not found")

        with mock.patch("socket.getaddrinfo", look_up), self.assertLogs(next_hop.log, "WARNING"):
            for number in range(2 * lookup.MAX_OF_ONE):
                call = trunk.call(contact=f"sip:x@name{number}.invalid", call_id=f"{number}",
                                  from_tag=f"{number}")
                call.on("hang up", why="test")
            threads = [one for one in threading.enumerate() if one.name.startswith("look-up")]
            self.assertEqual(len(threads), lookup.MAX_OF_ONE)
            self.assertEqual(len(trunk.server.calls), lookup.MAX_OF_ONE)
            found.set()
            for thread in threads:
                thread.join(10)
        trunk.server.run_due()
        self.assert_nothing_left(trunk)

    def test_many_calls_at_once_that_name_one_host_are_one_look_up(self):
        trunk, threads, body = Trunk(), [], offer(ip="name.invalid")
        trunk.server.sock = types.SimpleNamespace(family=socket.AF_INET)
        with mock.patch("threading.Thread.start", lambda thread: threads.append(thread)):
            for number in range(2 * lookup.MAX_OF_ONE):
                trunk.say("INVITE", body=body, call_id=f"{number}")
        self.assertEqual(len(threads), 1)
        address = [(None, None, None, None, ("192.0.2.30", 0))]
        with mock.patch("socket.getaddrinfo", return_value=address):
            threads[0].run()
        trunk.server.run_due()
        self.assertEqual(len(trunk.server.calls), 2 * lookup.MAX_OF_ONE)

    def test_names_of_forged_sources_leave_look_ups_for_known_peers(self):
        started, body = [], offer(ip="name.invalid")
        trunk = Trunk(SIP_RATE="0")
        with mock.patch("threading.Thread.start", lambda thread: started.append(thread)), \
                self.assertLogs(uas.log, "INFO"):
            for number in range(lookup.MAX_LOOKUPS):
                trunk.send(trunk.request("INVITE", body=body, call_id=f"{number}"),
                           (f"192.0.2.{100 + number}", 5060))
            self.assertEqual(len(started), lookup.MAX_UNVERIFIED)
            trunk.say("INVITE", body=body)
        self.assertEqual(len(started), lookup.MAX_UNVERIFIED + 1)

    def test_calls_that_can_not_be_handed_over_are_one_log_line(self):
        served, successor = RTPThread(), RTPThread()
        successor.read = mock.Mock(side_effect=RuntimeError("can't start new thread"))
        served.read = lambda reader: served._readers.update({reader.fd: reader})
        served._poll = mock.Mock()
        served._readers = {fd: types.SimpleNamespace(fd=fd) for fd in range(100)}
        with self.assertLogs("siprtp.media.thread", "WARNING") as logged:
            for _ in range(10):
                served.hand_over(successor)
                served._hand_over()
        self.assertEqual((len(logged.output), len(served)), (1, 100))


class FullDisk(Leaks):
    def test_a_call_whose_recording_ends_goes_on(self):
        session = types.SimpleNamespace(
            stop_event=threading.Event(), sent=[], flow=session_module.Flow(Agreement(
                PEER, PCMA, True, True, "PCMA", events=101)), waiting=lambda buffer: [])
        session.send = lambda payload, units, marker=False: session.sent.append(payload)
        talker, disks = Conversation(session), []
        talker.begin(8000)

        def open_file(*args, **kwargs):
            disks.append(Disk(*args, room=44 + 100, **kwargs))
            return disks[0]

        with tempfile.TemporaryDirectory() as path, \
                self.assertLogs("siprtp.media.recorder", "WARNING") as logged:
            before = self.held()
            recorder = Recorder(os.path.join(path, "x.wav"), open_file=open_file)
            talker.record("all", recorder)
            for _ in range(TIMES):
                self.assertTrue(talker.tick())
            recorder.thread.join(PATIENCE)
            self.assert_held(before)
        self.assertEqual((len(logged.output), len(session.sent)), (1, TIMES))
        self.assertRegex(logged.output[0], "^WARNING.* ends: .*No space left")

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_bot_learns_that_it_can_not_record(self):
        call = bot.Call("1", "2", "", {}, None, lambda *args: None, Config.from_env({}))
        call._answered = True
        before = self.held()
        with self.assertRaises(OSError) as caught:
            call.record("/dev/full")
        self.assertEqual((caught.exception.errno, call.ended), (errno.ENOSPC, False))
        self.assert_held(before)

    @unittest.skipUnless(os.path.exists("/dev/full"), "needs /dev/full")
    def test_a_log_that_can_not_be_written_ends_no_call(self):
        port = free_port(A)
        with open("/dev/full", "w") as full:
            process = subprocess.Popen([sys.executable, str(ROOT / "server.py")], stderr=full,
                                       stdout=full, env={"SIP_PORT": str(port)})
        self.addCleanup(process.wait, PATIENCE)
        self.addCleanup(process.kill)
        while subprocess.call([sys.executable, str(ROOT / "server.py"), "--ping"],
                              stderr=subprocess.DEVNULL, env={"SIP_PORT": str(port)}):
            self.assertIsNone(process.poll())
        caller = Caller(self, port)
        caller.send("BYE", 2, caller.call().header("To"))
        caller.receive(200)
        process.terminate()
        self.assertIn(process.wait(PATIENCE), (0, 120))  # 120: Python could not flush stderr


class LogLines(unittest.TestCase):
    def setUp(self):
        self.clock = Clock()
        self.throttle = LogThrottle(self.clock)

    def pass_on(self, times, text="nothing can be sent to %s", level=logging.WARNING):
        """Log repeatedly; return the lines that pass."""
        passed = []
        for number in range(times):
            record = logging.LogRecord("server", level, "", 0, text, (number,), None)
            if self.throttle.filter(record):
                passed.append(record.getMessage())
        return passed

    def test_a_warning_that_repeats_is_logged_ten_times_a_minute(self):
        lines = self.pass_on(TIMES)
        self.assertEqual(len(lines), ALIKE)
        self.assertEqual(lines[-2], "nothing can be sent to 8")
        self.assertEqual(lines[-1],
                         "nothing can be sent to 9 (no more lines like this for a minute)")
        self.clock.now += 60
        self.assertEqual(len(self.pass_on(TIMES)), ALIKE)

    def test_warnings_of_admission_about_many_peers_are_all_logged(self):
        for name in ("siprtp.sip.auth", "siprtp.sip.admission"):
            records = [logging.LogRecord(name, logging.WARNING, "", 0, "%s", (n,), None)
                       for n in range(15)]
            self.assertEqual(sum(map(self.throttle.filter, records)), 15)

    def test_others_and_what_calls_do_are_logged_meanwhile(self):
        self.pass_on(TIMES)
        self.assertEqual(len(self.pass_on(1, "no RTP port: %s")), 1)
        self.assertEqual(len(self.pass_on(TIMES, level=logging.INFO)), TIMES)


class Clocks(Leaks):
    def test_an_hour_skipped_ends_overdue_calls_and_no_others(self):
        trunk = Trunk()
        call = trunk.call(headers=["Supported: timer", "Session-Expires: 1800"])
        trunk.advance(100)
        trunk.say("INVITE", body=OFFER, call_id="not acked")
        trunk.clock.now += HOUR  # no packet could arrive in this time
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            trunk.advance(0)
        self.assertEqual(len(logged.output), 1)
        self.assertIn("no ACK", logged.output[0])
        self.assertEqual(statuses(trunk.say("OPTIONS", 2, to_tag=call.local_tag)), [200])
        self.assertEqual(call.state, "confirmed")
        self.assertEqual(statuses(trunk.say("BYE", 3, to_tag=call.local_tag)), [200])
        self.assert_nothing_left(trunk)

    def test_an_hour_back_delays_and_loses_nothing(self):
        trunk = Trunk()
        call = trunk.call()
        trunk.say("INVITE", body=OFFER, call_id="not acked")
        trunk.clock.now -= HOUR
        self.assertEqual(statuses(trunk.say("OPTIONS", call_id="other")), [200])
        ok = trunk.say("BYE", 2, to_tag=call.local_tag)[-1]
        self.assertRegex(ok.header("P-RTP-Stat"), r"DU=0$")
        self.assert_nothing_left(trunk)

    def test_the_wall_clock_may_jump_between_a_report_and_our_reference_to_it(self):
        clock, ours = Clock(), open_rtp_socket(A, 18000, 18998)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.bind((A, 0))
            session = RTPSession(open_rtp_socket(A, 18000, 18998), A, clock=clock, rtcp_sock=ours)
            self.addCleanup(session.stop)
            session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA",
                                     caller.getsockname()))
            for jump in (HOUR, -HOUR):
                wall = 1e9
                session.reports.take(session, (7, rtcp.ntp(5000.0)), [], wall - 1, wall)
                session.received.count(7, 1, 0, 160, None)
                clock.now += 2
                session.report(wall + 2 + jump)
                _, [block] = rtcp.parse(caller.recv(2048))
                self.assertEqual(block.delay, 3 * 65536)

    def test_the_wall_clock_may_jump_while_packets_wait(self):
        caller, session = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), None
        with caller, open_rtp_socket(A, 18000, 18998) as sock:
            caller.bind((A, 0))
            session = RTPSession(sock)
            session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA", events=101))
            session.start(types.SimpleNamespace(tick=lambda function, owner: None), tick=print)
            buffer, real = bytearray(2048), time.time
            for number, jump in enumerate((0, HOUR, -HOUR, -0.05, 0.05)):
                caller.sendto(packet(number, 160 * number), (A, session.port))
                with mock.patch("siprtp.media.session.time.time", lambda jump=jump: real() + jump):
                    self.assertEqual(len(list(session.waiting(buffer))), 1)


class DyingPeers(Leaks):
    def test_a_peer_that_dies_leaves_no_row_and_no_timer(self):
        timed = ["Supported: timer", "Session-Expires: 90"]
        for what, headers, environ in (("after the INVITE", [], {}), ("without RTP", [], {}),
                                       ("with a session timer", timed, {"RTP_TIMEOUT": "0"})):
            with self.subTest(what):
                trunk = Trunk(**environ)
                if what == "after the INVITE":
                    trunk.say("INVITE", body=OFFER)
                else:
                    trunk.call(headers=headers)
                with self.assertLogs("siprtp.calls", "INFO") as logged:
                    self.assert_nothing_left(trunk)  # our BYE gets no response either
                self.assertEqual(len(logged.output), 1)

    def test_a_hundred_calls_on_sockets_leave_no_thread_and_no_descriptor(self):
        before = self.held()
        server = SIPServer(Config.from_env({"SIP_PORT": "0", "BIND_IP": A, "RTP_THREADS": "3"}))
        server.open()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        callers = [Caller(self, server.port) for _ in range(100)]
        for caller in callers:
            caller.call()
        server.call_soon(server.stop)
        for caller in callers[::2]:  # the others are gone
            caller.answer(caller.receive("BYE"))
        thread.join(PATIENCE)
        for caller in callers:
            caller.sock.close()
        self.assert_held(before)


class LossyCaller:
    """A call on the clock of the server; it retransmits as a client does (RFC 3261 17.1)."""

    def __init__(self, trunk, number, send):
        self.trunk, self.call_id, self._send = trunk, f"call-{number}", send
        self.state, self.tag = "calling", ""
        invite = trunk.request("INVITE", body=OFFER, call_id=self.call_id)
        self.resend(invite, "calling")

    def resend(self, data, state):
        self._send(data)
        resend_while(lambda: self.state == state, lambda: self._send(data),
                     self.trunk.server.after)

    def request(self, method, cseq):
        return self.trunk.request(method, cseq, call_id=self.call_id, to_tag=self.tag)

    def receive(self, data):
        message = SIPMessage(data)
        if message.is_request():
            copied = "".join(f"{name}: {message.header(name)}\r\n"
                             for name in ("Via", "From", "To", "Call-ID", "CSeq"))
            self._send(f"SIP/2.0 200 OK\r\n{copied}\r\n".encode())
            self.state = "ended"
        elif message.method() == "BYE":
            self.state = "ended"
        elif message.status == 200:
            self.tag = message.to_tag
            self._send(self.request("ACK", 1))
            if self.state in ("calling", "waiting"):
                self.state = "up"
        elif self.state == "calling":
            self.state = "waiting"

    def hang_up(self):
        if self.state == "up":
            self.state = "hanging up"
            self.resend(self.request("BYE", 2), "hanging up")


class LossyNetwork(Leaks):
    """In both directions, 5 % of the datagrams are lost, 5 % repeated and 5 % delayed."""

    def setUp(self):
        self.rng = random.Random(20)

    def test_every_call_is_set_up_once_and_ends_and_nothing_is_left(self):
        trunk = Trunk()
        server, passed = trunk.server, 0

        def carry(deliver, data):
            chance = self.rng.random()
            for _ in range((chance >= LOST) + (LOST <= chance < REPEATED)):
                late = REPEATED <= chance < DELAYED
                server.after(0.010 + 0.7 * late, deliver, data)

        def to_server(data):
            carry(lambda data: server.receive(data, PEER), data)

        callers = [LossyCaller(trunk, number, to_server) for number in range(CALLS)]
        by_id = {caller.call_id: caller for caller in callers}
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            for caller in callers[::2]:
                server.after(30, caller.hang_up)
            server.after(31, lambda: [c.hang_up("test") for c in server.calls])
            while not server._timers.empty():
                trunk.clock.now += server.run_due() or 0
                for data, _ in server.sent[passed:]:
                    carry(by_id[SIPMessage(data).header("Call-ID")].receive, data)
                passed = len(server.sent)
        self.assertEqual([caller.state for caller in callers], ["ended"] * CALLS)
        self.assertTrue(all(caller.tag for caller in callers))  # each call was answered
        lines = [record.getMessage() for record in logged.records]
        self.assertEqual(sum(" began" in line for line in lines), CALLS)
        self.assertEqual(sum(" ended" in line for line in lines), CALLS)
        self.assertEqual((len(lines), len(server.media_made)), (2 * CALLS, CALLS))
        self.assert_nothing_left(trunk)

    def arrivals(self, count=3000):
        """Return [(when, number)] of packets sent every 20 ms; when: in units of 20 ms."""
        found = []
        for number in range(count):
            chance = self.rng.random()
            if chance >= LOST:
                found.append((number + 2.5 * (REPEATED <= chance < DELAYED), number))
            if LOST <= chance < REPEATED:
                found.append((number + self.rng.choice((0.1, 1.5, 3.5)), number))
        return sorted(found)

    def open_session(self, caller):
        session = RTPSession(open_rtp_socket(A, 18000, 18998))
        self.addCleanup(session.sock.close)
        session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA", events=101))
        return session

    def test_every_packet_that_arrives_is_echoed_once(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.bind((A, 0))
            caller.settimeout(0.0)
            session, view = self.open_session(caller), memoryview(bytearray(2048))
            echo, echoed = Echo(session), []
            arrivals = self.arrivals()
            for when, number in arrivals:
                caller.sendto(packet(number, 160 * number, b"%160d" % number), (A, session.port))
                self.assertTrue(echo.take(view, int(160 * when)))
                try:
                    echoed.append(int(RTPPacket.parse(caller.recv(2048)).payload))
                except BlockingIOError:
                    pass
            numbers = [number for _, number in arrivals]
            self.assertEqual(echoed, list(dict.fromkeys(numbers)))
            self.assertEqual(session.packets_in, len(numbers))
            self.assertLessEqual(session.received.lost, 3000 - len(echoed))

    def test_a_bot_receives_every_packet_that_arrives_once_and_in_order(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.bind((A, 0))
            session, view = self.open_session(caller), bytearray(2048)
            buffer, heard, arrivals = JitterBuffer(), [], self.arrivals()
            numbers = {number for _, number in arrivals}
            for tick in range(3100):
                while arrivals and arrivals[0][0] < tick:
                    number = arrivals.pop(0)[1]
                    caller.sendto(packet(number, 160 * number, b"%160d" % number),
                                  (A, session.port))
                for _, ssrc, timestamp, payload in session.waiting(view):
                    buffer.put(ssrc, timestamp, payload)
                frame = buffer.pop()
                if frame:
                    heard.append(int(frame))
            self.assertEqual(heard, sorted(set(heard)))
            self.assertGreaterEqual(len(heard), len(numbers) - 5)


if __name__ == "__main__":
    unittest.main()
