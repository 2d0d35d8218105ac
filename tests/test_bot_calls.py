"""A call that a bot serves, as the trunk sees it. The tests ask for actions in the bot's place."""

import gc
import unittest
import weakref

from siprtp.bots import actions
from tests.support import OFFER, Trunk, statuses

RELIABLE = ["Require: 100rel"]


class BotCase(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk(bot=lambda call: None)
        self.server, self.calls = self.trunk.server, self.trunk.server.calls
        self.started, self.paced, self.told = [], [], []
        self.calls.start_bot = self.started.append
        self.calls._bot_thread.tick = self.paced.append

    def invite(self, **parts):
        """Deliver an INVITE; return the call, which its bot has not answered after 200 ms."""
        parts.setdefault("body", OFFER)
        self.assertEqual(self.trunk.say("INVITE", branch="z9hG4bKi", **parts), [])
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(0.2)], [(0.2, 100)])
        self.call = self.started[-1]
        return self.call

    def do(self, name, *args):
        """Do what a bot asks for; return what was sent."""
        seen = len(self.server.sent)
        {"ring": actions.ring, "reject": actions.reject, "hang_up": actions.hang_up,
         "transfer": actions.transfer,
         "accept": lambda dialog: actions.accept(dialog, self.calls.answer),
         }[name](self.call, *args)
        return self.trunk.answers(seen)

    def answered(self):
        """Return a call that is answered and confirmed."""
        self.invite()
        self.do("accept")
        self.trunk.say("ACK", to_tag=self.call.local_tag)
        return self.call

    def say(self, method, cseq, **parts):
        return self.trunk.say(method, cseq, to_tag=self.call.local_tag, **parts)


class Memory(BotCase):
    def test_an_ended_call_is_freed_without_the_garbage_collector(self):
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        call = self.answered()
        dialog, bots_call = weakref.ref(call), weakref.ref(call.bot.call)
        call.bot.call.log.debug("a line")
        del call
        self.say("BYE", 2)
        self.call = None
        self.started.clear()
        self.paced.clear()
        self.server.sent.clear()
        self.server.media_made.clear()
        self.trunk.advance(400)  # all timers
        self.assertEqual((dialog(), bots_call()), (None, None))


class Statistics(BotCase):
    def test_a_call_has_its_statistics(self):
        call = self.answered()
        call.media.packets_out, call.media.round_trip = 50, 0.02
        for sequence in range(1, 41):
            call.media.received.count(7, sequence + 2 * (sequence > 20), 160 * sequence, 160, None)
        figures = call.bot.call.statistics
        self.assertEqual((figures.packets_in, figures.packets_out, figures.lost), (40, 50, 2))
        self.assertEqual((figures.jitter, figures.round_trip), (0.0, 20.0))


