"""A server that drains: no new calls, and time for those in progress."""

import logging
import re
import signal
import socket
import sys
import time
import unittest

from sip_message import SIPMessage
from tests.support import OFFER, Trunk, offer, statuses
from tests.test_bot_calls import BotCase
from tests.test_main import SECONDS, Caller, Process, run

log = logging.getLogger(__name__)


class Draining(unittest.TestCase):
    """On a clock that the test sets."""

    def setUp(self):
        self.trunk = Trunk(DRAIN_SECONDS="60")
        self.server = self.trunk.server

    def test_new_calls_and_keepalives_get_503_and_the_call_goes_on(self):
        call = self.trunk.call()
        self.server.drain()
        for method, body in (("INVITE", OFFER), ("OPTIONS", b"")):
            refused, = self.trunk.say(method, body=body, call_id=f"new-{method}")
            self.assertEqual((refused.status, refused.header("Retry-After")), (503, "10"))
        byes = [m for _, m in self.trunk.advance(59.9) if m.method() == "BYE"]
        self.assertEqual((byes, call.state, call.media.stopped, self.server.running),
                         ([], "confirmed", 0, True))

    def test_requests_in_a_call_are_answered_as_before(self):
        call = self.trunk.call()
        self.server.drain()
        held = self.trunk.say("INVITE", 2, offer("sendonly"), to_tag=call.local_tag)
        self.assertEqual(statuses(held), [200])
        self.trunk.say("ACK", 2, to_tag=call.local_tag)
        for cseq, method in enumerate(("UPDATE", "INFO", "OPTIONS"), 3):
            self.assertEqual(statuses(self.trunk.say(method, cseq, to_tag=call.local_tag)), [200],
                             method)
        self.assertEqual(statuses(self.trunk.say("OPTIONS", to_tag="nobody")), [481])

    def test_a_call_that_has_no_ack_yet_gets_its_200_again(self):
        ok = self.trunk.say("INVITE", body=OFFER)[-1]
        self.server.drain()
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(0.6)], [(0.5, 200)])
        self.trunk.say("ACK", to_tag=ok.to_tag)
        self.assertEqual([call.state for call in self.server.calls], ["confirmed"])

    def test_the_end_of_the_last_call_ends_the_loop_and_its_bye_is_answered(self):
        calls = [self.trunk.call(call_id=name) for name in ("first", "second")]
        self.server.drain()
        for call, running in zip(calls, (True, False)):
            ok = self.trunk.say("BYE", 2, to_tag=call.local_tag, call_id=call.call_id)
            self.assertEqual((statuses(ok), self.server.running), ([200], running))

    def test_remaining_calls_get_bye_at_the_end_and_two_seconds_to_answer(self):
        self.trunk.call()
        self.server.drain()
        sent = [(at, m.method()) for at, m in self.trunk.advance(61.9)]
        self.assertEqual((sent[0], self.server.running), ((60.0, "BYE"), True))
        self.trunk.advance(0.2)
        self.assertEqual((self.server.running, len(self.server.calls)), (False, 0))

    def test_without_calls_or_time_a_drain_is_a_stop(self):
        self.server.drain()
        self.assertFalse(self.server.running)
        trunk = Trunk(DRAIN_SECONDS="0")
        trunk.call()
        trunk.server.drain()
        self.assertEqual(trunk.last().method(), "BYE")

    def test_one_line_says_how_many_calls_may_go_on_and_for_how_long(self):
        self.trunk.call()
        with self.assertLogs("server", "INFO") as logged:
            self.server.drain()
        self.assertEqual([record.getMessage() for record in logged.records],
                         ["draining: no new calls, calls in progress: 1, at most for 60 s "
                          "(DRAIN_SECONDS)"])


class EndedNow(unittest.TestCase):
    def test_every_call_gets_one_bye_and_the_loop_ends_without_an_answer(self):
        trunk = Trunk()
        trunk.call(call_id="up")
        trunk.say("INVITE", body=OFFER, call_id="not yet acked")
        trunk.server.drain()
        seen = len(trunk.server.sent)
        trunk.server.stop_now()
        self.assertEqual([(m.method(), m.header("Call-ID")) for m in trunk.answers(seen)],
                         [("BYE", "up"), ("BYE", "not yet acked")])
        self.assertEqual((trunk.server.running, len(trunk.server.calls)), (False, 0))

    def test_a_call_gets_only_one_bye(self):
        trunk = Trunk()
        trunk.call()
        trunk.server.stop()
        seen = len(trunk.server.sent)
        trunk.server.stop_now()
        self.assertEqual((trunk.answers(seen), trunk.server.running), ([], False))


