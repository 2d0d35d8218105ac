"""A call that a bot serves, as the trunk sees it. What the bot asks for is asked in its place."""

import unittest

from tests.support import OFFER, Trunk, statuses

RELIABLE = ["Require: 100rel"]


class BotCase(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk(bot=lambda call: None)
        self.server, self.calls = self.trunk.server, self.trunk.server.calls
        self.started, self.paced, self.told = [], [], []
        self.calls.start_bot = self.started.append
        self.calls._pacer.add = self.paced.append

    def invite(self, **parts):
        """Deliver an INVITE; return the call, which its bot has not answered."""
        parts.setdefault("body", OFFER)
        self.assertEqual(statuses(self.trunk.say("INVITE", branch="z9hG4bKi", **parts)), [100])
        self.call = self.started[-1]
        self.call.bot.on_transfer = lambda *news: self.told.append(news)
        return self.call

    def do(self, name, *args):
        """Do what a bot asks for; return what was sent."""
        seen = len(self.server.sent)
        getattr(self.calls, f"bot_{name}")(self.call, *args)
        return self.trunk.answers(seen)

    def answered(self):
        """Return a call that is answered and confirmed."""
        self.invite()
        self.do("accept")
        self.trunk.say("ACK", to_tag=self.call.local_tag)
        return self.call

    def say(self, method, cseq, **parts):
        return self.trunk.say(method, cseq, to_tag=self.call.local_tag, **parts)


class BeforeTheAnswer(BotCase):
    def test_the_bot_is_told_who_calls_and_only_100_is_sent(self):
        call = self.invite(headers=["X-Queue: sales", "P-Asserted-Identity: Bob <sip:5@x>"])
        self.assertEqual((call.bot.caller, call.bot.called, call.bot.name), ("5", "1000", "Bob"))
        self.assertEqual(call.bot.headers["x-queue"], "sales")
        self.assertIsNone(call.bot.headers.get("Subject"))
        self.assertEqual(call.bot.headers["f"], call.remote)
        self.assertEqual((call.state, call.media.started, self.paced), ("proceeding", 0, []))

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
        self.assertFalse(call.bot._answered)
        self.trunk.say("ACK", to_tag=call.local_tag)
        self.assertTrue(call.bot._answered)

    def test_a_delayed_offer_is_answered_once_the_ack_has_told_where_to_send(self):
        call = self.invite(body=b"")
        ok, = self.do("accept")
        self.assertIn(b"a=sendrecv", ok.body)
        self.trunk.say("ACK", to_tag=call.local_tag, body=OFFER)
        self.assertEqual(call.media.flow.remote, ("192.0.2.10", 4000))
        self.assertTrue(call.bot._answered)

    def test_a_refusal_has_the_bots_status_and_leaves_nothing(self):
        call = self.invite()
        refused, = self.do("refuse", 603)
        self.assertEqual((refused.status, refused.to_tag), (603, call.local_tag))
        self.assertEqual((len(self.calls), call.media.stopped, call.bot.ended), (0, 1, True))
        self.assertEqual(self.do("refuse", 603), [])
        self.assertEqual(self.do("accept"), [])

    def test_a_bot_that_returns_or_raises_before_is_480_or_500(self):
        for status in (480, 500):
            self.setUp()
            self.invite()
            self.assertEqual(statuses(self.do("finish", status, "why")), [status])
            self.assertEqual(len(self.calls), 0)

    def test_a_cancel_ends_it_with_487_and_its_bot_hears_of_it(self):
        call = self.invite()
        self.do("ring")
        self.assertEqual(statuses(self.trunk.say("CANCEL", branch="z9hG4bKi")), [200, 487])
        self.assertEqual((call.bot.ended, len(self.calls), call.media.stopped), (True, 0, 1))
        for late in ("ring", "accept"):
            self.assertEqual(self.do(late), [])
        self.assertEqual(self.do("refuse", 486) + self.do("finish", 480, "why"), [])

    def test_an_invite_that_expires_is_487(self):
        self.invite(headers=["Expires: 20"])
        self.assertEqual(self.trunk.advance(19.9), [])
        self.assertEqual([m.status for _, m in self.trunk.advance(0.2)], [487])
        self.assertTrue(self.call.bot.ended)

    def test_one_that_names_no_time_waits_three_minutes_for_its_bot(self):
        for header in ([], ["Expires: soon"]):
            self.setUp()
            self.invite(headers=header)
            self.assertEqual(self.trunk.advance(179.9), [])
            self.assertEqual(self.trunk.advance(0.2)[0][1].status, 487)

    def test_an_answer_in_time_is_not_expired(self):
        self.answered()
        self.assertEqual(self.trunk.advance(181), [])

    def test_no_thread_for_the_bot_or_its_audio_is_486(self):
        def fail(*args):
            raise RuntimeError("can't start new thread")

        self.calls.start_bot = fail
        with self.assertLogs("calls", "WARNING"):
            answers = self.trunk.say("INVITE", body=OFFER, call_id="other")
        self.assertEqual((statuses(answers), len(self.calls)), ([100, 486], 0))
        self.calls.start_bot = self.started.append
        self.calls._pacer.add = fail
        self.invite()
        with self.assertLogs("calls", "WARNING"):
            self.assertEqual(statuses(self.do("accept")), [486])
        self.assertEqual((len(self.calls), self.call.media.stopped), (0, 1))

    def test_a_stop_refuses_what_rings_with_503(self):
        self.invite()
        seen = len(self.server.sent)
        self.server.stop()
        self.assertEqual(statuses(self.trunk.answers(seen)), [503])
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
        self.assertEqual((len(self.calls), self.call.bot.ended), (0, True))

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

    def test_a_caller_that_merely_supports_it_gets_a_plain_180(self):
        self.invite(headers=["Supported: 100rel"])
        ringing, = self.do("ring")
        self.assertIsNone(ringing.header("RSeq"))


class Answered(BotCase):
    def test_a_bot_that_is_done_hangs_up(self):
        self.answered()
        bye, = self.do("finish", 480, "why")
        self.assertEqual((bye.method(), bye.header("Reason")), ("BYE", "Q.850;cause=16"))
        self.assertTrue(self.call.bot.ended)

    def test_a_bye_ends_it(self):
        self.answered()
        self.assertEqual(statuses(self.say("BYE", 2)), [200])
        self.assertEqual((self.call.bot.ended, self.do("finish", 480, "why")), (True, []))

    def test_a_key_reaches_the_bot_once_however_often_it_is_told(self):
        call = self.answered()
        call.media.on_key("5")
        self.say("INFO", 2, body=b"Signal=5\r\nDuration=160\r\n",
                 headers=["Content-Type: application/dtmf-relay"])
        self.say("NOTIFY", 3, body=b"\x07\0\7\xd0", headers=["Event: telephone-event"])
        self.server.run_due()
        self.assertEqual(sorted(call.bot._audio.keys), ["5", "7"])

    def test_the_echo_without_bot_takes_keys_all_the_same(self):
        trunk = Trunk()
        call = trunk.call()
        trunk.server.calls.on_key(call, "5", "RTP")


class Transfer(BotCase):
    """RFC 3515."""

    def refer(self):
        self.answered()
        refer, = self.do("transfer", "sip:desk@10.1.1.1")
        self.assertEqual((refer.method(), refer.header("Refer-To"), refer.header("Referred-By")),
                         ("REFER", "<sip:desk@10.1.1.1>", self.call.contact))
        return refer

    def reply(self, request, status):
        copied = "".join(f"{name}: {request.header(name)}\r\n"
                         for name in ("Via", "From", "To", "Call-ID", "CSeq"))
        self.trunk.send(f"SIP/2.0 {status}\r\n{copied}\r\n".encode())

    def notify(self, cseq, line, state="active"):
        return statuses(self.say("NOTIFY", cseq, body=f"SIP/2.0 {line}\r\n".encode(), headers=[
            "Event: refer", f"Subscription-State: {state}",
            "Content-Type: message/sipfrag;version=2.0"]))

    def test_the_news_are_followed_to_the_end(self):
        self.reply(self.refer(), "202 Accepted")
        self.assertEqual(self.notify(2, "100 Trying"), [200])
        self.assertEqual(self.notify(3, "180 Ringing", "active;expires=60"), [200])
        self.assertEqual(self.notify(4, "200 OK", "terminated;reason=noresource"), [200])
        self.assertEqual(self.told, [(100, "Accepted"), (100, "Trying"), (180, "Ringing"),
                                     (200, "OK")])

    def test_a_target_that_fails_is_told_and_the_call_goes_on(self):
        self.reply(self.refer(), "202 Accepted")
        self.notify(2, "486 Busy Here", "terminated")
        self.assertEqual((self.told[-1], self.call.state), ((486, "Busy Here"), "confirmed"))

    def test_a_refusal_is_told(self):
        self.reply(self.refer(), "603 Decline")
        self.assertEqual(self.told, [(603, "Decline")])
        self.assertEqual(self.notify(2, "100 Trying"), [481])

    def test_no_answer_is_408(self):
        self.refer()
        self.trunk.advance(33)
        self.assertEqual(self.told, [(408, "")])

    def test_news_that_end_without_a_verdict_mean_it_was_accepted(self):
        self.reply(self.refer(), "202 Accepted")
        self.notify(2, "100 Trying", "terminated;reason=noresource")
        self.assertEqual(self.told[-1], (200, ""))

    def test_a_notify_without_a_transfer_of_ours_is_481(self):
        self.answered()
        self.assertEqual(self.notify(2, "200 OK"), [481])


if __name__ == "__main__":
    unittest.main()
