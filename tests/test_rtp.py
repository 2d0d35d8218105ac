"""RTP: packets as bytes, and sessions on real sockets of the loopback."""

import errno
import gc
import itertools
import logging
import random
import socket
import struct
import sys
import threading
import time
import types
import unittest
import weakref
from unittest import mock

from rtp import RTPPacket, open_rtp_socket, rtp_echo_server
from siprtp import dtmf
from siprtp.agreement import Agreement
from siprtp.media import rtcp
from siprtp.media import session as session_module
from siprtp.media.echo import Echo
from siprtp.media.session import RTPSession
from siprtp.media.thread import RTPThread
from tests.support import wait_until
from tests.test_ipv6 import has_ipv6

A = "127.0.0.1"  # where the description says the caller is
PCMA = {8: 8, 101: 101}


def packet(sequence, timestamp=0, payload=b"\xd5" * 160, payload_type=8, ssrc=7, marker=False):
    return RTPPacket(payload_type, sequence, timestamp, ssrc, payload, marker).serialize()


def wait_for_end(served):
    """Wait until an RTPThread has nothing left to serve."""
    thread = served.thread
    if thread:
        thread.join(5)


class Packets(unittest.TestCase):
    def test_a_packet_survives_the_wire(self):
        one = RTPPacket(101, 65535, 2 ** 32 - 1, 2 ** 32 - 1, b"abc", True)
        self.assertEqual(RTPPacket.parse(one.serialize()), one)
        self.assertEqual(one.serialize(), b"\x80\xe5" + b"\xff" * 10 + b"abc")

    def test_csrcs_extension_and_padding_are_skipped(self):
        head = struct.pack("!BBHII", 0x80 | 0x20 | 0x10 | 2, 8, 1, 2, 3)
        data = head + b"c" * 8 + b"\xbe\xde\0\1" + b"e" * 4 + b"voice" + b"\0\0\3"
        self.assertEqual(RTPPacket.parse(data).payload, b"voice")

    def test_a_malformed_packet_raises_value_error_that_says_why(self):
        for data, why in (
                (b"", "shorter"), (b"\x80" * 11, "shorter"), (b"\0" * 12, "version"),
                (b"\x8f" + b"\0" * 20, "longer"), (b"\x90" + b"\0" * 13, "cut short"),
                (b"\x90" + b"\0" * 13 + b"\xff\xff", "longer"),
                (b"\xa0" + b"\0" * 12, "padding"), (b"\xa0" + b"\0" * 11 + b"\x09", "padding"),
                (b"\xaf" + b"\0" * 20 + b"\x01", "padding")):
            with self.subTest(data), self.assertRaisesRegex(ValueError, why):
                RTPPacket.parse(data)


class Ports(unittest.TestCase):
    def test_it_binds_an_even_port_of_the_range_that_is_free(self):
        with open_rtp_socket(A, 10001, 10004) as one, open_rtp_socket(A, 10001, 10004) as two:
            self.assertEqual({s.getsockname()[1] for s in (one, two)}, {10002, 10004})
            with self.assertRaises(OSError) as caught:
                open_rtp_socket(A, 10001, 10004)
            self.assertEqual(caught.exception.errno, errno.EADDRINUSE)

    def test_the_search_begins_at_first_and_wraps(self):
        with open_rtp_socket(A, 10010, 10014, first=10014) as one:
            self.assertEqual(one.getsockname()[1], 10014)
            with open_rtp_socket(A, 10010, 10014, first=10014) as two:
                self.assertEqual(two.getsockname()[1], 10010)

    def test_the_socket_marks_its_packets_expedited_forwarding(self):
        with open_rtp_socket(A, 10030, 10038) as sock:
            self.assertEqual(sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS), 0xB8)

    def test_an_address_that_is_not_ours_raises_at_once(self):
        with self.assertRaises(OSError) as caught:
            open_rtp_socket("192.0.2.1", 10020, 19998)
        self.assertNotEqual(caught.exception.errno, errno.EADDRINUSE)


