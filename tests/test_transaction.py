"""Transactions: what is sent and when, by a clock that the test sets."""

import sched
import unittest

from sip_message import SIPMessage
from siprtp.sip.transaction import ClientTransactions, ServerTransactions
from tests.support import Clock

PEER = ("192.0.2.10", 5060)


class Timed(unittest.TestCase):
    def setUp(self):
        self.clock, self.sent = Clock(), []
        self.timers = sched.scheduler(self.clock, lambda seconds: None)
        self.server = ServerTransactions(self.send, self.after)
        self.client = ClientTransactions(self.send, self.after)

    def send(self, data, address):
        self.sent.append((self.clock.now - 1000.0, data, address))

    def after(self, seconds, function, *args):
        self.timers.enter(seconds, 0, function, args)

    def advance(self, seconds):
        end = self.clock.now + seconds
        while True:
            wait = self.timers.run(blocking=False)
            if wait is None or self.clock.now + wait > end:
                break
            self.clock.now += wait
        self.clock.now = end

    def times(self):
        return [round(at, 3) for at, _, _ in self.sent]


def request(method="INVITE", branch="z9hG4bKa", cseq=1, tag="f", to="<sip:x@y>", sent_by="h:5060",
            call_id="c"):
    return SIPMessage(f"{method} sip:x@y SIP/2.0\r\nVia: SIP/2.0/UDP {sent_by};branch={branch}\r\n"
                      f"From: <sip:a@b>;tag={tag}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n"
                      f"CSeq: {cseq} {method}\r\n\r\n", PEER)


class Server(Timed):
    def begin(self, *args, **parts):
        message = request(*args, **parts)
        self.assertFalse(self.server.absorb(message))
        return self.server.begin(message)

    def test_a_repeated_request_gets_the_stored_reply(self):
        self.begin("OPTIONS").respond(200, b"ok", PEER)
        for _ in range(2):
            self.assertTrue(self.server.absorb(request("OPTIONS")))
        self.assertEqual([(d, a) for _, d, a in self.sent], [(b"ok", PEER)] * 3)

    def test_a_repeat_before_any_reply_is_absorbed_in_silence(self):
        self.begin("OPTIONS")
        self.assertTrue(self.server.absorb(request("OPTIONS")))
        self.assertEqual(self.sent, [])

    def test_another_branch_sent_by_or_method_is_another_transaction(self):
        self.begin("OPTIONS").respond(200, b"ok", PEER)
        for other in (request("OPTIONS", branch="z9hG4bKb"), request("INFO"),
                      request("OPTIONS", sent_by="h:5070")):
            self.assertFalse(self.server.absorb(other))

    def test_sent_by_is_compared_without_case_and_with_its_default_port(self):
        self.begin("OPTIONS")
        self.assertTrue(self.server.absorb(request("OPTIONS", sent_by="H")))

    def test_timer_j_keeps_the_reply_of_a_bye_for_32_seconds(self):
        self.begin("BYE").respond(200, b"ok", PEER)
        self.advance(31.9)
        self.assertTrue(self.server.absorb(request("BYE")))
        self.advance(0.2)
        self.assertEqual(len(self.server), 0)
        self.assertEqual(self.times(), [0, 31.9])

    def test_timer_g_resends_a_refusal_until_timer_h(self):
        self.begin().respond(486, b"busy", PEER)
        self.advance(100)
        self.assertEqual(self.times(), [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])
        self.assertEqual(len(self.server), 0)

    def test_the_ack_ends_the_resending_and_is_absorbed_for_timer_i(self):
        self.begin().respond(486, b"busy", PEER)
        self.assertTrue(self.server.absorb(request("ACK", to="<sip:x@y>;tag=u")))
        self.assertTrue(self.server.absorb(request("ACK", to="<sip:x@y>;tag=u")))
        self.assertTrue(self.server.absorb(request("INVITE")))  # a late repeat: nothing to say
        self.advance(4.9)
        self.assertEqual((self.times(), len(self.server)), ([0], 1))
        self.advance(0.2)
        self.assertEqual(len(self.server), 0)

    def test_a_provisional_reply_is_repeated_and_the_final_one_follows(self):
        transaction = self.begin()
        transaction.respond(100, b"trying", PEER)
        self.server.absorb(request())
        transaction.respond(486, b"busy", PEER)
        self.server.absorb(request())
        self.assertEqual([data for _, data, _ in self.sent],
                         [b"trying", b"trying", b"busy", b"busy"])

    def test_accepted_absorbs_repeats_and_passes_the_ack_on(self):
        # RFC 6026 7.1: resending the 2xx is the dialog's work
        self.begin().respond(200, b"ok", PEER)
        self.assertTrue(self.server.absorb(request()))
        self.assertFalse(self.server.absorb(request("ACK")))
        self.advance(31.9)
        self.assertEqual((self.times(), len(self.server)), ([0], 1))
        self.advance(0.2)  # timer L
        self.assertEqual(len(self.server), 0)

    def test_a_second_final_reply_is_not_sent(self):
        transaction = self.begin()
        transaction.respond(200, b"ok", PEER)
        transaction.respond(487, b"gone", PEER)
        self.assertEqual(len(self.sent), 1)

    def test_the_same_request_on_another_path_is_merged(self):
        self.begin()
        second = request(branch="z9hG4bKb")
        self.server.begin(second)
        self.assertTrue(self.server.is_merged(second))
        third = request(branch="z9hG4bKc", cseq=2)
        self.server.begin(third)
        self.assertFalse(self.server.is_merged(third))

    def test_only_an_invite_is_merged_and_spaces_in_cseq_do_not_hide_it(self):
        self.begin()
        second = request(branch="z9hG4bKb", cseq="1 ")
        self.server.begin(second)
        self.assertTrue(self.server.is_merged(second))
        self.begin("OPTIONS")  # a sloppy keepalive repeats all but its branch
        again = request("OPTIONS", branch="z9hG4bKb")
        self.server.begin(again)
        self.assertFalse(self.server.is_merged(again))

    def test_a_branch_that_is_the_magic_cookie_alone_is_not_unique(self):
        self.begin("OPTIONS", branch="z9hG4bK").respond(200, b"ok", PEER)
        self.assertFalse(self.server.absorb(request("OPTIONS", branch="z9hG4bK", call_id="other")))
        self.assertTrue(self.server.absorb(request("OPTIONS", branch="z9hG4bK")))

    def test_a_cancel_finds_what_it_cancels(self):
        transaction = self.begin()
        self.assertIs(self.server.cancelled_by(request("CANCEL"), ("INVITE",)), transaction)
        self.assertIsNone(self.server.cancelled_by(request("CANCEL", branch="z9hG4bKz"),
                                                   ("INVITE",)))

    def test_a_cancel_finds_what_it_cancels_among_all_methods_but_itself_and_ack(self):
        methods = ("ACK", "CANCEL", "BYE", "INVITE")
        self.begin("CANCEL")
        self.assertIsNone(self.server.cancelled_by(request("CANCEL"), methods))
        for method in ("INVITE", "BYE"):
            transaction = self.begin(method)
            self.assertIs(self.server.cancelled_by(request("CANCEL"), methods), transaction)

    def test_a_client_without_the_magic_cookie_is_matched_by_its_headers(self):
        self.begin(branch="1").respond(486, b"busy", PEER)
        self.assertTrue(self.server.absorb(request(branch="1")))
        self.assertTrue(self.server.absorb(request("ACK", branch="1", to="<sip:x@y>;tag=u")))
        for other in (request(branch="1", cseq=2), request(branch="1", call_id="d"),
                      request(branch="1", tag="g"), request(branch="2")):
            self.assertFalse(self.server.absorb(other))


