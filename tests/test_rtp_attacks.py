"""Attack packets in the middle of a call, on real sockets: its audio must not suffer.

A caller sends numbered packets, one every 20 ms by a clock that the test sets. Between them,
attackers send every kind of packet listed here.
"""

import contextlib
import struct
import unittest

from rtp import open_rtp_socket
from siprtp.agreement import Agreement
from siprtp.media import codec, rtcp
from siprtp.media import session as session_module
from siprtp.media.conversation import Conversation
from siprtp.media.session import RTPSession
from siprtp.media.thread import RTPThread
from tests.support import Clock, wait_until
from tests.test_rtp import PCMA, A, OnSockets, RTPPacket, packet, wait_for_end

OUTSIDER, SIGNALLING = "127.0.0.66", "127.0.0.9"
SSRC = 7
EVIL = b"\x2a" * 160
BEGIN, PACKETS = 3, 40  # packets: until the fast path is in use; during an attack
BURST, FLOODED = 60, 84  # packets before each packet of the caller; packets of the caller
SPREAD = (0, 1, 2, 100, 1000, 30000, -1, -2, -100, -1000, -30000)


def jumps(ssrc):
    """Return a function that makes packets ahead of and behind the caller's next one."""
    def make(sequence, timestamp):
        return [packet(sequence + step & 0xFFFF, timestamp + 160 * step & 0xFFFFFFFF, EVIL,
                       ssrc=ssrc) for step in SPREAD]
    return make


def clocks(ssrc):
    def make(sequence, timestamp):
        return [packet(sequence, timestamp + step & 0xFFFFFFFF, EVIL, ssrc=ssrc)
                for step in (1, 800, 8000, 1 << 31, (1 << 32) - 160)]
    return make


def sizes(ssrc):
    def make(sequence, timestamp):
        whole = packet(sequence, timestamp, EVIL * 410, ssrc=ssrc)
        return [whole[:size] for size in (0, 1, 11, 12, 13, 1500, 2048, 9000, 65507)]
    return make


def kinds(ssrc):
    def make(sequence, timestamp):
        return [packet(sequence, timestamp, b"\7\x8a\3\x20", kind, ssrc)
                for kind in (0, 3, 9, 13, 18, 34, 96, 126, 127)]
    return make


def keys(sequence, timestamp):
    return [packet(sequence, timestamp, b"\7\x8a\3\x20", 101, ssrc, True) for ssrc in (SSRC, 666)]


def not_rtp(sequence, timestamp):
    """Return wrong versions, padding, extensions and CSRCs, each numbered as the next packet."""
    good = packet(sequence, timestamp, EVIL[:20])
    lies = [b"\xa0" + good[1:-1] + bytes([last]) for last in (0, 21, 255)]
    lies += [b"\xb0" + good[1:12] + b"\xbe\xde\xff\xff" + good[16:], b"\x90" + good[1:14],
             b"\x8f" + good[1:], b"\xbf" + good[1:]]
    return [bytes([version << 6]) + good[1:] for version in (0, 1, 3)] + lies


def reports(sequence=0, timestamp=0, ssrc=SSRC):
    """Return RTCP with extreme values for the stream ssrc, and a BYE of it."""
    most = (1 << 32) - 1
    block = rtcp.Block(ssrc, 255, 0xFFFFFF, most, most, most, most)
    sender = (1 << 64) - 1, most, most, most
    bye = rtcp.goodbye(ssrc, "caller")
    return [rtcp.report(ssrc, "x", sender, block), rtcp.report(ssrc, "x", None, block), bye,
            bye[-8:], b"\x80\xc8\xff\xff" + bytes(24), b"\x9f\xc9\0\1" + bytes(4), bye + b"\x81",
            b"\x80\xcc\0\2" + bytes(4) + b"EVIL", bye[:-8] + b"\x9f\xcb\0\0"]


SHAPES = {
    "the next packet, and jumps": jumps(SSRC), "jumps of another SSRC": jumps(666),
    "timestamps": clocks(SSRC), "timestamps of another SSRC": clocks(666),
    "sizes": sizes(SSRC), "sizes of another SSRC": sizes(666),
    "types": kinds(SSRC), "types of another SSRC": kinds(666),
    "keys": keys, "packets that are not RTP": not_rtp, "RTCP": reports,
}
# sent from the caller's own address and port: only the SSRC, 32 random bits, is different
SPOOFED = {name: shape for name, shape in SHAPES.items()
           if "another" in name or name in ("packets that are not RTP", "RTCP")}


