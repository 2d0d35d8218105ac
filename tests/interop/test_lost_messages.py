"""Calls that lose messages: some lose every ACK, others one message in five.

Both take long because of RFC 3261's timers, so they run at the same time.
"""

import random
import re
import select
import socket
from tempfile import TemporaryDirectory

from tests.interop.support import (
    RELAY_IP,
    SERVER_IP,
    SIPP_IP,
    Background,
    InteropCase,
    Server,
    SIPp,
)

CALLS, RATE = 100, 10
UNACKED_CALLS = 3
LOST = 0.2
RESENT = (0.5, 1, 2, 4, 4, 4, 4, 4, 4, 4)  # seconds after the previous 200
GIVEN_UP = 32.0  # 64*T1, RFC 3261 13.3.1.4
OFF = 3.0  # seconds of tolerance for a busy machine; unit tests check the exact times
MESSAGE = re.compile(rb"(?:SIP/2\.0 )?(\S+).*?\r\nCall-ID: (.*?)\r\nCSeq: (.*?)\r\n", re.DOTALL)


class Relay(Background):
    """A path from SIPp to the server and back that loses messages.

    SIPp's own -lost takes its random numbers from the clock, so a call may fail by bad luck. The
    relay decides by the message and how often it was sent, so every run loses the same messages,
    whatever its timing. It never loses more than four in a row; SIPp gives up after six INVITEs or
    eight BYEs, and the server after ten times a 200.
    """

    def __init__(self, target):
        super().__init__()
        self._target, self._caller = target, None
        self._near, self._far = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12"]
        for sock in (self._near, self._far):
            sock.bind((RELAY_IP, 0))
        self.address = self._near.getsockname()
        self._sent = {}  # message: how often
        self.lost = self.passed = 0

    def _close(self):
        self._near.close()
        self._far.close()

    def _run(self):
        while not self._stopping.is_set():
            for sock in select.select([self._near, self._far], [], [], 0.1)[0]:
                data, source = sock.recvfrom(65535)
                if sock is self._near:
                    self._caller = source
                if self._is_lost(data):
                    self.lost += 1
                    continue
                self.passed += 1
                if sock is self._near:
                    self._far.sendto(data, self._target)
                else:
                    self._near.sendto(data, self._caller)

    def _is_lost(self, data):
        message = MESSAGE.match(data).groups()
        self._sent[message] = self._sent.get(message, 0) + 1
        return random.Random(f"{message} {self._sent[message]}").random() < LOST


class LostMessages(InteropCase):
    """The tests look at one run of both."""

    tools = ("sipp",)

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # from the server's own address, as an unverified peer is sent less without an ACK
        with TemporaryDirectory() as path, Server(path, BIND_IP=SIPP_IP) as server, \
                SIPp(path, "no_ack", (SIPP_IP, server.port), UNACKED_CALLS) as sipp:
            cls.run_lossy()
            cls.unacked_exit_code = sipp.wait()
            cls.unacked_messages = sipp.messages()
            cls.unacked_idle = server.is_idle_again()
            cls.unacked_ended = server.ended()

    @classmethod
    def run_lossy(cls):
        options = ["-cid_str", "%u"]  # Call-IDs that are the same in every run
        with TemporaryDirectory() as path, Server(path) as server, \
                Relay((SERVER_IP, server.port)) as relay, \
                SIPp(path, "call", relay.address, CALLS, RATE, options) as sipp:
            cls.exit_code, cls.errors = sipp.wait(), sipp.errors()
            cls.retransmissions = sipp.retransmissions()
            cls.idle_again = server.is_idle_again()
            cls.began, cls.ended = server.began(), server.ended()
            cls.complaints = server.complaints()
            cls.share = relay.lost / (relay.lost + relay.passed)

    def test_every_lossy_call_succeeds_for_its_caller(self):
        self.assertEqual(self.exit_code, 0, self.errors)

    def test_about_a_fifth_of_the_messages_was_lost(self):
        self.assertAlmostEqual(self.share, LOST, delta=0.05)
        self.assertGreater(self.retransmissions["2_200_Retrans"], 0)

    def test_every_lossy_call_is_set_up_once(self):
        self.assertEqual(sorted(self.began), sorted(str(number + 1) for number in range(CALLS)))

    def test_every_lossy_call_is_torn_down_once(self):
        self.assertEqual(sorted(call.caller for call in self.ended), sorted(self.began))
        self.assertEqual({call.why for call in self.ended}, {"the caller hung up"})

    def test_lossy_calls_leave_no_thread_and_no_socket(self):
        self.assertTrue(self.idle_again)

    def test_lossy_calls_log_no_warning(self):
        self.assertEqual(self.complaints, [])

    def test_unacknowledged_200_is_repeated_until_given_up(self):
        for times in self.times_of("SIP/2.0 200 OK"):
            # the tenth is due half a second before the end, so it is not sent; after a longer
            # pause of the machine, neither is the ninth
            self.assertIn(len(times) - 1, range(len(RESENT) - 2, len(RESENT) + 1))
            for before, after, expected in zip(times, times[1:], RESENT):
                self.assert_about(after - before, expected)

    def test_unacknowledged_call_gets_a_bye_after_32_seconds(self):
        for times in self.times_of("BYE "):
            self.assert_about(times[0], GIVEN_UP)

    def test_unacknowledged_call_is_over_when_its_bye_is_answered(self):
        self.assertEqual(self.unacked_exit_code, 0)
        self.assertEqual([call.why[:6] for call in self.unacked_ended], ["no ACK"] * UNACKED_CALLS)
        self.assertTrue(self.unacked_idle)

    def times_of(self, start):
        """Return for each call when these messages arrived, in seconds after its first 200."""
        calls = {}
        for seconds, direction, call_id, _, line in self.unacked_messages:
            if direction == "R" and not line.startswith("SIP/2.0 100"):
                calls.setdefault(call_id, []).append((seconds, line))
        self.assertEqual(len(calls), UNACKED_CALLS)
        return [[seconds - came[0][0] for seconds, line in came if line.startswith(start)]
                for came in calls.values()]

    def assert_about(self, seconds, expected):
        self.assertAlmostEqual(seconds, expected, delta=OFF)