class Client(Timed):
    def setUp(self):
        super().setUp()
        self.finals = []
        self.client.send("BYE", "z9hG4bKq", b"bye", PEER, self.finals.append)

    def response(self, status, branch="z9hG4bKq", method="BYE"):
        return SIPMessage(f"SIP/2.0 {status} x\r\nVia: SIP/2.0/UDP us;branch={branch}\r\n"
                          f"CSeq: 1 {method}\r\n\r\n")

    def test_a_response_that_is_to_travel_on_is_not_ours(self):
        data = ("SIP/2.0 200 x\r\nVia: SIP/2.0/UDP us;branch=z9hG4bKq, SIP/2.0/UDP next\r\n"
                "CSeq: 1 BYE\r\n\r\n")
        self.assertFalse(self.client.on_response(SIPMessage(data)))
        self.assertEqual(self.finals, [])

    def test_timer_e_resends_and_timer_f_gives_up(self):
        self.advance(100)
        self.assertEqual(self.times(), [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5])
        self.assertEqual(self.finals, [None])
        self.assertEqual(len(self.client), 0)

    def test_a_final_response_ends_the_resending(self):
        self.assertTrue(self.client.on_response(self.response(481)))
        self.advance(100)
        self.assertEqual((self.times(), [m.status for m in self.finals]), ([0], [481]))

    def test_a_provisional_response_does_not_end_it(self):
        self.client.on_response(self.response(100))
        self.assertEqual((self.finals, len(self.client)), ([], 1))

    def test_an_invite_is_resent_more_and_more_rarely_until_any_response(self):
        client = self.client
        client.send("INVITE", "z9hG4bKi", b"invite", PEER, self.finals.append)
        self.sent.clear()
        self.advance(40)
        self.assertEqual([at for at, data, *_ in self.sent if data == b"invite"],
                         [0.5, 1.5, 3.5, 7.5, 15.5, 31.5])  # timer A, RFC 3261 17.1.1.2
        self.setUp()
        self.client.send("INVITE", "z9hG4bKi", b"invite", PEER, self.finals.append)
        self.client.on_response(self.response(180, "z9hG4bKi", "INVITE"))
        self.sent.clear()
        self.advance(100)
        self.assertEqual([data for _, data, *_ in self.sent if data == b"invite"], [])
        self.assertEqual(len(self.client), 1)
        self.advance(200)
        self.assertEqual(len(self.client), 0)

    def test_each_final_response_to_an_invite_is_acked(self):
        acks = []
        self.client.send("INVITE", "z9hG4bKi", b"invite", PEER,
                         lambda response: lambda: acks.append(response.status))
        for _ in range(3):
            self.assertTrue(self.client.on_response(self.response(486, "z9hG4bKi", "INVITE")))
        self.assertEqual(acks, [486] * 3)
        self.advance(33)
        self.assertFalse(self.client.on_response(self.response(486, "z9hG4bKi", "INVITE")))

    def test_a_response_to_something_else_is_not_taken(self):
        for stray in (self.response(200, branch="z9hG4bKx"), self.response(200, method="INFO"),
                      SIPMessage("SIP/2.0 200 OK\r\n\r\n"),
                      SIPMessage("SIP/2.0 200 OK\r\nVia: x\r\nCSeq: 1 BYE\r\n\r\n")):
            self.assertFalse(self.client.on_response(stray))


if __name__ == "__main__":
    unittest.main()