def voice(number):
    """Return the payload of the caller's packet with this number."""
    return struct.pack("!I", number) * 40


class Attacked(OnSockets):
    """A session in a call; `self.caller` is the socket of the other side."""

    remote_ip, peer_ip = A, A

    def setUp(self):
        self.clock, self.number = Clock(), 0
        self.caller = self.open(self.caller_ip())
        self.session = RTPSession(open_rtp_socket(A, 16000, 16998), self.peer_ip,
                                  clock=self.clock)
        self.at, self.pressed = (A, self.session.port), []
        self.session.on_key = self.pressed.append
        remote = self.caller.getsockname() if self.remote_ip == self.caller_ip() \
            else (self.remote_ip, 9)
        self.session.update(Agreement(remote, PCMA, True, True, "PCMA", events=101))
        self.serve()

    def caller_ip(self):
        return A

    def place(self):
        """Return (sequence number, timestamp) of the caller's next packet; both wrap."""
        return 65530 + self.number & 0xFFFF, (1 << 32) - 1600 + 160 * self.number & 0xFFFFFFFF

    def say(self, marker=False):
        """Let the caller send its next packet; return the payload."""
        said = voice(self.number)
        self.caller.sendto(packet(*self.place(), said, ssrc=SSRC, marker=marker), self.at)
        self.number += 1
        return said

    def flood(self):
        """Send 5000 packets from another address between the caller's; none is answered."""
        outsider = self.open(OUTSIDER)

        def burst():
            for _ in range(BURST):
                outsider.sendto(packet(*self.place(), EVIL), self.at)

        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            self.talk(BEGIN)
            self.talk(FLOODED, burst)
        self.assertEqual(len(logged.output), 1)
        self.assert_nothing_came(outsider)

    def assert_nothing_came(self, sock):
        sock.setblocking(False)
        with self.assertRaises(BlockingIOError):
            sock.recv(65536)
        sock.settimeout(5)

    def assert_unharmed(self, sock, shapes=SHAPES, **how):
        """Attack a new call from sock() with each of the shapes."""
        for name, shape in shapes.items():
            with self.subTest(name, **how):
                self.setUp()
                attacker = sock()

                def attack(attacker=attacker, shape=shape):
                    for data in shape(*self.place()):
                        attacker.sendto(data, self.at)

                self.talk(BEGIN, **how)
                self.talk(PACKETS, attack, **how)
                self.talk(BEGIN, **how)
                self.assert_nothing_came(self.caller)
                if attacker is not self.caller:
                    self.assert_nothing_came(attacker)
                received = self.ended()
                self.assertEqual((received.packets, received.lost), (self.number, 0))
                self.assertLess(received.jitter, 1)
                self.assertEqual(self.pressed, [])