class BeforeTheAnswer(BotCase):
    def test_the_bot_is_told_who_calls_and_only_100_is_sent(self):
        call = self.invite(headers=["X-Queue: sales", "P-Asserted-Identity: Bob <sip:5@x>"])
        seen = call.bot.call
        self.assertEqual((seen.caller, seen.called, seen.name), ("5", "1000", "Bob"))
        self.assertEqual(seen.headers["x-queue"], "sales")
        self.assertIsNone(seen.headers.get("Subject"))
        self.assertEqual(seen.headers["f"], call.remote)
        self.assertEqual((call.state, call.media.started, self.paced), ("proceeding", 0, []))

    def test_a_bot_that_answers_or_rings_within_200_ms_saves_the_100(self):
        # RFC 3261 17.2.1
        for action in ("accept", "ring"):
            self.setUp()
            self.trunk.say("INVITE", body=OFFER)
            self.call = self.started[-1]
            self.do(action)
            self.assertEqual(statuses(m for _, m in self.trunk.advance(0.3)), [])

    def test_ringing_is_180_with_the_tag_of_the_answer_and_once(self):
        call = self.invite()
        ringing, = self.do("ring")
        self.assertEqual((ringing.status, ringing.to_tag, ringing.body),
                         (180, call.local_tag, b""))
        self.assertIn("1000@192.0.2.1", ringing.header("Contact"))
        self.assertIsNone(ringing.header("RSeq"))
        self.assertEqual(self.do("ring"), [])
        # a repeated INVITE gets it again
        self.assertEqual(statuses(self.trunk.say("INVITE", branch="z9hG4bKi", body=OFFER)), [180])
        ok, = self.do("accept")
        self.assertEqual((ok.status, ok.to_tag), (200, call.local_tag))

    def test_the_answer_carries_the_sdp_and_starts_the_audio(self):
        call = self.invite()
        ok, = self.do("accept")
        self.assertIn(b"m=audio 20000 RTP/AVP 8 101", ok.body)
        self.assertEqual(self.paced, [call.bot.tick])
        self.assertEqual(self.do("accept"), [])
        self.assertFalse(call.bot.call._answered)
        self.trunk.say("ACK", to_tag=call.local_tag)
        self.assertTrue(call.bot.call._answered)

    def test_a_delayed_offer_is_answered_once_its_ack_names_the_media_address(self):
        call = self.invite(body=b"")
        ok, = self.do("accept")
        self.assertIn(b"a=sendrecv", ok.body)
        self.trunk.say("ACK", to_tag=call.local_tag, body=OFFER)
        self.assertEqual(call.media.flow.remote, ("192.0.2.10", 4000))
        self.assertTrue(call.bot.call._answered)

    def test_a_refusal_has_the_bots_status_and_leaves_nothing(self):
        call = self.invite()
        refused, = self.do("reject", 603)
        self.assertEqual((refused.status, refused.to_tag), (603, call.local_tag))
        self.assertEqual((len(self.calls), call.media.stopped, call.bot.call.ended), (0, 1, True))
        self.assertEqual(self.do("reject", 603), [])
        self.assertEqual(self.do("accept"), [])

    def test_a_bot_that_returns_or_raises_before_is_480_or_500(self):
        for status in (480, 500):
            self.setUp()
            self.invite()
            self.assertEqual(statuses(self.do("hang_up", status, "why")), [status])
            self.assertEqual(len(self.calls), 0)

    def test_a_cancel_ends_it_with_487_and_its_bot_hears_of_it(self):
        call = self.invite()
        self.do("ring")
        self.assertEqual(statuses(self.trunk.say("CANCEL", branch="z9hG4bKi")), [200, 487])
        self.assertEqual((call.bot.call.ended, len(self.calls), call.media.stopped), (True, 0, 1))
        for late in ("ring", "accept"):
            self.assertEqual(self.do(late), [])
        self.assertEqual(self.do("reject", 486) + self.do("hang_up", 480, "why"), [])

    def test_an_invite_that_expires_is_487(self):
        self.invite(headers=["Expires: 20"])
        self.assertEqual(self.trunk.advance(19.7), [])
        self.assertEqual([m.status for _, m in self.trunk.advance(0.2)], [487])
        self.assertTrue(self.call.bot.call.ended)

    def test_one_that_names_no_time_waits_three_minutes_for_its_bot(self):
        for header in ([], ["Expires: soon"], ["Expires: 300"]):
            self.setUp()
            self.invite(headers=header)
            self.assertEqual(self.trunk.advance(179.7), [])
            self.assertEqual(self.trunk.advance(0.2)[0][1].status, 480)

    def test_ringing_is_repeated_each_minute(self):
        self.invite()
        self.do("ring")
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(130)],
                         [(60, 180), (120, 180)])
        self.do("accept")
        self.trunk.say("ACK", to_tag=self.call.local_tag)
        self.assertEqual(self.trunk.advance(180), [])

    def test_an_update_before_the_answer_starts_no_session_timer(self):
        self.invite()
        ok = self.say("UPDATE", 2, headers=["Supported: timer", "Session-Expires: 90"])[0]
        self.assertEqual((ok.status, ok.header("Session-Expires")), (200, None))
        self.assertEqual(self.trunk.advance(179), [])

    def test_a_cancel_that_crosses_the_answer_leaves_no_socket(self):
        call = self.invite()
        self.trunk.say("CANCEL", branch="z9hG4bKi")
        self.do("accept")
        self.assertEqual((self.paced, call.media.stopped), ([], 1))

    def test_an_answer_in_time_is_not_expired(self):
        self.answered()
        self.assertEqual(self.trunk.advance(181), [])

    def test_no_thread_for_the_bot_or_its_audio_is_486(self):
        def fail(*args):
            raise RuntimeError("can't start new thread")

        self.calls.start_bot = fail
        with self.assertLogs("siprtp.calls", "WARNING"):
            answers = self.trunk.say("INVITE", body=OFFER, call_id="other")
        self.assertEqual((statuses(answers), len(self.calls)), ([486], 0))
        self.calls.start_bot = self.started.append
        self.calls._bot_thread.tick = fail
        self.invite()
        with self.assertLogs("siprtp.bots.actions", "WARNING"):
            self.assertEqual(statuses(self.do("accept")), [486])
        self.assertEqual((len(self.calls), self.call.media.stopped), (0, 1))

    def test_a_stop_refuses_what_rings_with_503(self):
        self.invite()
        seen = len(self.server.sent)
        self.server.stop()
        refused, = self.trunk.answers(seen)
        self.assertEqual((refused.status, refused.header("Retry-After")), (503, "10"))
        self.assertTrue(self.server.running)  # a lost one is sent again
        self.assertEqual([m.status for _, m in self.trunk.advance(2.1)], [503, 503])
        self.assertFalse(self.server.running)


