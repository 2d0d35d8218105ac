"""What is refused, dropped or survived: every datagram has an answer, or a reason for none."""

import random
import unittest

from siprtp.sip.answers import ALLOW
from siprtp.sip.methods import METHODS
from tests.support import OFFER, Trunk, offer, statuses


class Refused(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server

    def test_options_is_200_with_what_we_can_do_even_at_max_forwards_0(self):
        options = self.trunk.request("OPTIONS").replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
        ok = self.trunk.send(options)[-1]
        self.assertEqual((ok.status, ok.headers_all("Allow")), (200, list(METHODS)))
        self.assertEqual([ok.header(name) for name in ("Accept", "Accept-Encoding", "Supported")],
                         ["application/sdp", "identity", "timer"])
        self.assertEqual(len(self.server.calls), 0)

    def test_a_method_we_know_is_405_with_allow_and_another_501(self):
        for method in ("REGISTER", "SUBSCRIBE", "MESSAGE", "PUBLISH", "REFER"):
            refused = self.trunk.say(method)[-1]
            self.assertEqual((refused.status, refused.headers_all("Allow")), (405, list(METHODS)))
        self.assertEqual(self.trunk.say("FOOBAR")[-1].status, 501)

    def test_the_allow_header_names_every_method_there_is(self):
        self.assertEqual(ALLOW.split(", "), list(METHODS))

    def test_the_log_line_of_a_register_says_that_phones_need_no_account(self):
        with self.assertLogs("siprtp.sip.uas", "INFO") as logged:
            self.trunk.say("REGISTER")
        self.assertIn("rejected: 405 Method Not Allowed", logged.output[0])
        self.assertIn("phones need no account here", logged.output[0])

    def test_an_extension_we_lack_is_420_and_is_named(self):
        refused = self.trunk.say("INVITE", body=OFFER, headers=["Require: siprec, x", "Require: y"])
        self.assertEqual((statuses(refused), refused[-1].header("Unsupported")),
                         ([420], "siprec, x, y"))

    def test_a_refusal_is_logged_with_its_reason_and_nothing_raw_from_the_wire(self):
        with self.assertLogs("siprtp.sip.uas", "INFO") as logged:
            self.trunk.say("INVITE", headers=["Require: \x1b[31m\u00e9"])
        self.assertEqual(logged.records[0].getMessage(), "INVITE from 192.0.2.10:5060 rejected: "
                         "420 Bad Extension; Unsupported: '\\x1b[31m\\xe9'; "
                         "From '\"Alice\" <sip:4711@192.0.2.10>;tag=alice', "
                         "Call-ID 'call-1@192.0.2.10'")

    def test_a_caller_that_requires_100rel_gets_a_200_at_once_and_481_to_a_prack(self):
        answers = self.trunk.say("INVITE", body=OFFER, headers=["Require: 100rel"])
        self.assertEqual(statuses(answers), [200])
        prack = self.trunk.say("PRACK", 2, to_tag=answers[0].to_tag, headers=["RAck: 1 1 INVITE"])
        self.assertEqual(statuses(prack), [481])

    def test_proxy_require_is_for_proxies(self):
        self.assertEqual(self.trunk.say("OPTIONS", headers=["Proxy-Require: x"])[-1].status, 200)

    def test_a_method_we_lack_is_refused_before_its_body_or_extensions(self):
        refused = self.trunk.say("MESSAGE", body=b"?", headers=["Require: x", "Content-Type: x/y"])
        self.assertEqual(statuses(refused), [405])

    def test_an_invite_that_does_not_accept_sdp_is_406(self):
        refused = self.trunk.say("INVITE", body=OFFER, headers=["Accept: text/nobodyKnowsThis"])
        self.assertEqual(refused[-1].status, 406)
        for accept in ("application/sdp;level=1, x/y", "application/*", "*/*", ""):
            trunk = Trunk()
            ok = trunk.say("INVITE", body=OFFER, headers=[f"Accept: {accept}"])
            self.assertEqual(ok[-1].status, 200, accept)

    def test_an_unknown_body_is_415(self):
        refused = self.trunk.say("INVITE", body=b"x", headers=["Content-Type: application/x-my"])
        self.assertEqual((refused[-1].status, refused[-1].header("Accept")),
                         (415, "application/sdp"))
        self.assertEqual((len(self.server.calls), self.server.media_made), (0, []))

    def test_the_same_request_on_two_paths_is_482(self):
        self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKpath1")
        self.assertEqual(statuses(self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKpath2")),
                         [482])
        self.assertEqual(len(self.server.calls), 1)

    def test_an_invite_sent_again_after_an_acked_rejection_is_answered_anew(self):
        # a proxy that tries another way sends the same INVITE with a branch of its own
        for expected in (488, 488, 200):
            body = offer(formats="18") if expected == 488 else OFFER
            branch = f"z9hG4bKtry{len(self.server.sent)}"
            last = self.trunk.say("INVITE", body=body, branch=branch)[-1]
            self.assertEqual(last.status, expected)
            if expected == 488:
                self.trunk.say("ACK", to_tag=last.to_tag, branch=branch)

    def test_before_the_ack_of_the_rejection_it_is_still_a_merged_request(self):
        self.trunk.say("INVITE", body=offer(formats="18"), branch="z9hG4bKpath1")
        again = self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKpath2")
        self.assertEqual(statuses(again), [482])

    def test_a_request_too_bad_to_keep_has_the_same_to_tag_each_time(self):
        bad = self.trunk.request("INVITE", body=OFFER).replace(b"CSeq: 1 INVITE", b"CSeq: 1 BYE")
        first, second = self.trunk.send(bad)[-1], self.trunk.send(bad)[-1]
        self.assertEqual((first.status, second.status), (400, 400))
        self.assertEqual(first.header("To"), second.header("To"))
        self.assertEqual(len(self.server.transactions), 0)

    def test_a_refused_invite_is_resent_until_its_ack(self):
        refused = self.trunk.say("INVITE", body=b"x", branch="z9hG4bKr",
                                 headers=["Content-Type: application/x-my"])[-1]
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(2)],
                         [(0.5, 415), (1.5, 415)])
        self.trunk.say("ACK", branch="z9hG4bKr", to_tag=refused.to_tag)
        self.assertEqual(self.trunk.advance(100), [])

    def test_a_handler_that_raises_is_500_with_a_traceback_in_the_log(self):
        def broken(server, request):
            raise ZeroDivisionError

        original = METHODS["OPTIONS"]
        METHODS["OPTIONS"] = broken
        try:
            with self.assertLogs("siprtp.sip.uas", "ERROR") as logged:
                self.assertEqual(statuses(self.trunk.say("OPTIONS")), [500])
        finally:
            METHODS["OPTIONS"] = original
        self.assertIn("ZeroDivisionError", logged.output[0])
        self.assertEqual(statuses(self.trunk.say("OPTIONS", 2)), [200])

    def test_an_invite_whose_answering_raises_is_500_and_leaves_nothing(self):
        def broken(call, body):
            raise ZeroDivisionError

        self.server.calls.answer = broken
        with self.assertLogs("siprtp.sip.uas", "ERROR"):
            self.assertEqual(statuses(self.trunk.say("INVITE", body=OFFER)), [500])
        self.assertEqual((len(self.server.calls), self.server.media_made[0].stopped), (0, 1))


    def test_an_invite_of_50_kilobytes_is_a_call(self):
        padding = [f"X-Padding-{number}: {'x' * 1000}" for number in range(50)]
        answers = self.trunk.say("INVITE", body=OFFER, headers=padding)
        self.assertEqual(statuses(answers), [200])


    def test_a_request_of_too_many_values_gets_a_400_that_does_not_repeat_them(self):
        for name in ("P-Asserted-Identity", "Via", "Record-Route", "To"):
            replies = self.trunk.say("INVITE", body=OFFER, headers=[f"{name}: {'<sip:a>,' * 8000}"])
            self.assertEqual([(r.status, r.reason) for r in replies],
                             [(400, f"Too many values, at {name}")])
            self.assertEqual(replies[0].headers_all("Via")[0], replies[0].header("Via"))
            self.assertLess(len(self.server.sent[-1][0]), 600)
        self.assertEqual((len(self.server.calls), len(self.server.transactions)), (0, 0))

    def test_a_description_of_too_many_lines_is_400(self):
        for line in (b"m=audio 4000 RTP/AVP 8\r\n", b"a=x\r\n"):
            replies = self.trunk.say("INVITE", 1, OFFER + line * 5000, call_id=line.decode()[:3])
            self.assertEqual(statuses(replies), [400])
            self.assertIn("too many", replies[0].reason)
        self.assertEqual(len(self.server.calls), 0)