class Echoed(Attacked):
    def serve(self):
        self.thread = RTPThread(clock=self.clock)
        self.session.start(self.thread)
        self.addCleanup(self.session.stop)

    def ended(self):
        self.session.stop()
        wait_for_end(self.thread)
        return self.session.received

    def heard(self):
        data, source = self.caller.recvfrom(65536)
        self.assertEqual(source, self.at)
        return RTPPacket.parse(data)

    def talk(self, count, between=lambda: None, marker=False):
        """Send `count` packets; each comes back at once, once, in order and unchanged."""
        for _ in range(count):
            self.clock.now += 0.020
            between()
            said = self.say(marker)
            echo = self.heard()
            self.assertEqual((echo.payload, echo.marker), (said, marker))
            if self.number > 1:
                self.assertEqual(echo.sequence - self.before.sequence & 0xFFFF, 1)
                self.assertEqual(echo.timestamp - self.before.timestamp & 0xFFFFFFFF, 160)
            self.before = echo

    def assert_unharmed(self, sock, shapes=SHAPES):
        for marker in (False, True):  # the fast path takes only packets without the marker
            super().assert_unharmed(sock, shapes, marker=marker)

    def test_packets_from_another_address_harm_nothing_and_get_no_answer(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(OUTSIDER))

    def test_another_port_of_the_callers_address_does_not_break_in(self):
        with self.assertLogs("siprtp.media.session", "WARNING") as logged:
            self.assert_unharmed(lambda: self.open(A))
        self.assertIn(" is sending", logged.output[0])

    def test_another_ssrc_from_the_callers_own_port_does_not_break_in(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.caller, SPOOFED)

    def test_a_forger_of_address_port_and_ssrc_replaces_only_the_packets_it_numbers(self):
        for step in SPREAD:
            with self.subTest(step):
                self.setUp()
                self.talk(BEGIN)
                sequence, timestamp = self.place()
                self.caller.sendto(packet(sequence + step & 0xFFFF, timestamp, EVIL), self.at)
                if step not in (-1, -2):  # a repeat of an earlier packet
                    self.assertEqual(self.heard().payload, EVIL)
                for number in range(120):
                    said = self.say()
                    # the first packet that is 100 behind starts anew (RFC 3550 A.1)
                    if number != step or step == 100:
                        self.assertEqual(self.heard().payload, said)
                self.assert_nothing_came(self.caller)
                received = self.ended()
                # RFC 3550 A.1: a jump of less than 3000 counts as that many losses
                self.assertLessEqual(received.lost, abs(step) if abs(step) < 3000 else 0)
                self.assertLess(received.jitter, 160)

    def test_a_flood_from_another_address_costs_no_packet(self):
        self.flood()
        received = self.ended()
        self.assertEqual((received.packets, received.lost), (self.number, 0))

    def test_the_address_in_the_sdp_takes_over_from_an_earlier_source(self):
        other = self.open(A)
        other.sendto(packet(1, payload=EVIL, ssrc=666), self.at)
        self.assertEqual(self.heard().payload, EVIL)  # it may be music on hold
        self.talk(1)
        for _ in range(PACKETS):
            other.sendto(packet(2, payload=EVIL, ssrc=666), self.at)
            self.talk(1)
        self.assert_nothing_came(other)

    def test_another_stream_is_accepted_after_100_ms_of_silence(self):
        other = self.open(A)
        self.talk(BEGIN)
        self.clock.now += 0.099
        other.sendto(packet(500, payload=b"too early", ssrc=666), self.at)
        wait_until(lambda: self.session.flow.ignored)
        self.clock.now += 0.002
        other.sendto(packet(501, payload=EVIL, ssrc=666), self.at)
        self.assertEqual(self.heard().payload, EVIL)
        self.assert_nothing_came(other)


class EchoedFromNAT(Echoed):
    """Packets come from the address that signals, not from the one in the SDP."""

    remote_ip, peer_ip = "127.0.0.200", SIGNALLING

    def caller_ip(self):
        return SIGNALLING

    def test_the_address_in_the_sdp_takes_over_from_an_earlier_source(self):
        described = self.open(self.remote_ip)
        self.talk(BEGIN)
        # not the port in the SDP: another host behind that address must not break in
        described.sendto(packet(*self.place(), EVIL), self.at)
        self.talk(BEGIN)
        self.assert_nothing_came(described)

    def test_another_port_of_the_callers_address_does_not_break_in(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(SIGNALLING))

    def test_another_stream_is_accepted_after_100_ms_of_silence(self):
        other = self.open(SIGNALLING)
        self.talk(BEGIN)
        self.clock.now += 0.101
        other.sendto(packet(500, payload=EVIL), self.at)
        self.assertEqual(RTPPacket.parse(other.recv(2048)).payload, EVIL)  # its NAT moved it


class EchoedThroughTrunk(Echoed):
    """The signalling has an address of its own, which may send RTP."""

    peer_ip = SIGNALLING

    def test_the_signalling_address_does_not_move_the_target_of_a_present_stream(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(SIGNALLING))


