"""Bots that misbehave: the server still answers, and other calls do not suffer."""

import socket
import time
from tempfile import TemporaryDirectory

from sip_message import SIPMessage
from tests.interop.support import PATIENCE, SERVER_IP, InteropCase, Server, undisturbed, wait_until
from tests.interop.test_trunk import SIGNALLING, Media, TrunkCall

PROMPT = 0.2  # seconds in which the server must answer OPTIONS


class Misbehaving(InteropCase):
    def setUp(self):
        self.server = self.enter(Server(self.enter(TemporaryDirectory()),
                                        BOT="tests.interop.bots:answer"))
        self.media = self.enter(Media())
        self.calls = []

    def call(self, name):
        call = TrunkCall(self, self.server.port, len(self.calls) + 1, self.media)
        self.addCleanup(call.sock.close)
        call.uri = f"sip:{name}@{SERVER_IP}"
        self.calls.append(call)
        return call

    def invite(self, name):
        """Call a bot that does not answer; return (call, the first response)."""
        call = self.call(name)
        call.send("INVITE", call.sdp())
        return call, SIPMessage(call.sock.recv(65535))

    def options(self):
        """Return the seconds until an OPTIONS is answered."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((SIGNALLING, 0))
            sock.settimeout(PATIENCE)
            here, begun = "{}:{}".format(*sock.getsockname()), time.monotonic()
            sock.sendto(
                f"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{begun}\r\n"
                f"From: <sip:a@x>;tag=1\r\nTo: <sip:x>\r\nCall-ID: {begun}\r\nCSeq: 1 OPTIONS\r\n"
                "\r\n".encode(), (SERVER_IP, self.server.port))
            self.assertEqual(SIPMessage(sock.recv(65535)).status, 200)
            return time.monotonic() - begun

    def assert_others_are_well(self):
        undisturbed(self.try_others)

    def try_others(self, seconds=3.0):
        """Talk to the echo and send OPTIONS for a while; return (None, what is late or lost)."""
        call = self.call("echo")
        call.request("INVITE", call.sdp())
        call.stream.target = SERVER_IP, call.rtp_port
        end, waits = time.monotonic() + seconds, []
        while time.monotonic() < end:
            waits.append(self.options())
            time.sleep(0.05)
        with self.media.lock:
            call.stream.target = None
        # our own packets among its silence; the last ones are still on the way
        sent = len(call.stream.sent)
        wait_until(lambda: self.echoed(call) == sent, 2)
        signs = [f"{self.echoed(call)} of {sent} packets came back"] * (self.echoed(call) != sent)
        call.hang_up()
        return None, signs + [wait for wait in waits if wait > PROMPT]

    def echoed(self, call):
        return sum(number == call.number for _, _, number, _ in list(call.stream.heard))

    def test_bots_that_raise_or_return_reject_the_call(self):
        for name, status in (("raise", 500), ("return", 480)):
            call, refused = self.invite(name)
            if refused.status == 100:  # the bot took more than 200 ms
                refused = SIPMessage(call.sock.recv(65535))
            self.assertEqual((refused.status, refused.reason != ""), (status, True))
        self.assertIn("ZeroDivisionError: as the test wants it", self.server.log())
        self.assertEqual(len(self.server.began()), 0)

    def test_bots_that_block_or_never_answer_harm_no_other_call(self):
        blocked = self.call("block")
        blocked.request("INVITE", blocked.sdp())
        waiting, trying = self.invite("never")
        self.assertEqual(trying.status, 100)
        self.assert_others_are_well()
        blocked.hang_up()
        waiting.send("CANCEL")
        self.assertEqual({SIPMessage(waiting.sock.recv(65535)).status for _ in "12"}, {200, 487})
        self.assertTrue(wait_until(lambda: len(self.server.ended()) == 3))

    def test_two_bots_that_compute_harm_no_other_call(self):
        eaters = [self.call("eat") for _ in "12"]
        for call in eaters:
            call.request("INVITE", call.sdp())
        self.assert_others_are_well()
        for call in eaters:
            call.hang_up()
        self.assertTrue(self.server.is_idle_again(), self.server.usage())