class Ringing(BotCase):
    """A call that a bot has not answered when the drain begins."""

    def test_its_bot_may_answer_it(self):
        call = self.invite()
        self.server.drain()
        self.assertEqual(statuses(self.do("ring") + self.do("accept")), [180, 200])
        self.trunk.say("ACK", to_tag=call.local_tag)
        self.assertEqual((call.state, self.server.running), ("confirmed", True))
        self.do("hang_up", 480, "its bot returned")
        self.assertEqual(self.trunk.last().method(), "BYE")

    def test_a_caller_that_cancels_may_be_the_last_call(self):
        self.invite()
        self.server.drain()
        answers = self.trunk.say("CANCEL", branch="z9hG4bKi")
        self.assertEqual((statuses(answers), self.server.running), ([200, 487], False))

    def test_at_the_end_it_is_rejected_with_503(self):
        self.invite()
        self.server.drain()
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(5)], [(5.0, 503)])


def deaf(call):
    """Be a bot that does not notice the end of its call, on a server that waits long for it."""
    sys.modules["__main__"].STOP_SECONDS = SECONDS / 2
    call.answer()  # raises if the call has ended before this thread runs
    log.info("deaf from now on")
    time.sleep(60)


def echoes(caller, rtp_port):
    """Send an RTP packet from the caller; return whether it comes back."""
    packet = b"\x80\x08" + bytes(10) + b"\xd5" * 160
    caller.sock.sendto(packet, ("127.0.0.1", rtp_port))
    while True:
        data = caller.sock.recv(65535)
        if data[0] == 0x80:
            return data[12:] == packet[12:]


class Signals(unittest.TestCase):
    """A process and its signals."""

    def begin(self, **environ):
        """Return (Process, Caller, the 200 of its call)."""
        server = Process(self, **environ)
        caller = Caller(self, server.port)
        ok = caller.call()
        server.wait_for("began")
        return server, caller, ok

    def test_sigterm_lets_a_call_go_on_and_the_process_ends_with_it(self):
        server, caller, ok = self.begin(DRAIN_SECONDS="60")
        server.process.terminate()
        server.wait_for("draining: no new calls, calls in progress: 1, at most for 60 s")
        newcomer = Caller(self, server.port)
        for method in ("OPTIONS", "INVITE"):
            newcomer.send(method, 1)
            self.assertEqual(newcomer.receive(503).header("Retry-After"), "10")
        with socket.create_connection(newcomer.server, SECONDS) as tcp:
            tcp.sendall(newcomer.request("INVITE", 2))
            self.assertEqual(SIPMessage(tcp.recv(65535)).status, 503)
        self.assertEqual(run("--ping", SIP_PORT=str(server.port))[0], 1)
        rtp_port = int(re.search(rb"m=audio (\d+)", ok.body).group(1))
        self.assertTrue(echoes(caller, rtp_port))
        caller.send("BYE", 2, ok.header("To"))
        caller.receive(200)
        self.assertEqual(server.process.wait(SECONDS), 0)

    def test_after_drain_seconds_the_call_gets_bye(self):
        server, caller, _ = self.begin(DRAIN_SECONDS="1")
        server.process.terminate()
        caller.answer(caller.receive("BYE"))
        self.assertEqual(server.process.wait(SECONDS), 0)

    def test_a_second_signal_sends_bye_and_ends_the_server_with_status_1(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            server, caller, _ = self.begin(DRAIN_SECONDS="60")
            server.process.terminate()
            server.wait_for("no new calls")
            server.process.send_signal(number)
            caller.receive("BYE")
            self.assertEqual(server.process.wait(SECONDS), 1)

    def test_a_second_signal_ends_a_server_that_waits_only_for_a_bot(self):
        server, caller, ok = self.begin(DRAIN_SECONDS="60", BOT="tests.test_drain:deaf")
        server.wait_for("deaf from now on")
        server.process.terminate()
        server.wait_for("no new calls")
        caller.send("BYE", 2, ok.header("To"))
        caller.receive(200)
        server.process.terminate()
        self.assertEqual(server.process.wait(SECONDS), 1)


if __name__ == "__main__":
    unittest.main()