class Heard(Attacked):
    """A bot receives the caller's audio; the test calls the tick."""

    def serve(self):
        self.talker = Conversation(self.session)
        self.talker.begin(8000)
        self.addCleanup(self.session.sock.close)

    def ended(self):
        self.session.sock.close()
        return self.session.received

    def tick(self):
        """Run a tick; return the 20 ms that the bot receives."""
        self.talker.tick()
        data = self.caller.recv(2048)  # our silence, which only the caller must get
        self.assertEqual(set(data[12:]), {0xD5})
        return self.talker.next_frame()[1]

    def talk(self, count, around=lambda: None):
        """Send `count` packets; the bot receives each with the next tick."""
        for _ in range(count):
            self.clock.now += 0.020
            around()
            said = self.say()
            around()
            self.assertEqual(self.tick(), codec.decode_pcma(said))

    def test_packets_from_another_address_reach_no_bot_and_get_no_answer(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(OUTSIDER))

    def test_another_port_of_the_callers_address_is_not_heard(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(A))

    def test_another_ssrc_from_the_callers_own_port_is_not_heard(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.caller, SPOOFED)

    def test_a_flood_from_another_address_costs_no_frame(self):
        self.flood()
        self.assertEqual(self.session.packets_in, self.number)

    def test_a_key_of_the_caller_may_have_an_ssrc_of_its_own(self):
        self.talk(BEGIN)
        self.caller.sendto(packet(9, 1, b"\5\x8a\3\x20", 101, ssrc=99), self.at)
        self.talk(BEGIN)
        self.assertEqual(self.pressed, ["5"])

    def test_at_most_25_keys_a_second_are_reported(self):
        self.talk(BEGIN)
        for number in range(100):
            self.caller.sendto(packet(number, 800 * number, b"\5\x8a\0\xa0", 101, ssrc=99), self.at)
        self.talk(BEGIN)
        self.assertEqual(self.pressed, ["5"] * session_module.MAX_KEYS_PER_SECOND)
        self.clock.now += 1
        self.caller.sendto(packet(100, 80000, b"\6\x8a\0\xa0", 101, ssrc=99), self.at)
        self.tick()
        self.assertEqual(self.pressed[session_module.MAX_KEYS_PER_SECOND:], ["6"])


class HeardFromNAT(Heard):
    remote_ip, peer_ip = "127.0.0.200", SIGNALLING

    def caller_ip(self):
        return SIGNALLING

    def test_another_port_of_the_callers_address_is_not_heard(self):
        with self.assertLogs("siprtp.media.session", "WARNING"):
            self.assert_unharmed(lambda: self.open(SIGNALLING))


class Reported(OnSockets):
    """RTCP at its own port: attack packets there must not change the call."""

    def setUp(self):
        self.rtp, self.rtcp = self.open(A), self.open(A)
        self.session = session_module.open_rtp_session(A, 17000, 17999, None, A)
        self.addCleanup(self.session.stop)
        self.session.update(Agreement(self.rtp.getsockname(), PCMA, True, True, "PCMA",
                                      self.rtcp.getsockname()))
        self.session.start(RTPThread())

    def flood(self, sock, times):
        for _ in range(times):
            for data in reports() + reports(ssrc=self.session.ssrc):
                with contextlib.suppress(BlockingIOError):
                    sock.sendto(data, (A, self.session.port + 1))

    def talk(self, *sequences):
        for sequence in sequences:
            self.rtp.sendto(packet(sequence, 160 * sequence), (A, self.session.port))
            self.rtp.recv(2048)
        # the session counts an echo after sending it
        wait_until(lambda: self.session.packets_out >= sequence)

    def report(self):
        self.session.report(1000.0)
        return rtcp.parse(self.rtcp.recv(2048))

    def test_reports_from_another_address_are_ignored_and_not_answered(self):
        outsider = self.open(OUTSIDER)
        self.talk(1, 2)
        self.flood(outsider, 300)  # 5400 packets
        _, (block,) = self.report()
        self.talk(3, 4)
        self.assertEqual(block[:4], (7, 0, 0, 2))
        self.assertEqual((block.last_sr, self.session.round_trip), (0, None))
        outsider.setblocking(False)
        with self.assertRaises(BlockingIOError):
            outsider.recv(2048)

    def test_absurd_reports_and_a_bye_of_the_caller_end_nothing(self):
        self.talk(1, 2)
        self.flood(self.rtcp, 1)
        _, (block,) = self.report()
        self.talk(3, 4)
        self.assertEqual(block[:4], (7, 0, 0, 2))
        self.assertFalse(self.session.stop_event.is_set())
        self.assertTrue(self.session.round_trip is None or 0 <= self.session.round_trip < 60)

    def test_at_most_twenty_reports_are_read_at_a_time(self):
        outsider = self.open(OUTSIDER)
        self.flood(outsider, 3)
        self.session.report(1000.0)
        left = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self.session.reports.sock.recv(2048)
                left += 1
        self.assertEqual(left, 3 * 18 - 20)


if __name__ == "__main__":
    unittest.main()