class Reliable(BotCase):
    """RFC 3262, for callers that insist on it."""

    def ring(self):
        self.invite(headers=RELIABLE)
        ringing, = self.do("ring")
        self.assertEqual(ringing.header("Require"), "100rel")
        return ringing.header("RSeq")

    def prack(self, rack, cseq=2):
        return statuses(self.say("PRACK", cseq, headers=[f"RAck: {rack}"]))

    def test_a_180_is_repeated_until_its_prack(self):
        rseq = self.ring()
        self.assertEqual([(at, m.status) for at, m in self.trunk.advance(4)],
                         [(0.5, 180), (1.5, 180), (3.5, 180)])
        self.assertEqual(self.prack(f"{rseq} 1 INVITE"), [200])
        self.assertEqual(self.trunk.advance(60), [])

    def test_without_prack_the_invite_is_refused_after_32_seconds(self):
        self.ring()
        sent = [(at, m.status) for at, m in self.trunk.advance(32.1)]
        self.assertEqual(sent[-2:], [(31.5, 180), (32.0, 504)])
        self.assertEqual((len(self.calls), self.call.bot.call.ended), (0, True))

    def test_a_prack_for_another_180_is_481(self):
        rseq = self.ring()
        self.assertEqual(self.prack(f"{int(rseq) + 1} 1 INVITE"), [481])
        self.assertEqual(self.prack(f"{rseq} 7 INVITE", 3), [481])
        self.assertEqual(self.prack("nonsense", 4), [481])
        self.assertEqual(self.prack(f"{rseq} 1 INVITE", 5), [200])
        self.assertEqual(self.prack(f"{rseq} 1 INVITE", 6), [481])

    def test_an_answer_ends_the_repeats(self):
        self.ring()
        self.do("accept")
        self.trunk.say("ACK", to_tag=self.call.local_tag)
        self.assertEqual(self.trunk.advance(60), [])

    def test_without_an_offer_there_is_none_as_it_would_have_to_carry_one(self):
        self.invite(headers=RELIABLE, body=b"")
        self.assertEqual(self.do("ring"), [])
        self.assertEqual(statuses(self.do("accept")), [200])

    def test_a_caller_that_merely_supports_it_gets_a_plain_180(self):
        self.invite(headers=["Supported: 100rel"])
        ringing, = self.do("ring")
        self.assertIsNone(ringing.header("RSeq"))


class Answered(BotCase):
    def test_a_bot_that_is_done_hangs_up(self):
        self.answered()
        bye, = self.do("hang_up", 480, "why")
        self.assertEqual((bye.method(), bye.header("Reason")), ("BYE", "Q.850;cause=16"))
        self.assertTrue(self.call.bot.call.ended)

    def test_one_that_failed_says_so_to_the_trunk(self):
        self.answered()
        self.assertEqual(self.do("hang_up", 500, "why")[0].header("Reason"), "Q.850;cause=41")

    def test_an_answer_that_cannot_be_read_ends_the_call(self):
        call = self.invite(body=b"")
        self.do("accept")
        with self.assertLogs("siprtp.calls", "WARNING"):
            bye = self.trunk.say("ACK", to_tag=call.local_tag,
                                 body=OFFER.replace(b" 8 0 ", b" 08 "))
        self.assertEqual((bye[0].header("Reason"), call.bot.call.ended), ("Q.850;cause=47", True))

    def test_a_bye_ends_it(self):
        self.answered()
        self.assertEqual(statuses(self.say("BYE", 2)), [200])
        self.assertEqual((self.call.bot.call.ended, self.do("hang_up", 480, "why")), (True, []))

    def test_a_key_reaches_the_bot_once_however_often_it_is_reported(self):
        call = self.answered()
        call.media.on_key("5")
        self.say("INFO", 2, body=b"Signal=5\r\nDuration=160\r\n",
                 headers=["Content-Type: application/dtmf-relay"])
        self.say("NOTIFY", 3, body=b"\x07\0\7\xd0", headers=["Event: telephone-event"])
        self.server.run_due()
        self.assertEqual([call.bot.call.digits(1) for _ in "12"], ["5", "7"])

    def test_the_echo_without_bot_takes_keys_all_the_same(self):
        trunk = Trunk()
        call = trunk.call()
        trunk.server.calls.on_key(call, "5", "RTP")