class Dropped(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()

    def test_keepalives_and_noise_get_no_reply(self):
        for data in (b"\r\n\r\n", b"\0\0\0\0", b"", b"hello", b"\x80\x08" + b"\xd5" * 170,
                     b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 2000):
            self.assertEqual(self.trunk.send(data), [])

    def test_responses_to_nothing_get_no_reply(self):
        for status in (100, 200, 486, 699):
            ok = f"SIP/2.0 {status} x\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nCSeq: 1 BYE\r\n\r\n"
            self.assertEqual(self.trunk.send(ok.encode()), [])

    def test_mangled_requests_are_answered_or_dropped_and_end_nothing(self):
        rng, self.trunk = random.Random(4711), Trunk(SIP_RATE="0")
        call = self.trunk.call(call_id="up")
        seeds = [self.trunk.request(method, body=OFFER, to_tag=to_tag, call_id="m")
                 for method in list(METHODS) + ["REGISTER", "X"] for to_tag in ("", "t")]
        with self.assertLogs("siprtp.sip.uas", "INFO") as logged:
            for _ in range(3000):
                data = bytearray(rng.choice(seeds))
                for _ in range(rng.randrange(1, 8)):
                    at = rng.randrange(len(data))
                    data[at:at + rng.randrange(3)] = bytes([rng.randrange(256)])
                self.trunk.send(bytes(data[:rng.randrange(20, len(data) + 1)]))
        self.assertFalse([line for line in logged.output if "Traceback" in line][:1])
        self.assertEqual(call.state, "confirmed")
        self.trunk.advance(200)
        self.assertEqual(len(self.trunk.server.transactions), 0)

    def test_a_large_datagram_is_read_in_time_linear_in_its_size(self):
        # no clock here: a quadratic reader would take minutes for these and be noticed
        with self.assertLogs("siprtp.sip.uas", "INFO") as logged:
            for filler in ('"\\' * 16000, "<" * 60000, ";" * 60000, "," * 60000, " " * 60000,
                           "\r\n " * 20000, '"' * 60000, "%41" * 20000, "1" * 60000, ":" * 60000):
                for name in ("Via", "From", "Contact", "CSeq", "Content-Length", "X"):
                    data = self.trunk.request("OPTIONS", headers=[f"{name}: {filler}"])
                    self.trunk.send(data)
                    self.trunk.send(data.replace(f"\r\n{name}: ".encode(), b"\r\nX: ", 1))
        self.assertFalse([line for line in logged.output if "Traceback" in line][:1])


if __name__ == "__main__":
    unittest.main()
