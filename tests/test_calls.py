"""Whole calls as they look on the wire: set-up, the 2xx and its ACK, CANCEL, BYE, limits."""

import errno
import unittest
from unittest import mock

from tests.support import OFFER, PEER, Trunk, offer, statuses

T_RESENT = [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]


class SetUp(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server

    def test_an_invite_gets_a_200_with_the_answer_and_no_100(self):
        ok, = self.trunk.say("INVITE", body=OFFER, headers=["Timestamp: 12.5"])
        self.assertEqual((ok.status, ok.header("Timestamp")), (200, "12.5"))
        self.assertEqual(ok.header("Contact"), "<sip:1000@192.0.2.1:5060>")
        self.assertEqual(ok.headers_all("Allow"), "INVITE ACK BYE CANCEL OPTIONS UPDATE INFO "
                         "NOTIFY PRACK".split())
        for name in ("Supported", "Server"):
            self.assertIsNotNone(ok.header(name), name)
        self.assertIn(b"m=audio 20000 RTP/AVP 8 101\r\n", ok.body)
        self.assertIn(b"c=IN IP4 192.0.2.1\r\n", ok.body)

    def test_the_media_run_before_the_200_leaves_and_go_where_the_offer_says(self):
        self.trunk.say("INVITE", body=OFFER)
        media = self.server.media_made[0]
        self.assertEqual((media.started, media.peer_ip), (1, PEER[0]))
        self.assertEqual((media.flow.remote, media.flow.formats, media.flow.sending),
                         (("192.0.2.10", 4000), {8: 8, 101: 101}, True))

    def test_a_repeated_invite_starts_no_second_call(self):
        invite = self.trunk.request("INVITE", body=OFFER)
        self.trunk.send(invite)
        self.assertEqual(self.trunk.send(invite), [])  # RFC 6026 7.1: the 200 has its own timer
        self.assertEqual((len(self.server.calls), len(self.server.media_made)), (1, 1))

    def test_the_200_is_resent_until_the_ack(self):
        ok = self.trunk.say("INVITE", body=OFFER)[-1]
        resent = self.trunk.advance(4)
        self.assertEqual([at for at, _ in resent], [0.5, 1.5, 3.5])
        self.assertEqual({m.to_tag for _, m in resent}, {ok.to_tag})
        self.assertEqual(self.trunk.say("ACK", to_tag=ok.to_tag), [])
        self.assertEqual(self.trunk.advance(60), [])

    def test_without_an_ack_the_call_ends_with_bye_after_64_t1(self):
        self.trunk.say("INVITE", body=OFFER)
        sent = self.trunk.advance(32)
        self.assertEqual([(at, m.status) for at, m in sent[:-1]], [(t, 200) for t in T_RESENT])
        self.assertEqual((sent[-1][0], sent[-1][1].method()), (32, "BYE"))
        self.assertEqual(self.server.media_made[0].stopped, 1)
        self.assertEqual(self.server.sent[-1][1], ("192.0.2.10", 5060))
        self.trunk.advance(33)  # the BYE gets no answer either
        self.assertEqual((len(self.server.calls), len(self.server.transactions),
                          len(self.server.client_transactions)), (0, 0, 0))

    def test_an_ack_with_the_invites_own_branch_counts_as_well(self):
        ok = self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKsame")[-1]
        self.trunk.say("ACK", to_tag=ok.to_tag, branch="z9hG4bKsame")
        self.assertEqual(self.trunk.advance(60), [])

    def test_an_sdp_in_the_ack_to_an_answer_is_ignored(self):
        self.trunk.call(ack_body=offer(ip="192.0.2.99"))
        self.assertEqual(self.server.media_made[0].flow.remote, ("192.0.2.10", 4000))

    def test_an_ack_for_nothing_is_not_answered(self):
        self.assertEqual(self.trunk.say("ACK", to_tag="nobody"), [])
        self.assertEqual(self.trunk.send(b"ACK sip:a@b SIP/2.0\r\nVia: ;\r\n\r\n"), [])
        self.assertEqual(self.trunk.say("ACK", headers=["Require: x"]), [])

    def test_two_calls_with_one_call_id_and_other_tags_are_two(self):
        one = self.trunk.call(from_tag="one")
        two = self.trunk.call(from_tag="two")
        self.assertEqual(len(self.server.calls), 2)
        ok = self.trunk.say("BYE", 2, from_tag="one", to_tag=one.local_tag)[-1]
        self.assertEqual((ok.status, list(self.server.calls)), (200, [two]))

    def test_the_reply_goes_to_the_port_of_the_via_not_to_the_source_port(self):
        self.trunk.send(self.trunk.request("INVITE", body=OFFER), ("192.0.2.10", 49193))
        self.assertEqual({address for _, address in self.server.sent}, {("192.0.2.10", 5060)})

    def test_a_client_of_rfc_2543_without_cookie_tag_or_contact_is_served(self):
        invite = self.trunk.request("INVITE", body=OFFER, branch="1", contact=False)
        invite = invite.replace(b";branch=1", b"").replace(b";tag=alice", b"")
        ok = self.trunk.send(invite)[-1]
        self.assertEqual(self.trunk.send(invite), [])
        ack = self.trunk.request("ACK", branch="1", contact=False, to_tag=ok.to_tag)
        self.trunk.send(ack.replace(b";branch=1", b"").replace(b";tag=alice", b""))
        self.assertEqual([call.state for call in self.server.calls], ["confirmed"])

    def test_an_advertised_address_is_what_callers_see(self):
        trunk = Trunk(ADVERTISED_IP="203.0.113.7")
        ok = trunk.say("INVITE", body=OFFER)[-1]
        self.assertIn(b"c=IN IP4 203.0.113.7\r\n", ok.body)
        self.assertEqual(ok.header("Contact"), "<sip:1000@203.0.113.7:5060>")


class Reported(unittest.TestCase):
    def test_reports_are_sent_about_every_5_seconds_until_the_call_ends(self):
        trunk = Trunk()
        call = trunk.call()
        trunk.advance(60)
        self.assertGreaterEqual(call.media.reports, 60 / 7.5 - 1)
        self.assertLessEqual(call.media.reports, 60 / 2.5)
        trunk.say("BYE", 2, to_tag=call.local_tag)
        reports = call.media.reports
        trunk.advance(60)
        self.assertEqual(call.media.reports, reports)


class DelayedOffer(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()

    def media(self):
        return self.trunk.server.media_made[0]

    def test_an_invite_without_sdp_gets_our_offer_and_the_ack_answers_it(self):
        ok = self.trunk.say("INVITE")[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 0 101\r\n", ok.body)
        self.assertIn(b"a=sendrecv\r\n", ok.body)
        self.assertEqual(self.media().flows, [])
        self.trunk.say("ACK", to_tag=ok.to_tag, body=OFFER)
        self.assertEqual(self.media().flow.remote, ("192.0.2.10", 4000))
        self.assertTrue(self.media().flow.sending)

    def test_an_invite_whose_only_body_is_not_sdp_is_one_too(self):
        ok = self.trunk.say("INVITE", body=b"<presence/>",
                            headers=["Content-Type: application/pidf+xml"])[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 0 101\r\n", ok.body)

    def test_an_ack_without_answer_is_survived_and_ends_after_64_t1(self):
        call = self.trunk.call(body=b"")
        self.assertEqual((call.state, self.media().flows), ("confirmed", []))
        sent = self.trunk.advance(33)
        self.assertEqual((sent[0][0], sent[0][1].method()), (32, "BYE"))

    def test_the_bye_that_follows_an_ack_without_answer_is_answered(self):
        call = self.trunk.call(body=b"")
        bye = self.trunk.say("BYE", 2, to_tag=call.local_tag,
                             headers=["Reason: Q.850;cause=47"])[-1]
        self.assertEqual((bye.status, len(self.trunk.server.calls)), (200, 0))
        self.assertEqual(self.trunk.advance(100), [])

    def test_an_answer_that_cannot_be_used_ends_the_call(self):
        for answer in (b"v=0\r\nnonsense", offer(formats="18")):
            trunk = Trunk()
            with self.assertLogs("siprtp.calls", "WARNING"):
                call = trunk.call(body=b"", ack_body=answer)
            self.assertEqual((call.state, trunk.last().method()), ("closing", "BYE"))

    def test_a_lost_ack_is_made_good_by_the_next(self):
        ok = self.trunk.say("INVITE")[-1]
        self.trunk.advance(2)
        self.trunk.say("ACK", to_tag=ok.to_tag, body=OFFER)
        self.trunk.say("ACK", to_tag=ok.to_tag, body=offer(port=5000))  # too late to change it
        self.assertEqual(self.media().flow.remote, ("192.0.2.10", 4000))


class Ended(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server

    def test_the_reason_of_a_bye_is_logged_and_its_200_has_our_statistics(self):
        call = self.trunk.call()
        call.media.packets_out, call.media.bytes_out = 2, 320
        for sequence in (1, 3):
            call.media.received.count(7, sequence, sequence * 160, 160, sequence * 160)
        call.media.round_trip = 0.05
        self.trunk.advance(12)
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            ok = self.trunk.say("BYE", 2, to_tag=call.local_tag,
                                headers=["Reason: Q.850;cause=16"])[-1]
        self.assertEqual(ok.header("P-RTP-Stat"), "PS=2,OS=320,PR=2,OR=320,PL=1,JI=0,LA=25,DU=12")
        self.assertIn("the caller hung up (Q.850 cause 16); RTP packets 2 in, 2 out, 1 lost, "
                      "jitter 0.0 ms, round trip 50 ms", logged.output[0])

    def test_our_bye_has_a_reason_and_our_statistics(self):
        call = self.trunk.call()
        call.on("hang up", why="test", cause=41)
        bye = self.trunk.last()
        self.assertEqual(bye.header("Reason"), "Q.850;cause=41")
        self.assertRegex(bye.header("P-RTP-Stat"), r"^PS=0,OS=0,PR=0,OR=0,PL=0,JI=0,LA=0,DU=\d+$")

    def test_a_bye_ends_the_media_and_the_row(self):
        call = self.trunk.call()
        self.assertEqual(statuses(self.trunk.say("BYE", 2, to_tag=call.local_tag)), [200])
        self.assertEqual((len(self.server.calls), call.media.stopped), (0, 1))
        self.assertEqual(call.why, "the caller hung up")

    def test_a_repeated_bye_gets_its_200_again_and_a_new_one_481(self):
        call = self.trunk.call()
        bye = self.trunk.request("BYE", 2, to_tag=call.local_tag)
        first = self.trunk.send(bye)
        self.trunk.advance(10)
        again = self.trunk.send(bye)
        self.assertEqual([m.start_line for m in again], [m.start_line for m in first])
        self.assertEqual(statuses(self.trunk.say("BYE", 3, to_tag=call.local_tag)), [481])

    def test_a_bye_with_the_wrong_tag_is_481_and_the_call_stays(self):
        self.trunk.call()
        self.assertEqual(statuses(self.trunk.say("BYE", 2, to_tag="wrong")), [481])
        self.assertEqual(statuses(self.trunk.say("BYE", 2)), [481])
        self.assertEqual(len(self.server.calls), 1)

    def test_a_bye_before_the_ack_stops_the_resending(self):
        ok = self.trunk.say("INVITE", body=OFFER)[-1]
        self.assertEqual(statuses(self.trunk.say("BYE", 2, to_tag=ok.to_tag)), [200])
        self.assertEqual(self.trunk.advance(100), [])

    def test_a_bye_without_max_forwards_and_with_a_foreign_body_is_fine(self):
        call = self.trunk.call()
        bye = self.trunk.request("BYE", 2, to_tag=call.local_tag, body=b"<x/>",
                                 headers=["Content-Type: application/rs-metadata+xml"])
        ok = self.trunk.send(bye.replace(b"Max-Forwards: 70\r\n", b""))
        self.assertEqual(statuses(ok), [200])

    def test_our_bye_is_resent_until_answered_and_crossing_ones_both_get_200(self):
        call = self.trunk.call()
        call.on("hang up", why="test")
        sent = self.trunk.advance(4)
        self.assertEqual([(at, m.method()) for at, m in sent],
                         [(0.5, "BYE"), (1.5, "BYE"), (3.5, "BYE")])
        self.assertEqual(statuses(self.trunk.say("BYE", 2, to_tag=call.local_tag)), [200])
        self.assertEqual(len(self.server.calls), 0)

    def test_after_our_bye_nothing_but_bye_finds_the_call(self):
        call = self.trunk.call()
        call.on("hang up", why="test")
        self.assertEqual(statuses(self.trunk.say("INFO", 2, to_tag=call.local_tag)), [481])
        self.assertEqual(statuses(self.trunk.say("INVITE", 3, body=OFFER, to_tag=call.local_tag)),
                         [481])

    def test_the_answer_to_our_bye_ends_the_call(self):
        call = self.trunk.call()
        call.on("hang up", why="test")
        bye = self.trunk.last()
        ok = "SIP/2.0 200 OK\r\nVia: {}\r\nCSeq: {}\r\n\r\n".format(
            bye.header("Via"), bye.header("CSeq"))
        self.trunk.send(ok.encode())
        self.assertEqual((len(self.server.calls), call.state), (0, "ended"))
        self.assertEqual(self.trunk.advance(100), [])

    def test_a_call_that_sends_no_rtp_is_ended(self):
        call = self.trunk.call()
        sent = self.trunk.advance(299)
        self.assertEqual(sent, [])
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.assertEqual(self.trunk.advance(100)[0][1].method(), "BYE")
        self.assertIn("ended after 300.0 s: no RTP for 300 s", logged.output[0])
        self.assertEqual(call.media.stopped, 1)

    def answer(self, request, status):
        self.trunk.send("SIP/2.0 {} x\r\nVia: {}\r\nCSeq: {}\r\n\r\n".format(
            status, request.header("Via"), request.header("CSeq")).encode())

    def test_a_held_call_may_be_silent_for_as_long_as_its_caller_is_there(self):
        call = self.trunk.call(body=offer("sendonly"))
        for direction, cseq in (("inactive", 2), ("sendonly", 3)):
            for _ in range(3):
                (_, options), = self.trunk.advance(300)
                self.assertEqual((options.method(), options.to_tag), ("OPTIONS", "alice"))
                self.answer(options, 200)
            self.trunk.say("INVITE", cseq, to_tag=call.local_tag, body=offer(direction))
            self.trunk.say("ACK", cseq, to_tag=call.local_tag)
        self.assertEqual(call.state, "confirmed")

    def test_a_held_call_that_its_caller_does_not_know_any_more_is_ended(self):
        for status in (481, 408, None):
            self.trunk = Trunk()
            call = self.trunk.call(body=offer("sendonly"))
            (_, options), = self.trunk.advance(300)
            if status:
                self.answer(options, status)
            else:
                self.trunk.advance(32)
            self.assertEqual((self.trunk.last().method(), call.why),
                             ("BYE", "the caller on hold no longer answers"))

    def test_a_call_taken_from_hold_has_the_whole_time_to_send_rtp(self):
        call = self.trunk.call(body=offer("sendonly"))
        self.trunk.advance(290)
        self.trunk.say("INVITE", 2, to_tag=call.local_tag, body=OFFER)
        self.trunk.say("ACK", 2, to_tag=call.local_tag)
        self.assertEqual(self.trunk.advance(280), [])
        self.assertEqual(self.trunk.advance(40)[0][1].method(), "BYE")

    def test_a_call_without_ack_ends_for_that_however_short_the_silence_limit(self):
        trunk = Trunk(RTP_TIMEOUT="3")
        trunk.say("INVITE", body=OFFER)
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.assertEqual(trunk.advance(33)[-1][1].method(), "BYE")
        self.assertIn("ended after 32.0 s: no ACK", logged.output[0])

    def test_a_late_ack_leaves_the_whole_time_to_send_rtp(self):
        trunk = Trunk(RTP_TIMEOUT="10")
        trunk.say("INVITE", body=OFFER)
        trunk.advance(20)
        call, = trunk.server.calls
        trunk.say("ACK", to_tag=call.local_tag)
        self.assertEqual(trunk.advance(9), [])
        self.assertEqual(trunk.advance(6)[0][1].method(), "BYE")

    def test_the_silence_limit_can_be_set_and_switched_off(self):
        trunk = Trunk(RTP_TIMEOUT="20")
        trunk.call()
        self.assertEqual([at for at, _ in trunk.advance(20.2)], [20])
        trunk = Trunk(RTP_TIMEOUT="0")
        trunk.call()
        self.assertEqual(trunk.advance(100000), [])


class Cancelled(unittest.TestCase):
    """The echo answers at once, so a call that still rings is made here by not answering."""

    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server

    def ring(self):
        self.server.calls.answer = lambda call, body: None
        self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKring")
        return next(iter(self.server.calls))

    def test_a_cancel_ends_an_invite_that_still_waits(self):
        call = self.ring()
        ok, gone = self.trunk.say("CANCEL", branch="z9hG4bKring")
        self.assertEqual([(ok.status, ok.method()), (gone.status, gone.method())],
                         [(200, "CANCEL"), (487, "INVITE")])
        self.assertEqual({ok.to_tag, gone.to_tag}, {call.local_tag})
        self.assertEqual((len(self.server.calls), call.media.stopped), (0, 1))
        self.assertEqual([m.status for _, m in self.trunk.advance(1)], [487])  # until the ACK
        self.trunk.say("ACK", branch="z9hG4bKring", to_tag=call.local_tag)
        self.assertEqual(self.trunk.advance(100), [])

    def test_a_cancel_after_the_200_is_answered_and_has_no_effect(self):
        self.trunk.say("INVITE", body=OFFER, branch="z9hG4bKx")
        self.assertEqual(statuses(self.trunk.say("CANCEL", branch="z9hG4bKx")), [200])
        self.assertEqual([call.state for call in self.server.calls], ["answered"])

    def test_a_cancel_for_nothing_is_481(self):
        self.assertEqual(statuses(self.trunk.say("CANCEL")), [481])

    def test_a_cancel_of_another_method_is_200_and_has_no_effect(self):
        self.trunk.say("OPTIONS", branch="z9hG4bKo")
        self.assertEqual(statuses(self.trunk.say("CANCEL", branch="z9hG4bKo",
                                                 headers=["Require: x"])), [200])

    def test_a_bye_in_the_early_dialog_ends_the_invite_with_487(self):
        call = self.ring()
        answers = self.trunk.say("BYE", 2, to_tag=call.local_tag)
        self.assertEqual([(m.status, m.method()) for m in answers],
                         [(487, "INVITE"), (200, "BYE")])
        self.assertEqual(len(self.server.calls), 0)

    def test_a_new_offer_while_the_first_waits_is_500_with_retry_after(self):
        call = self.ring()
        for method in ("INVITE", "UPDATE"):
            refused = self.trunk.say(method, 2, body=OFFER, to_tag=call.local_tag)[-1]
            self.assertEqual(refused.status, 500)
            self.assertIn(int(refused.header("Retry-After")), range(11))


class Limits(unittest.TestCase):
    def test_past_max_calls_an_invite_and_an_options_get_486(self):
        trunk = Trunk(MAX_CALLS="1")
        call = trunk.call(call_id="one")
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.assertEqual(statuses(trunk.say("INVITE", body=OFFER, call_id="two")), [486])
        self.assertIn("1 of 1 calls in use (MAX_CALLS or RTP ports)", logged.output[0])
        self.assertEqual(statuses(trunk.say("OPTIONS", call_id="three")), [486])
        trunk.say("BYE", 2, to_tag=call.local_tag, call_id="one")
        self.assertEqual(statuses(trunk.say("INVITE", 2, body=OFFER, call_id="two")), [200])

    def test_a_call_that_only_waits_for_the_answer_to_its_bye_takes_no_place(self):
        trunk = Trunk(MAX_CALLS="1")
        trunk.call(call_id="one").on("hang up", why="test")
        self.assertEqual(statuses(trunk.say("INVITE", body=OFFER, call_id="two")), [200])

    def test_no_socket_for_the_call_is_486(self):
        for what in ("open_media", "address_towards"):
            trunk = Trunk()
            owner = trunk.server if hasattr(trunk.server, what) else trunk.server.calls

            def fail(peer_ip):
                raise OSError(24, "Too many open files")

            setattr(owner, what, fail)
            with self.assertLogs("siprtp.calls", "WARNING"):
                self.assertEqual(statuses(trunk.say("INVITE", body=OFFER)), [486], what)

    def test_a_refused_call_leaves_nothing_behind(self):
        trunk = Trunk()
        refused = trunk.say("INVITE", body=offer(formats="18"))[-1]
        self.assertEqual(refused.status, 488)
        self.assertRegex(refused.header("Warning"), r'^305 192\.0\.2\.1:5060 "[^"]*PCMA[^"]*"$')
        self.assertEqual((len(trunk.server.calls), trunk.server.media_made[0].stopped), (0, 1))

    def test_no_thread_for_the_call_is_486_and_leaves_nothing_behind(self):
        for error in (RuntimeError("can't start"), OSError(errno.EMFILE, "too many files")):
            trunk = Trunk()

            def without_thread(peer_ip, make=trunk.server.calls.open_media, error=error):
                media = make(peer_ip)
                media.start = mock.Mock(side_effect=error)
                return media

            trunk.server.calls.open_media = without_thread
            with self.assertLogs("siprtp.calls", "WARNING"):
                self.assertEqual(statuses(trunk.say("INVITE", body=OFFER)), [486])
            self.assertEqual((len(trunk.server.calls), trunk.server.media_made[0].stopped), (0, 1))

    def test_the_first_calls_have_a_thread_each_and_very_many_share_one(self):
        trunk = Trunk(RTP_THREADS="2")
        with mock.patch("siprtp.calls.MANY_CALLS", 4):
            served = []
            for number in range(4):
                served.append(trunk.call(call_id=str(number)).media.thread)
                served[-1]._due.append(number)  # as if it served the call
                served[-1].hand_over = mock.Mock()
            one, other, shared = served[:3]
            self.assertEqual((len(set(served)), served[3]), (3, shared))
            self.assertIs(trunk.call(call_id="5").media.thread, shared)
            for thread in (one, other):
                thread.hand_over.assert_called_once_with(shared)
            shared.hand_over.assert_not_called()

    def test_audio_wanted_at_our_own_sockets_is_488(self):
        trunk = Trunk(BIND_IP="127.0.0.1")
        trunk.call(call_id="first")
        for port in (5060, 20000, 20006):  # SIP, another call's, and the one this call gets
            refused = trunk.say("INVITE", body=offer(ip="127.0.0.1", port=port),
                                call_id=f"to-{port}")[-1]
            self.assertEqual((refused.status, refused.header("Warning")[:3]), (488, "399"), port)
        call = trunk.call(body=offer(ip="127.0.0.1", port=22002), call_id="other")
        self.assertEqual(call.media.flow.remote, ("127.0.0.1", 22002))

    def test_another_address_than_the_one_we_are_bound_to_has_sockets_of_its_own(self):
        for bind, advertised, ours, theirs in (
                ("127.0.0.1", "", "127.0.0.1", "127.0.0.24"),
                ("192.0.2.1", "198.51.100.1", "198.51.100.1", "127.0.0.1"),
                ("0.0.0.0", "192.0.2.1", "127.0.0.24", "192.0.2.24")):
            trunk = Trunk(BIND_IP=bind, ADVERTISED_IP=advertised)
            refused = trunk.say("INVITE", body=offer(ip=ours, port=5060), call_id="ours")[-1]
            self.assertEqual(refused.status, 488, bind)
            call = trunk.call(body=offer(ip=theirs, port=5060))
            self.assertEqual(call.media.flow.remote, (theirs, 5060))


class Stopped(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server

    def test_every_call_gets_bye_and_the_loop_ends_with_the_answers(self):
        call = self.trunk.call()
        self.server.stop()
        self.assertEqual((self.trunk.last().method(), self.server.running), ("BYE", True))
        self.trunk.say("BYE", 2, to_tag=call.local_tag)
        self.assertFalse(self.server.running)

    def test_the_loop_ends_without_the_answers_after_two_seconds(self):
        self.trunk.call()
        self.server.stop()
        self.trunk.advance(1.9)
        self.assertTrue(self.server.running)
        self.trunk.advance(0.2)
        self.assertFalse(self.server.running)

    def test_what_is_left_then_gets_its_bye_and_its_line_in_the_log(self):
        self.trunk.call(call_id="up")
        self.trunk.say("INVITE", body=OFFER, call_id="not yet acked")
        self.server.stop()
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            sent = self.trunk.advance(2.1)
        byes = [m for _, m in sent if m.method() == "BYE" and m.header("Call-ID") != "up"]
        self.assertEqual((len(byes), len(self.server.calls)), (1, 0))
        self.assertIn("ended", logged.output[-1])

    def test_without_calls_it_ends_at_once(self):
        self.server.stop()
        self.assertFalse(self.server.running)

    def test_new_calls_and_keepalives_get_503_meanwhile(self):
        self.trunk.call()
        self.server.stop()
        for method, body in (("INVITE", OFFER), ("OPTIONS", b"")):
            refused = self.trunk.say(method, body=body, call_id=f"new-{method}")[-1]
            self.assertEqual((refused.status, refused.header("Retry-After")), (503, "10"))


if __name__ == "__main__":
    unittest.main()
