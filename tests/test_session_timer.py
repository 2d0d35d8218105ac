"""Session timers: who refreshes, when a call is given up, and that refreshes disturb nothing."""

import gc
import unittest
import weakref

from tests.support import OFFER, Trunk, offer

CUCM = ["Supported: timer,resource-priority,replaces", "Supported: X-cisco-srtp-fallback",
        "Session-Expires:  1800", "Min-SE:  1800"]


class Timed(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk(RTP_TIMEOUT="0")
        self.cseq = 0

    def say(self, method, headers, to_tag="", **parts):
        self.cseq += 1
        ok = self.trunk.say(method, self.cseq, headers=headers, to_tag=to_tag, **parts)[-1]
        if method == "INVITE" and ok.status == 200:
            self.trunk.say("ACK", self.cseq, to_tag=ok.to_tag)
        return ok

    def invite(self, headers=CUCM):
        return self.say("INVITE", headers, body=OFFER)

    def respond(self, request, status, *lines):
        """Answer a request of the server's."""
        copied = [f"{name}: {request.header(name)}" for name in ("Via", "Call-ID", "CSeq")]
        return self.trunk.send("\r\n".join(
            [f"SIP/2.0 {status} x", *copied, *lines, "", ""]).encode())

    def assert_ended_at(self, seconds, why=""):
        self.assertEqual(self.trunk.advance(seconds - 1), [])
        sent = self.trunk.advance(2)
        self.assertEqual([m.method() for _, m in sent][:1], ["BYE"])
        self.assert_why(why)

    def assert_why(self, why):
        self.assertIn(why, next(iter(self.trunk.server.calls)).why)


class Negotiated(Timed):
    def test_the_caller_refreshes_where_it_can(self):
        ok = self.invite()
        self.assertEqual((ok.header("Session-Expires"), ok.header("Require"),
                          ok.header("Supported")), ("1800;refresher=uac", "timer", "timer"))

    def test_without_session_expires_there_is_no_timer(self):
        ok = self.invite(["Supported: timer", "Min-SE: 90"])
        self.assertIsNone(ok.header("Session-Expires"))
        self.assertEqual(self.trunk.advance(100000), [])

    def test_every_case_of_the_choice_of_a_refresher(self):
        # RFC 4028 table 2: the request's Supported and refresher, the response's refresher
        for supported, asked, told in (("timer", "", "uac"), ("timer", ";refresher=uac", "uac"),
                                       ("timer", ";Refresher=UAS", "uas"), ("", "", "uas")):
            with self.subTest((supported, asked)):
                self.setUp()
                ok = self.invite([f"Supported: {supported}", f"x: 600{asked}", "Allow: UPDATE"])
                self.assertEqual(ok.header("Session-Expires"), f"600;refresher={told}")
                self.assertEqual(ok.header("Require"), "timer" if told == "uac" else None)

    def test_where_we_should_refresh_and_update_is_not_allowed_there_is_a_timer_too(self):
        ok = self.invite(["Session-Expires: 600", "Allow: INVITE, BYE"])
        self.assertEqual(ok.header("Session-Expires"), "600;refresher=uas")

    def test_require_timer_is_understood(self):
        self.assertEqual(self.invite([*CUCM, "Require: timer"]).status, 200)

    def test_an_interval_too_small_is_422_with_min_se(self):
        refused = self.invite(["Supported: timer", "Session-Expires: 89"])
        self.assertEqual((refused.status, refused.header("Min-SE")), (422, "90"))
        self.assertEqual(self.trunk.server.media_made, [])
        self.assertEqual(self.invite(["Supported: timer", "Session-Expires: 90"]).status, 200)

    def test_a_malformed_interval_is_400(self):
        for value in ("soon", "4294967296"):
            self.assertEqual(self.invite([f"Session-Expires: {value}"]).status, 400)

    def test_an_update_proves_that_update_is_allowed(self):
        ok = self.invite()
        told = self.say("UPDATE", ["Supported: timer", "x: 600;refresher=uas"], ok.to_tag)
        self.assertEqual(told.header("Session-Expires"), "600;refresher=uas")

    def test_no_timer_keeps_a_call_that_has_ended(self):
        ok = self.invite(["Supported: timer", "Session-Expires: 4294967295"])
        call = weakref.ref(next(iter(self.trunk.server.calls)))
        self.say("BYE", [], ok.to_tag)
        self.trunk.server.media_made.clear()
        self.trunk.advance(100)
        gc.collect()
        self.assertIsNone(call())


class Expired(Timed):
    def test_a_caller_that_never_refreshes_is_cleared_before_the_end(self):
        self.invite()
        self.assert_ended_at(1800 - 32, "no session refresh from the caller, due every 1800 s")

    def test_a_short_session_is_cleared_at_two_thirds(self):
        self.invite(["Supported: timer", "Session-Expires: 90"])
        self.assert_ended_at(60)

    def test_refreshes_by_update_and_reinvite_keep_the_call_and_its_media(self):
        ok = self.invite()
        call = next(iter(self.trunk.server.calls))
        flows = len(call.media.flows)
        for turn in range(40):
            self.assertEqual(self.trunk.advance(900), [])
            method, body = (("UPDATE", b""), ("INVITE", OFFER))[turn % 2]
            again = self.say(method, [*CUCM[:2], "Session-Expires: 1800;refresher=uac"],
                             ok.to_tag, body=body)
            self.assertEqual(again.header("Session-Expires"), "1800;refresher=uac")
            if body:
                self.assertEqual(again.body, ok.body)
        self.assertEqual(len({str(flow.agreement) for flow in call.media.flows}), 1)
        self.assertGreater(len(call.media.flows), flows)
        self.assert_ended_at(1800 - 32)

    def test_a_refresh_without_session_expires_ends_the_timer(self):
        ok = self.invite()
        self.say("UPDATE", ["Supported: timer"], ok.to_tag)
        self.assertEqual(self.trunk.advance(100000), [])

    def test_a_refused_refresh_changes_nothing(self):
        ok = self.invite()
        for status, seconds, body in ((422, 10, b""), (488, 7200, offer(formats="18"))):
            refused = self.say("UPDATE", ["Supported: timer", f"Session-Expires: {seconds}"],
                               ok.to_tag, body=body)
            self.assertEqual(refused.status, status)
        self.assert_ended_at(1800 - 32)

    def test_after_the_end_no_timer_does_anything(self):
        ok = self.invite()
        self.say("BYE", [], ok.to_tag)
        self.assertEqual(self.trunk.advance(4000), [])


class Ours(Timed):
    """The caller asks us to refresh."""

    def setUp(self):
        super().setUp()
        self.invite(["Supported: timer", "Session-Expires: 600;refresher=uas", "Allow: UPDATE"])

    def refresh(self):
        self.assertEqual(self.trunk.advance(299), [])
        (_, request), *_ = self.trunk.advance(1)
        return request

    def test_we_refresh_by_update_without_sdp_at_half_time(self):
        for _ in range(3):
            update = self.refresh()
            self.assertEqual((update.method(), update.header("Session-Expires"), update.body),
                             ("UPDATE", "600;refresher=uac", b""))
            self.assertIsNotNone(update.header("Contact"))
            self.respond(update, 200, "Session-Expires: 600;refresher=uac", "Require: timer")

    def test_a_2xx_without_session_expires_ends_the_timer(self):
        for line in ("X: y", "Session-Expires: soon"):
            self.setUp()
            self.respond(self.refresh(), 200, line)
            self.assertEqual(self.trunk.advance(100000), [])

    def test_422_makes_the_interval_longer(self):
        self.respond(self.refresh(), 422, "Min-SE: 1200")
        again = self.trunk.last()
        self.assertEqual((again.method(), again.header("Session-Expires")),
                         ("UPDATE", "1200;refresher=uac"))
        self.assertEqual(again.header("Min-SE"), "1200")

    def test_481_or_no_answer_ends_the_call(self):
        self.respond(self.refresh(), 481)
        self.assertEqual(self.trunk.last().method(), "BYE")
        self.assert_why("our session refresh was answered with 481")
        self.setUp()
        self.refresh()
        self.trunk.advance(33)
        self.assertEqual(self.trunk.last().method(), "BYE")
        self.assert_why("our session refresh was not answered")

    def test_a_422_that_asks_for_nothing_longer_is_not_answered_at_once(self):
        for asked in ("90", "600", "9999999999"):
            self.setUp()
            self.assertEqual(self.respond(self.refresh(), 422, f"Min-SE: {asked}"), [])

    def test_a_refresh_that_met_another_request_is_tried_again(self):
        self.respond(self.refresh(), 491)
        (at, update), *_ = self.trunk.advance(4)
        self.assertEqual((at, update.method(), update.header("Session-Expires")),
                         (4, "UPDATE", "600;refresher=uac"))

    def test_the_2xx_may_move_the_remote_target(self):
        self.respond(self.refresh(), 200, "Contact: <sip:new@192.0.2.99:5070>")
        call = next(iter(self.trunk.server.calls))
        self.assertEqual(call.target, "sip:new@192.0.2.99:5070")

    def test_a_malformed_contact_in_the_2xx_does_not_end_the_timer(self):
        target = next(iter(self.trunk.server.calls)).target
        for contact in ('"Bob <sip:new@192.0.2.99>', "<sip:new@192.0.2.99"):
            self.respond(self.refresh(), 200, f"Contact: {contact}",
                         "Session-Expires: 600;refresher=uac")
        self.assertEqual(self.refresh().uri, target)

    def test_another_rejection_does_not_end_the_call_and_the_next_refresh_is_on_time(self):
        for _ in range(5):  # RFC 4028 10 names 408 and 481
            self.assertEqual(self.respond(self.refresh(), 403), [])


class ByReInvite(Timed):
    """The caller asks us to refresh, and does not take UPDATE."""

    def setUp(self):
        super().setUp()
        self.ok = self.invite(["Supported: timer", "Session-Expires: 600;refresher=uas",
                               "Allow: INVITE, BYE"])
        self.call = next(iter(self.trunk.server.calls))

    def refresh(self):
        self.assertEqual(self.trunk.advance(299), [])
        (_, request), *_ = self.trunk.advance(1)
        return request

    def answer(self, request, body=OFFER, *lines):
        """Answer a re-INVITE with 200; return what the server sends then."""
        head = [f"{name}: {request.header(name)}" for name in ("Via", "From", "To", "Call-ID",
                                                               "CSeq")]
        head += ["Contact: <sip:4711@192.0.2.10:5060>", "Session-Expires: 600;refresher=uac",
                 "Require: timer", *lines, "Content-Type: application/sdp",
                 f"Content-Length: {len(body)}"]
        return self.trunk.send("\r\n".join(["SIP/2.0 200 OK", *head, "", ""]).encode() + body)

    def test_we_refresh_by_a_reinvite_that_repeats_our_description(self):
        for _ in range(3):
            invite = self.refresh()
            self.assertEqual((invite.method(), invite.header("Session-Expires"), invite.body),
                             ("INVITE", "600;refresher=uac", self.ok.body))
            self.assertEqual(invite.header("Contact"), self.ok.header("Contact"))
            ack, = self.answer(invite)
            self.assertEqual((ack.method(), ack.cseq, ack.body), ("ACK", (invite.cseq[0], "ACK"),
                                                                  b""))
            self.assertNotEqual(ack.via.branch, invite.via.branch)
            self.assertEqual(ack.header("To"), invite.header("To"))
        self.assertEqual(self.call.media.flow.remote, ("192.0.2.10", 4000))

    def test_an_update_rejected_with_405_or_501_is_followed_by_a_reinvite(self):
        for status in (405, 501):
            super().setUp()
            self.invite(["Supported: timer", "Session-Expires: 600;refresher=uas",
                         "Allow: INVITE, UPDATE"])
            self.respond(self.refresh(), status)
            invite = self.trunk.last()
            self.assertEqual(invite.method(), "INVITE")
            self.answer(invite)
            self.assertEqual(self.refresh().method(), "INVITE")  # no UPDATE again

    def test_each_repeat_of_the_2xx_gets_its_ack_again(self):
        invite = self.refresh()
        first, = self.answer(invite)
        second, = self.answer(invite)
        self.assertEqual(bytes(first.start_line, "ascii"), bytes(second.start_line, "ascii"))
        self.assertEqual(first.via.branch, second.via.branch)

    def test_a_rejection_is_acked_with_the_branch_of_the_invite_and_ends_nothing(self):
        invite = self.refresh()
        for _ in "12":
            ack, = self.respond(invite, 488)
            self.assertEqual((ack.method(), ack.via.branch), ("ACK", invite.via.branch))
        self.assertEqual(self.refresh().method(), "INVITE")

    def test_481_or_silence_ends_the_call(self):
        invite = self.refresh()
        self.assertEqual([m.method() for m in self.respond(invite, 481)], ["BYE", "ACK"])
        self.assert_why("our session refresh was answered with 481")
        self.setUp()
        self.refresh()
        sent = [m.method() for _, m in self.trunk.advance(32)]
        self.assertEqual(sent[:7], ["INVITE"] * 6 + ["BYE"])  # timers A and B
        self.assert_why("our session refresh was not answered")

    def test_a_provisional_response_ends_the_retransmissions(self):
        invite = self.refresh()
        self.respond(invite, 100)
        self.assertEqual(self.trunk.advance(100), [])
        self.answer(invite)
        self.assertEqual(self.trunk.advance(199), [])

    def test_an_offer_that_crosses_ours_gets_491_and_ours_is_sent_again(self):
        invite = self.refresh()
        self.assertEqual(self.say("INVITE", [], self.ok.to_tag, body=OFFER).status, 491)
        self.respond(invite, 491)
        sent = [(at, m.method()) for at, m in self.trunk.advance(4) if not m.status]
        self.assertEqual(sent, [(4, "INVITE")])

    def test_a_refresh_waits_while_a_2xx_of_ours_waits_for_its_ack(self):
        self.trunk.advance(299)
        self.cseq += 1
        self.trunk.say("INVITE", self.cseq, OFFER, to_tag=self.ok.to_tag, headers=[
            "Supported: timer", "Session-Expires: 600;refresher=uas"])
        call = self.call
        call.timer._refresh(call.timer._turn, 600, 90)
        sent = [m.start_line[:6] for _, m in self.trunk.advance(3.9)]
        self.assertEqual(set(sent), {"SIP/2."})
        self.trunk.say("ACK", self.cseq, to_tag=self.ok.to_tag)
        (_, invite), *_ = self.trunk.advance(0.2)
        self.assertEqual(invite.method(), "INVITE")

    def test_a_2xx_after_the_end_of_the_call_is_acked(self):
        invite = self.refresh()
        self.call.hang_up("test")
        self.assertEqual([m.method() for m in self.answer(invite)], ["ACK"])
        self.say("BYE", [], self.ok.to_tag)
        self.assertEqual([m.method() for m in self.answer(invite)], ["ACK"])

    def test_the_answer_may_move_the_media(self):
        self.answer(self.refresh(), offer(ip="192.0.2.30", port=6000))
        self.assertEqual(self.call.media.flow.remote, ("192.0.2.30", 6000))

    def test_an_answer_with_a_codec_that_was_not_offered_ends_the_call(self):
        for formats in ("0", "0 101"):  # we offer 8 and 101
            self.setUp()
            with self.assertLogs("siprtp.calls", "WARNING"):
                sent = self.answer(self.refresh(), offer(formats=formats))
            self.assertEqual([m.method() for m in sent], ["BYE", "ACK"])
            self.assert_why("unusable SDP answer")

    def test_audio_that_is_off_stays_off_whatever_the_answer_says(self):
        self.say("INVITE", ["Supported: timer", "Session-Expires: 600;refresher=uas"],
                 self.ok.to_tag, body=offer(port=0))
        invite = self.refresh()
        self.assertIn(b"m=audio 0 RTP/AVP 8\r\n", invite.body)
        self.assertEqual([m.method() for m in self.answer(invite, OFFER)], ["ACK"])
        self.assertEqual((self.call.state, self.call.media.flow.formats), ("confirmed", {}))

    def test_the_2xx_of_a_gateway_that_names_itself_names_no_other_party(self):
        # the From of a response to our request is our own; IOS answers with party=called
        self.answer(self.refresh(), OFFER,
                    'Remote-Party-ID: "Alice" <sip:4711@192.0.2.10>;party=called;screen=yes')
        self.assertEqual(self.call.connected, "4711")

    def test_the_2xx_may_name_another_party(self):
        with self.assertLogs("siprtp.sip.dialog", "INFO") as logged:
            self.answer(self.refresh(), OFFER, "P-Asserted-Identity: <sip:4712@192.0.2.10>")
        self.assertIn("now connected to '4712'", logged.output[0])

    def test_on_hold_it_repeats_the_hold(self):
        self.say("INVITE", ["Supported: timer", "Session-Expires: 600;refresher=uas"],
                 self.ok.to_tag, body=offer("sendonly"))
        invite = self.refresh()
        self.assertIn(b"a=recvonly", invite.body)
        self.answer(invite, offer("sendonly"))
        flow = self.call.media.flow
        self.assertEqual((flow.sending, flow.receiving), (False, True))


if __name__ == "__main__":
    unittest.main()