class Transfer(BotCase):
    """RFC 3515."""

    def refer(self, tell=None):
        refer, = self.do("transfer", "sip:desk@10.1.1.1",
                         tell or (lambda *news: self.told.append(news)))
        self.assertEqual((refer.method(), refer.header("Refer-To"), refer.header("Referred-By")),
                         ("REFER", "<sip:desk@10.1.1.1>", self.call.contact))
        return refer

    def setUp(self):
        super().setUp()
        self.answered()
        self.cseq = 1

    def reply(self, request, status, headers=""):
        copied = "".join(f"{name}: {request.header(name)}\r\n"
                         for name in ("Via", "From", "To", "Call-ID", "CSeq"))
        return self.trunk.send(f"SIP/2.0 {status}\r\n{copied}{headers}\r\n".encode())

    def notify(self, line, state="active", event="refer"):
        self.cseq += 1
        return statuses(self.say(
            "NOTIFY", self.cseq, body=f"SIP/2.0 {line}\r\n".encode() if line else b"", headers=[
                f"Event: {event}", f"Subscription-State: {state}",
                "Content-Type: message/sipfrag;version=2.0"]))

    def test_the_news_are_followed_to_the_end(self):
        self.reply(self.refer(), "202 Accepted")
        self.assertEqual(self.notify("100 Trying"), [200])
        self.assertEqual(self.notify("180 Ringing", "active;expires=60"), [200])
        self.assertEqual(self.notify("200 OK", "terminated;reason=noresource"), [200])
        self.assertEqual(self.notify("200 OK"), [481])
        self.assertEqual(self.told, [(100, "Accepted"), (100, "Trying"), (180, "Ringing"),
                                     (200, "OK")])

    def test_a_target_that_fails_is_told_and_the_call_goes_on(self):
        self.reply(self.refer(), "202 Accepted")
        self.notify("486 Busy Here", "terminated")
        self.assertEqual((self.told[-1], self.call.state), ((486, "Busy Here"), "confirmed"))

    def test_the_reason_of_a_failed_transfer_is_logged_escaped(self):
        refer = self.refer()
        with self.assertLogs("siprtp.bots.actions", "INFO") as logged:
            self.reply(refer, "603 \x1b[2J\x7f\rINFO calls: all is well")
        self.assertIn("603 '\\x1b[2J\\x7f\\rINFO", logged.records[0].getMessage())

    def test_a_verdict_that_overtakes_the_202_stands(self):
        refer = self.refer()
        self.notify("200 OK", "terminated;reason=noresource")
        self.reply(refer, "202 Accepted")
        self.assertEqual(self.told, [(200, "OK")])

    def test_a_refusal_is_told(self):
        self.reply(self.refer(), "603 Decline")
        self.assertEqual(self.told, [(603, "Decline")])
        self.assertEqual(self.notify("100 Trying"), [481])

    def test_no_answer_is_408(self):
        self.refer()
        self.trunk.advance(33)
        self.assertEqual(self.told, [(408, "")])

    def test_a_481_means_that_the_call_is_over(self):
        bye = self.reply(self.refer(), "481 Call/Transaction Does Not Exist")
        self.assertEqual((self.told, bye[0].method()),
                         ([(481, "Call/Transaction Does Not Exist")], "BYE"))

    def test_news_that_end_without_a_verdict_mean_what_their_reason_says(self):
        for line, state, status in (
                ("100 Trying", "terminated;reason=noresource", 200),
                ("180 Ringing", "terminated", 200), ("", "terminated;reason=noresource", 408),
                ("180 Ringing", "terminated;reason=timeout", 408),
                ("", "terminated;reason=rejected", 603), ("", "Terminated ; reason=giveup", 408)):
            with self.subTest(line=line, state=state):
                self.reply(self.refer(), "202 Accepted")
                self.assertEqual(self.notify(line, state), [200])
                self.assertEqual(self.told[-1][0], status)

    def test_each_refer_has_its_own_news(self):
        first, told = self.refer(), []
        second = self.refer(lambda *news: told.append(news))
        one, two = (refer.cseq[0] for refer in (first, second))
        self.assertEqual(self.notify("200 OK", event=f"refer;id={one}"), [481])
        self.reply(first, "603 Decline")
        self.reply(second, "202 Accepted")
        self.assertEqual(self.notify("180 Ringing", event=f"refer;id={two}"), [200])
        self.assertEqual((self.told, told),
                         ([(603, "Decline")], [(100, "Accepted"), (180, "Ringing")]))

    def test_a_notify_without_a_transfer_of_ours_is_481(self):
        self.assertEqual(self.notify("200 OK"), [481])


if __name__ == "__main__":
    unittest.main()