class OnSockets(unittest.TestCase):
    def open(self, ip):
        """Return a UDP socket for the other side; the test closes it."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind((ip, 0))
        sock.settimeout(5)
        return sock


class Echoed(OnSockets):
    """A session that echoes in its own thread; `self.caller` is the socket of the other side."""

    def setUp(self):
        self.caller = self.open(A)
        self.session = RTPSession(open_rtp_socket(A, 11000, 11998), peer_ip="127.0.0.9")
        self.addCleanup(self.session.stop)
        self.at = A, self.session.port
        self.update()
        self.now = 1000.0
        self.thread = RTPThread(clock=lambda: self.now)
        self.session.start(self.thread)

    def update(self, sending=True, receiving=True, formats=PCMA, remote=None):
        self.session.update(Agreement(remote or self.caller.getsockname(), formats, sending,
                                      receiving, "PCMA", events=101))

    def send(self, *args, sock=None, **parts):
        (sock or self.caller).sendto(packet(*args, **parts), self.at)

    def heard(self, sock=None):
        data, source = (sock or self.caller).recvfrom(2048)
        self.assertEqual(source, self.at)  # from the advertised port, always
        return RTPPacket.parse(data)

    def send_and_wait(self, *args, **parts):
        """Send a packet that gets no echo, and wait until the RTP thread has counted it."""
        self.send(*args, **parts)
        wait_until(lambda: self.session.packets_in)

    def counted(self):
        """End the session; return its (packets in, packets out)."""
        self.session.stop()
        wait_for_end(self.thread)
        return self.session.packets_in, self.session.packets_out

    def assert_next_heard(self, payload, **parts):
        """Assert that no earlier packet is echoed: the echo of this one arrives first."""
        self.now += 1
        self.send(60000, payload=payload, **parts)
        self.assertEqual(self.heard().payload, payload)

    def test_payload_type_and_marker_come_back_untouched(self):
        for sequence, (payload, kind, marker) in enumerate((
                (bytes(range(160)), 8, True), (b"\x55" * 80, 8, False),
                (b"\1\x8a\3\x20", 101, True))):
            self.send(sequence, payload=payload, payload_type=kind, marker=marker)
            echo = self.heard()
            self.assertEqual((echo.payload, echo.payload_type, echo.marker),
                             (payload, kind, marker))

    def test_ssrc_and_sequence_are_our_own_and_timestamp_steps_stay(self):
        echoes = []
        for sequence, timestamp in ((65534, 2 ** 32 - 160), (65535, 0), (0, 160), (3, 640)):
            self.send(sequence, timestamp, ssrc=0x1234)
            echoes.append(self.heard())
        self.assertEqual(len({e.ssrc for e in echoes}), 1)
        self.assertNotEqual(echoes[0].ssrc, 0x1234)
        first = echoes[0]
        self.assertEqual([e.sequence - first.sequence & 0xFFFF for e in echoes], [0, 1, 2, 3])
        self.assertEqual([e.timestamp - first.timestamp & 0xFFFFFFFF for e in echoes],
                         [0, 160, 320, 800])

    def test_a_new_source_continues_our_stream(self):
        self.send(10, 1000, ssrc=1)
        before = self.heard()
        self.now += session_module.STREAM_HOLD_UNITS / 8000
        self.send(9999, 777777, ssrc=2)
        after = self.heard()
        self.assertEqual(after.ssrc, before.ssrc)
        self.assertEqual(after.sequence - before.sequence & 0xFFFF, 1)
        self.assertEqual(after.timestamp - before.timestamp & 0xFFFFFFFF, 160)

    def test_a_repeated_packet_is_echoed_once(self):
        self.send(1, payload=b"once")
        self.send(1, payload=b"once")
        self.assertEqual(self.heard().payload, b"once")
        self.assert_next_heard(b"next")

    def test_packets_that_are_not_the_calls_rtp_are_ignored(self):
        for junk in (b"", b"x", b"\x80\x08", b"\0" * 172, b"\x80\xc8" + b"\0" * 26,  # RTCP SR
                     packet(1, payload_type=13), packet(2, payload_type=19),
                     packet(3, payload_type=0), packet(4, payload=b"long" * 600),
                     b"\xbf\x08" + b"\xff" * 30, b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"):
            self.caller.sendto(junk, self.at)
        self.assert_next_heard(b"voice")
        self.assertEqual(self.counted(), (4, 1))  # RTP with other payload types is counted

    def test_comfort_noise_and_a_hold_do_not_count_as_losses(self):
        for sequence in range(1, 11):
            self.send(sequence, payload_type=8 if sequence % 2 else 13)
        self.send(11)
        for _ in range(6):
            self.heard()
        self.update(sending=False, receiving=False)
        self.update()
        self.send(500)
        self.heard()
        self.counted()
        self.assertEqual((self.session.received.packets, self.session.received.lost), (12, 0))

    def test_a_packet_that_was_late_and_its_repeats_are_echoed_once(self):
        for sequence in (1, 2, 5, 3, 3, 5, 4, 2, 4, 6):
            self.send(sequence, 160 * sequence, b"%d" % sequence)
        self.assertEqual([self.heard().payload for _ in range(6)],
                         [b"1", b"2", b"5", b"3", b"4", b"6"])
        self.assert_next_heard(b"next")

    def test_the_echo_has_no_padding_and_no_extension(self):
        data = b"\xb0" + packet(1)[1:12] + b"\xbe\xde\0\1eeee" + b"voice" + b"\0\2"
        self.caller.sendto(data, self.at)
        echo, _ = self.caller.recvfrom(2048)
        self.assertEqual((echo[0], echo[12:]), (0x80, b"voice"))

    def test_packets_from_another_port_of_the_caller_are_echoed_to_the_agreed_one(self):
        # music on hold comes from a port that was never advertised
        other = self.open(A)
        self.send(1, payload=b"other", sock=other)
        self.assertEqual(self.heard().payload, b"other")

    def test_packets_from_another_address_are_ignored(self):
        outsider = self.open("127.0.0.66")
        outsider.setblocking(False)
        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            for sequence in range(3 * session_module.MANY_IGNORED):
                self.send(sequence, payload=b"evil", sock=outsider)
                if sequence == session_module.MANY_IGNORED - 2:  # too few to log
                    self.assert_next_heard(b"first")
                    self.assertEqual(logged.output, [])
            self.assert_next_heard(b"voice", ssrc=8)
        self.assertEqual(len(logged.output), 1)
        self.assertIn("127.0.0.66", logged.output[0])
        self.assertIn("addresses are 127.0.0.1 and 127.0.0.9, and ", logged.output[0])
        with self.assertRaises(BlockingIOError):
            outsider.recv(2048)
        self.assertEqual(self.counted(), (2, 2))

    def test_a_payload_type_that_was_not_agreed_on_is_logged_once_with_the_call(self):
        self.session.name = "call 1"
        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            for sequence in range(3 * session_module.MANY_IGNORED):
                self.send(sequence, payload=b"G.729", payload_type=18)
            self.assert_next_heard(b"voice")
        self.assertEqual(logged.output, [
            f"WARNING:siprtp.media.session:call 1: RTP to port {self.session.port} is ignored: "
            "payload type 18 was not agreed on"])

    def test_comfort_noise_is_ignored_without_a_log_line(self):
        with self.assertLogs("siprtp.media.session", "DEBUG") as logged:
            logging.getLogger("siprtp.media.session").debug("begin")
            for sequence in range(3 * session_module.MANY_IGNORED):
                self.send(sequence, payload=b"\x40", payload_type=13)
            self.assert_next_heard(b"voice")
        self.assertEqual(logged.output, ["DEBUG:siprtp.media.session:begin"])

    def test_a_caller_behind_nat_is_followed_to_where_it_signals_from(self):
        nat = self.open("127.0.0.9")  # peer_ip
        self.update(remote=("127.0.0.200", 9))
        self.send(1, payload=b"out", sock=nat)
        self.assertEqual(self.heard(nat).payload, b"out")

    def test_the_target_moves_when_the_peer_signals_from_another_network(self):
        old, new = self.open("127.0.0.9"), self.open("127.0.0.10")
        self.update(remote=("127.0.0.200", 9))
        for sequence in range(1, 5):  # the fast path is on
            self.send(sequence, 160 * sequence, payload=b"before", sock=old)
            self.heard(old)
        self.session.peer_ip = "127.0.0.10"
        self.now += session_module.STREAM_HOLD_UNITS / 8000
        self.send(5, 800, payload=b"after", sock=new)
        self.assertEqual(self.heard(new).payload, b"after")

    def test_a_hold_is_silent_and_a_resume_sends_to_the_new_address(self):
        self.update(sending=False)
        moved = self.open(A)
        self.send_and_wait(1, payload=b"held")
        self.update(remote=moved.getsockname())
        self.send(2, payload=b"back", sock=moved)
        self.assertEqual(self.heard(moved).payload, b"back")
        self.assertEqual(self.counted()[1], 1)

    def test_a_key_is_reported_once_and_its_packets_are_echoed(self):
        keys = []
        self.session.on_key = keys.append
        for sequence, payload in enumerate(dtmf.event_payloads("7")):
            self.send(sequence, 800, payload=payload, payload_type=101, marker=sequence == 0)
            self.assertEqual(self.heard().payload, payload)
        self.assertEqual(keys, ["7"])

    def test_keys_of_one_timestamp_are_told_apart_by_number_and_marker(self):
        keys = []
        self.session.on_key = keys.append
        numbers = iter(range(65530, 65600))
        for key in "*00":
            for step, payload in enumerate(dtmf.event_payloads(key)):
                self.send(next(numbers) & 0xFFFF, 800, payload=payload, payload_type=101,
                          marker=step == 0)
                self.heard()
        self.assertEqual(keys, ["*", "0", "0"])

    def test_payload_types_are_mapped_to_those_of_the_other_side(self):
        self.update(formats={8: 8, 101: 96})
        self.send(1, payload_type=101, payload=b"\1\x8a\3\x20")
        self.assertEqual(self.heard().payload_type, 96)

    def test_a_call_without_an_address_to_send_to_goes_on(self):
        self.session.update(Agreement(None, PCMA, False, True, "PCMA"))
        signalling = self.open("127.0.0.9")
        self.send_and_wait(1, sock=signalling)
        self.update()
        self.assert_next_heard(b"voice")

    def test_stop_frees_the_port_and_ends_the_thread(self):
        self.session.stop()
        wait_for_end(self.thread)
        self.assertIsNone(self.thread.thread)
        with open_rtp_socket(A, self.session.port):
            pass


class Waiting(OnSockets):
    """A session that a bot's tick serves: no call blocks, and only the tick closes the socket."""

    def setUp(self):
        self.caller = self.open(A)
        self.session = RTPSession(open_rtp_socket(A, 11000, 11998))
        self.addCleanup(self.session.sock.close)
        self.session.update(Agreement(self.caller.getsockname(), {8: 97, 0: 0, 101: 96}, True,
                                      True, "PCMA", events=101, others={0: "PCMU"}))
        self.session.start(types.SimpleNamespace(tick=lambda function, owner: None), tick=print)
        self.buffer = bytearray(2048)

    def heard(self, *packets):
        for data in packets:
            self.caller.sendto(data, (A, self.session.port))
        heard = []
        deadline = time.monotonic() + 5
        while self.session.packets_in < self.expected and time.monotonic() < deadline:
            heard += self.session.waiting(self.buffer)
        return heard

    def test_audio_from_before_the_start_is_not_heard(self):
        session = RTPSession(open_rtp_socket(A, 11000, 11998))
        self.addCleanup(session.sock.close)
        session.update(self.session.flow.agreement)
        for sequence in range(10):
            self.caller.sendto(packet(sequence, 160 * sequence), (A, session.port))
        session.start(types.SimpleNamespace(tick=lambda function, owner: None), tick=print)
        self.caller.sendto(packet(10, 1600, b"n" * 160), (A, session.port))
        self.session, self.expected = session, 1
        self.assertEqual(self.heard(), [("PCMA", 7, 1600, b"n" * 160)])

    def test_waiting_yields_the_packets_that_arrived_with_their_codec_and_never_blocks(self):
        self.assertEqual(list(self.session.waiting(self.buffer)), [])
        keys, self.expected = [], 4
        self.session.on_key = keys.append
        self.assertEqual(
            self.heard(packet(1, 160, b"a" * 160), packet(2, 320, b"\7\x0a\0\xa0", 101),
                       b"no RTP", packet(3, 480, b"cn", 13), packet(4, 640, b"u" * 80, 0)),
            [("PCMA", 7, 160, b"a" * 160), ("PCMU", 7, 640, b"u" * 80)])
        self.assertEqual(keys, ["7"])

    def test_audio_is_heard_after_a_counter_that_starts_again(self):
        clock, self.expected = itertools.count(1), 50
        sent = [(number, 160 * next(clock), b"%160d" % number)
                for number in (*range(30), *range(20))]
        heard = self.heard(*(packet(*parts) for parts in sent))
        del sent[30]  # the first that looks like a repeat
        self.assertEqual(heard, [("PCMA", 7, *parts[1:]) for parts in sent])

    @unittest.skipUnless(sys.platform == "linux", "needs the kernel's arrival times")
    def test_a_packet_that_has_just_arrived_is_taken_as_the_last(self):
        for sequence in (1, 2):
            self.caller.sendto(packet(sequence), (A, self.session.port))
        taken = []
        deadline = time.monotonic() + 5
        while len(taken) < 2 and time.monotonic() < deadline:
            taken.append(len(list(self.session.waiting(self.buffer))))
        self.assertEqual(sum(taken), 2)

    def test_sent_packets_have_consecutive_numbers_and_timestamps(self):
        self.session.send(b"a" * 160, 160, marker=True)
        self.session.skip(160)
        self.session.send(b"e", 0, event=True)
        self.session.send(b"b" * 160, 160)
        one, two, three = (RTPPacket.parse(self.caller.recv(2048)) for _ in "123")
        self.assertEqual([p.payload_type for p in (one, two, three)], [97, 96, 97])
        self.assertEqual([p.marker for p in (one, two, three)], [True, False, False])
        self.assertEqual([p.sequence - one.sequence & 0xFFFF for p in (two, three)], [1, 2])
        self.assertEqual([p.timestamp - one.timestamp & 0xFFFFFFFF for p in (two, three)],
                         [320, 320])

    def test_a_type_that_was_not_agreed_is_not_sent(self):
        self.session.update(Agreement(self.caller.getsockname(), {8: 8}, True, True, "PCMA"))
        self.session.send(b"e", 0, event=True)
        self.session.send(b"a", 160)
        self.assertEqual(RTPPacket.parse(self.caller.recv(2048)).payload, b"a")

    def test_a_session_without_a_thread_closes_its_socket_itself(self):
        session = RTPSession(open_rtp_socket(A, 11000, 11998))
        session.stop()
        self.assertEqual(session.sock.fileno(), -1)

    def test_a_stop_leaves_the_socket_to_the_tick(self):
        self.session.stop()
        self.session.send(b"last", 160)
        self.assertEqual(RTPPacket.parse(self.caller.recv(2048)).payload, b"last")


class Reports(OnSockets):
    """A session with RTCP; the caller has a socket for RTP and one for RTCP."""

    def setUp(self):
        self.rtp, self.rtcp = self.open(A), self.open(A)
        self.session = session_module.open_rtp_session(A, 14000, 14999, None, "127.0.0.9")
        self.addCleanup(self.session.stop)
        self.at = A, self.session.port + 1
        self.session.update(Agreement(self.rtp.getsockname(), PCMA, True, True, "PCMA",
                                      self.rtcp.getsockname()))
        self.thread = RTPThread()
        self.session.start(self.thread)

    def talk(self, *sequences):
        for sequence in sequences:
            self.rtp.sendto(packet(sequence, sequence * 160), (A, self.session.port))
            self.rtp.recv(2048)
        # the session counts an echo after sending it
        wait_until(lambda: self.session.packets_out >= len(sequences))

    def report(self, now=1000.0):
        self.session.report(now)
        data, source = self.rtcp.recvfrom(2048)
        self.assertEqual(source, self.at)
        return data, rtcp.parse(data)

    def test_a_session_without_packets_sends_receiver_reports_without_blocks(self):
        data, (sent, blocks) = self.report()
        self.assertEqual((data[1], sent, blocks), (rtcp.RR, None, []))

    def test_a_session_that_echoes_sends_sender_reports_with_a_block(self):
        self.talk(1, 2, 4)
        data, (sent, (block,)) = self.report()
        self.assertEqual((data[1], sent), (rtcp.SR, (self.session.ssrc, rtcp.ntp(1000.0))))
        self.assertEqual(struct.unpack_from("!II", data, 20), (3, 3 * 160))
        behind = self.session.timestamp - struct.unpack_from("!I", data, 16)[0] & 0xFFFFFFFF
        self.assertLessEqual(behind, 160)  # the time of the report, not of the next packet
        self.assertEqual(block[:4], (7, 64, 1, 4))
        data, (sent, blocks) = self.report()
        self.assertEqual((data[1], blocks), (rtcp.RR, []))  # nothing new since

    def test_reports_of_the_caller_give_the_round_trip_and_are_referred_to(self):
        self.talk(1)
        self.session.clock = lambda: 1000.0
        now = time.time()
        middle = rtcp.ntp(now - 1) >> 16 & 0xFFFFFFFF  # our SR of a second ago
        block = rtcp.Block(self.session.ssrc, 0, 0, 1, 0, middle, 65536 // 2)
        self.rtcp.sendto(rtcp.report(7, "caller", (rtcp.ntp(5000.0), 0, 1, 160), block), self.at)
        _, (_, (ours,)) = self.report(now + 2)
        self.assertGreater(self.session.round_trip, 0.499)
        self.assertEqual(ours.last_sr, rtcp.ntp(5000.0) >> 16 & 0xFFFFFFFF)
        # 0.5 s and 2 s, minus the time on the wire
        self.assertAlmostEqual(self.session.round_trip + ours.delay / 65536, 2.5, delta=0.001)

    def test_reports_from_other_addresses_and_malformed_ones_are_ignored(self):
        outsider = self.open("127.0.0.66")
        forged = rtcp.report(7, "x", (rtcp.ntp(5000.0), 0, 1, 160))
        outsider.sendto(forged, self.at)
        for junk in (b"", b"\x80", forged[:20], b"\xff" * 100, b"OPTIONS sip:a@b SIP/2.0"):
            self.rtcp.sendto(junk, self.at)
        self.talk(1)
        _, (_, (ours,)) = self.report()
        self.assertEqual((ours.last_sr, self.session.round_trip), (0, None))

    def test_a_session_that_never_sent_anything_sends_no_bye(self):
        self.session.stop()
        self.rtcp.setblocking(False)
        with self.assertRaises(BlockingIOError):
            self.rtcp.recv(2048)

    def test_the_end_sends_a_bye_and_frees_both_ports(self):
        self.talk(1, 2, 3)
        self.session.stop()
        last = self.rtcp.recv(2048)
        self.assertEqual(last[-8:-4], b"\x81\xcb\0\1")
        # RFC 3550 6.4: a sender report, as it has sent packets; a short call sends no other report
        self.assertEqual((last[:2], struct.unpack_from("!II", last, 20)[0]), (b"\x81\xc8", 3))
        _, [block] = rtcp.parse(last)
        self.assertEqual((block.ssrc, block.lost), (7, 0))
        wait_for_end(self.thread)
        for port in (self.session.port, self.session.port + 1):
            with open_rtp_socket(A, port):
                pass

    def test_if_the_rtcp_port_is_in_use_the_session_has_no_rtcp(self):
        with open_rtp_socket(A, self.session.port + 3):
            port = self.session.port + 2
            session = session_module.open_rtp_session(A, port, port + 1, None, "")
            session.report(1000.0)
            session.stop()


class Sessions(unittest.TestCase):
    def test_a_session_without_thread_closes_its_socket_when_stopped(self):
        session = RTPSession(open_rtp_socket(A, 12000, 12998))
        session.stop()
        with open_rtp_socket(A, session.port):
            pass


class Wire:
    """A socket that returns packets from a list, and keeps those sent; or fails to send."""

    def __init__(self):
        self.coming, self.sent, self.fails = [], [], False

    def getsockname(self):
        return A, 40000

    def recvfrom_into(self, view):
        if not self.coming:
            raise BlockingIOError
        data, source = self.coming.pop(0)
        view[:len(data)] = data
        return len(data), source

    def sendto(self, data, address):
        if self.fails:
            raise OSError(errno.ENOBUFS, "no room")
        self.sent.append((RTPPacket.parse(bytes(data)), address))


class Runs(unittest.TestCase):
    """Consecutive packets take the fast path of the echo: the peer must see no difference."""

    remote = A, 6000

    def setUp(self):
        self.wire, self.now, self.view = Wire(), 5000, memoryview(bytearray(2048))
        self.session = RTPSession(self.wire)
        self.agree(self.remote)
        self.session.start(types.SimpleNamespace(read=lambda echo: setattr(self, "echo", echo)))

    def agree(self, remote, sending=True, codec="PCMA"):
        kind = 8 if codec == "PCMA" else 0
        self.session.update(Agreement(remote, {kind: kind, 101: 101}, sending, True, codec,
                                      events=101))

    def take(self, *args, source=None, **parts):
        """Let the echo take a packet; return what it sent, [(RTPPacket, address)]."""
        self.wire.coming.append((packet(*args, **parts), source or self.remote))
        self.wire.sent.clear()
        self.assertTrue(self.echo.take(self.view, self.now))
        self.now += 160
        return list(self.wire.sent)

    def test_an_hour_of_losses_repeats_keys_and_wraps(self):
        rng, expected = random.Random(7), rtcp.Reception()
        self.session.sequence, self.session.timestamp = 65000, 2 ** 32 - 30000
        number, timestamp, offset, before, out = 64900, 2 ** 32 - 90000, None, None, 0
        for _ in range(5000):
            kind, size, marker, chance = 8, 160, False, rng.random()
            if chance < 0.01:
                number, timestamp = number + 1, timestamp + 160  # one is lost
            elif chance < 0.015:
                marker, timestamp = True, timestamp + 8000
            elif chance < 0.02:
                kind, size = 101, 4
            elif chance < 0.03:
                size = 80
            again = chance > 0.995
            if not again:
                number, timestamp = number + 1 & 0xFFFF, timestamp + size & 0xFFFFFFFF
            self.now += rng.randrange(-20, 20)
            came, source = self.now, self.remote
            got = self.take(number, timestamp, bytes([rng.randrange(256)]) * size,
                            payload_type=kind, marker=marker)
            expected.count(7, number, timestamp, size, came if kind == 8 else None)
            if again:
                self.assertEqual(got, [])
                continue
            [(echo, address)] = got
            offset = echo.timestamp - timestamp if offset is None else offset
            self.assertEqual((echo.payload_type, echo.marker, echo.ssrc, len(echo.payload)),
                             (kind, marker, self.session.ssrc, size))
            self.assertEqual(echo.timestamp, timestamp + offset & 0xFFFFFFFF)
            self.assertEqual(address, source)
            if before is not None:
                self.assertEqual(echo.sequence, before + 1 & 0xFFFF)
            before, out = echo.sequence, out + 1
            if rng.random() < 0.05:  # the SIP thread reads the counters now and then
                self.assertEqual(self.session.packets_out, out)
        received = self.session.received
        self.assertEqual((received.packets, received.lost, received.bytes, received.block()[:5]),
                         (expected.packets, expected.lost, expected.bytes,
                          expected.block()[:4] + (int(received.jitter),)))
        self.assertAlmostEqual(received.jitter, expected.jitter, delta=1)
        self.assertGreater(received.lost, 20)
        self.assertEqual((self.session.sequence, self.session.packets_out), (before + 1, out))

    def run_up_to(self, number):
        for sequence in range(1, number + 1):
            [(echo, address)] = self.take(sequence, sequence * 160)
        return echo, address

    def test_most_packets_take_the_fast_path(self):
        self.session.sequence = self.session.timestamp = 0  # our numbers must not wrap here
        self.run_up_to(2)
        self.session.take = None  # the slow path
        for sequence in range(3, 500):
            self.assertEqual(len(self.take(sequence, sequence * 160)), 1)
        self.assertEqual((self.session.packets_in, self.session.packets_out), (499, 499))

    def test_the_echo_goes_on_after_a_counter_that_starts_again(self):
        self.session.sequence = self.session.timestamp = 0
        self.run_up_to(100)
        self.assertEqual([len(self.take(number, (51 + number) * 160)) for number in (50, 51)],
                         [0, 1])
        take, self.session.take = self.session.take, None  # the fast path
        for number in range(52, 150):
            [(echo, _)] = self.take(number, (51 + number) * 160)
        self.session.take = take
        self.assertEqual((echo.sequence, echo.timestamp), (198, 160 * 199))
        self.assertEqual(self.take(149, 200 * 160), [])  # a repeat
        received = self.session.received
        self.assertEqual((received.packets, received.lost, received.highest), (201, 0, 149))

    def test_a_new_address_a_hold_and_another_codec_apply_to_the_next_packet(self):
        before, _ = self.run_up_to(10)
        self.agree(("127.0.0.7", 7000))
        source = "127.0.0.7", 7000
        [(moved, address)] = self.take(11, 1760, source=source)
        self.assertEqual((address, moved.sequence), (source, before.sequence + 1 & 0xFFFF))
        self.take(12, 1920, source=source)
        self.agree(source, sending=False)
        self.assertEqual(self.take(13, 2080, source=source), [])
        self.agree(source, codec="PCMU")
        [(other, _)] = self.take(14, 2240, source=source, payload_type=0)
        self.assertEqual((other.payload_type, self.session.packets_in), (0, 14))

    def test_an_ended_session_is_counted_and_not_kept_in_memory(self):
        self.run_up_to(5)
        self.session._has_thread = False  # the stand-in for the socket has no shutdown
        self.wire.close = lambda: None
        self.session.stop()
        self.assertFalse(self.echo.take(self.view, self.now))
        self.assertEqual((self.session.packets_in, self.session.packets_out), (5, 5))
        gone = weakref.ref(self.session)
        gc.disable()
        self.addCleanup(gc.enable)
        del self.session, self.echo
        self.assertIsNone(gone())

    def test_packets_from_another_address_are_not_echoed_and_change_nothing(self):
        before, _ = self.run_up_to(3)
        self.assertEqual(self.take(4, 640, source=("127.0.0.66", 6000)), [])
        [(after, address)] = self.take(4, 640)
        self.assertEqual((after.sequence, address), (before.sequence + 1 & 0xFFFF, self.remote))
        self.assertEqual(self.session.packets_in, 4)

    def test_another_port_of_the_caller_is_echoed_to_the_agreed_one(self):
        self.run_up_to(3)
        self.now += session_module.STREAM_HOLD_UNITS
        for sequence in range(4, 8):
            [(_, address)] = self.take(sequence, sequence * 160, source=(A, 40001))
            self.assertEqual(address, self.remote)

    def test_the_echo_goes_on_after_a_packet_that_can_not_be_sent(self):
        before, _ = self.run_up_to(5)
        self.wire.fails = True
        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            for sequence in (6, 7):
                self.assertEqual(self.take(sequence, sequence * 160), [])
        self.assertEqual(len(logged.output), 1)
        self.wire.fails = False
        [(after, _)] = self.take(8, 1280)
        self.assertEqual((self.session.packets_in, self.session.packets_out), (8, 6))
        self.assertIn(after.sequence - before.sequence & 0xFFFF, (1, 2, 3))
        self.assertEqual(after.timestamp - before.timestamp & 0xFFFFFFFF, 480)


class SenderReports(OnSockets):
    def test_the_reported_time_is_that_of_the_first_packet_of_an_echoed_key(self):
        caller, reports = self.open(A), self.open(A)
        session = RTPSession(open_rtp_socket(A, 12000, 12998), clock=lambda: 2.0,
                             rtcp_sock=open_rtp_socket(A, 15000, 15998))
        self.addCleanup(session.stop)
        session.update(Agreement(caller.getsockname(), PCMA, True, True, "PCMA",
                                 reports.getsockname(), events=101))
        view, echo = memoryview(bytearray(2048)), Echo(session)
        for sequence, now in ((1, 1000), (2, 1160), (3, 1320)):
            caller.sendto(packet(sequence, 800, b"\1\x0a\0\xa0", 101), (A, session.port))
            deadline = time.monotonic() + 5
            while session.packets_out < sequence and time.monotonic() < deadline:
                echo.take(view, now)
        sent = RTPPacket.parse(caller.recv(2048)).timestamp
        session.report(1000.0)
        reported = struct.unpack_from("!I", reports.recv(2048), 16)[0]
        self.assertEqual(reported - sent & 0xFFFFFFFF, 2 * 8000 - 1000)


class StandAlone(OnSockets):
    """rtp_echo_server in a thread; `self.caller` is the other side."""

    ip, family, other_ip = A, "IP4", "127.0.0.66"

    def setUp(self):
        self.caller = self.open(self.ip)
        with open_rtp_socket(self.ip, 13000, 13998) as free:
            self.at = free.getsockname()[:2]

    def open(self, ip):
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(sock.close)
        sock.bind((ip, 0))
        sock.settimeout(0.2)
        return sock

    def start(self, open_socket=open_rtp_socket, direction="", tries=50):
        """Start the echo and return the first packet that it sends back."""
        description = (f"v=0\r\no=- 1 1 IN {self.family} {self.ip}\r\ns=-\r\n"
                       f"c=IN {self.family} {self.ip}\r\nt=0 0\r\n"
                       f"m=audio {self.caller.getsockname()[1]} RTP/AVP 8\r\n{direction}")
        stop = threading.Event()
        thread = threading.Thread(target=rtp_echo_server, args=(*self.at, description, stop))
        patch = mock.patch("rtp.open_rtp_socket", open_socket)
        patch.start()
        self.addCleanup(patch.stop)
        thread.start()

        def end():
            began = time.monotonic()
            stop.set()
            thread.join(20)
            return time.monotonic() - began

        self.end = end
        self.addCleanup(end)
        for _ in range(tries):  # the socket of the echo may not be bound yet
            try:
                return self.echo(0, b"hello")
            except (socket.timeout, ConnectionError):
                continue
        raise AssertionError("no echo")

    def echo(self, sequence, payload, **parts):
        """Send a packet and return its echo."""
        self.caller.sendto(packet(sequence, 160 * sequence, payload, **parts), self.at)
        return RTPPacket.parse(self.caller.recv(2048))

    def test_it_answers_with_its_own_ssrc_and_sequence_until_its_event_is_set(self):
        first = self.start()
        second = self.echo(1000, b"again", marker=True)
        self.assertEqual((first.payload, second.payload, second.marker, second.timestamp),
                         (b"hello", b"again", True, 160000))
        self.assertEqual((second.ssrc, second.sequence - first.sequence & 0xFFFF),
                         (first.ssrc, 1))
        self.assertNotEqual(first.ssrc, 7)
        self.assertLess(self.end(), 1)
        with open_rtp_socket(self.ip, self.at[1]):
            pass

    def test_other_sources_and_packets_that_are_not_rtp_are_ignored(self):
        self.start()
        other = self.open(self.other_ip) if self.other_ip else None
        if other:
            other.sendto(packet(1), self.at)
        for junk in (b"", b"x", b"\0" * 172, b"\x80\xc8" + b"\0" * 26, packet(2, payload_type=0),
                     packet(2, payload=bytes(3000))):
            self.caller.sendto(junk, self.at)
        self.assertEqual(self.echo(3, b"voice").payload, b"voice")
        if other:
            other.setblocking(False)
            with self.assertRaises(BlockingIOError):
                other.recv(2048)

    def test_another_port_of_the_caller_is_echoed_to_the_described_one(self):
        self.start()
        self.open(self.ip).sendto(packet(5, payload=b"music"), self.at)
        self.assertEqual(RTPPacket.parse(self.caller.recv(2048)).payload, b"music")

    def test_a_repeated_packet_is_echoed_once(self):
        self.start()
        for sequence in (6, 6, 7, 6):
            self.caller.sendto(packet(sequence, payload=b"%d" % sequence), self.at)
        self.assertEqual([RTPPacket.parse(self.caller.recv(2048)).payload for _ in range(2)],
                         [b"6", b"7"])
        self.assertEqual(self.echo(8, b"8").payload, b"8")

    def test_a_counter_that_starts_again_loses_no_packet(self):
        self.start()
        for number, timestamp in ((1, 160), (2, 320), (1, 480), (1, 480), (2, 640)):
            self.caller.sendto(packet(number, timestamp), self.at)
        self.assertEqual([RTPPacket.parse(self.caller.recv(2048)).timestamp for _ in range(4)],
                         [160, 320, 480, 640])

    def test_a_caller_that_only_receives_is_not_echoed(self):
        with self.assertRaises(AssertionError):
            self.start(direction="a=recvonly\r\n", tries=2)

    def test_icmp_errors_on_sending_and_receiving_end_nothing(self):
        class Unreachable(socket.socket):
            failures = [ConnectionRefusedError, OSError(errno.ENETUNREACH, "no route")] * 2

            def sendto(self, *args):
                if self.failures:
                    raise self.failures.pop()
                return super().sendto(*args)

            def recvfrom(self, size):
                data, source = super().recvfrom(size)
                if len(self.failures) == 2:
                    self.failures.pop()
                    raise ConnectionRefusedError
                return data, source

        def open_socket(*args):
            return Unreachable(fileno=open_rtp_socket(*args).detach())

        self.assertEqual(self.start(open_socket).payload, b"hello")
        self.assertEqual(Unreachable.failures, [])

    def test_a_description_without_our_codec_raises_value_error(self):
        with self.assertRaises(ValueError):
            rtp_echo_server(A, 13000, "v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio 9 RTP/AVP 18\r\n",
                            threading.Event())


@unittest.skipUnless(has_ipv6(), "needs IPv6")
class StandAloneOverIPv6(StandAlone):
    ip, family, other_ip = "::1", "IP6", ""  # IPv6 has a single loopback address


if __name__ == "__main__":
    unittest.main()
