"""Requests inside a call: hold, resume, moved media, refreshes, glare, INFO, NOTIFY."""

import unittest

from tests.support import OFFER, Trunk, offer, statuses


class InCall(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.call = self.trunk.call()
        self.cseq = 1

    def say(self, method, **parts):
        self.cseq += 1
        return self.trunk.say(method, self.cseq, to_tag=self.call.local_tag, **parts)[-1]

    def reinvite(self, body=b"", ack_body=b"", **parts):
        ok = self.say("INVITE", body=body, **parts)
        self.trunk.say("ACK", self.cseq, to_tag=self.call.local_tag, body=ack_body)
        return ok

    def flow(self):
        return self.call.media.flow

    def version(self, message):
        return int(message.body.split(b"\r\n")[1].split()[2])


class ReInvite(InCall):
    def test_a_hold_is_mirrored_and_silences_us(self):
        for theirs, ours in (("sendonly", b"recvonly"), ("inactive", b"inactive")):
            ok = self.reinvite(offer(theirs))
            self.assertEqual(ok.status, 200)
            self.assertIn(b"a=" + ours, ok.body)
            self.assertFalse(self.flow().sending)

    def test_a_hold_by_an_address_of_zeros_keeps_our_real_one(self):
        ok = self.reinvite(offer(ip="0.0.0.0"))
        self.assertIn(b"c=IN IP4 192.0.2.1\r\n", ok.body)
        self.assertIn(b"m=audio 20000 ", ok.body)
        self.assertEqual((self.flow().remote, self.flow().sending), (None, False))

    def test_a_resume_sends_to_the_new_address_and_port(self):
        self.reinvite(offer("inactive"))
        self.reinvite(offer(ip="192.0.2.77", port=4444))
        self.assertEqual((self.flow().remote, self.flow().sending), (("192.0.2.77", 4444), True))

    def test_music_on_hold_in_three_steps_as_a_call_manager_does_it(self):
        held = self.reinvite(offer("inactive"))
        music = self.reinvite(ack_body=offer("sendonly", port=4000))
        self.assertIn(b"a=sendrecv\r\n", music.body)  # never the held direction
        self.assertEqual((self.flow().sending, self.flow().receiving), (False, True))
        self.reinvite(offer("inactive"))
        back = self.reinvite(ack_body=offer(ip="192.0.2.30", port=6000))
        self.assertEqual((self.flow().remote, self.flow().sending), (("192.0.2.30", 6000), True))
        self.assertLess(self.version(held), self.version(music))
        self.assertLess(self.version(music), self.version(back))

    def test_audio_switched_off_is_taken_and_the_stream_stops(self):
        # RFC 3264 8.2: port 0 ends a stream, not the call
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            off = self.reinvite(offer(port=0))
        self.assertEqual(off.status, 200)
        self.assertIn(b"m=audio 0 RTP/AVP 8\r\n", off.body)
        self.assertNotIn(b"m=audio 20000", off.body)
        self.assertEqual((self.flow().remote, self.flow().sending, self.flow().receiving),
                         (None, False, False))
        self.assertEqual(self.reinvite(offer(port=0)).body, off.body)
        again = self.reinvite(OFFER)
        self.assertIn(b"m=audio 20000 RTP/AVP 8 101\r\n", again.body)
        self.assertEqual((self.flow().remote, self.flow().sending), (("192.0.2.10", 4000), True))
        self.assertGreater(self.version(again), self.version(off))
        self.assertEqual(len([line for line in logged.output if "audio off" in line]), 1)

    def test_audio_that_is_off_is_offered_again_by_an_offerless_reinvite(self):
        self.reinvite(offer(port=0))
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            ok = self.reinvite(ack_body=OFFER)
            self.assertIn(b"m=audio 20000 RTP/AVP 8 0 101\r\n", ok.body)
            self.assertEqual(self.flow().remote, ("192.0.2.10", 4000))
        self.assertIn("now PCMA, remote media 192.0.2.10:4000", logged.output[-1])

    def test_audio_off_in_an_answer_does_not_end_the_call_at_once(self):
        self.reinvite(ack_body=offer(port=0))
        self.assertEqual((self.flow().formats, self.trunk.advance(100)), ({}, []))

    def test_audio_that_stays_off_ends_the_call_after_rtp_timeout(self):
        self.reinvite(offer(port=0))
        sent = self.trunk.advance(320)
        self.assertEqual([m.method() for _, m in sent[:1]], ["BYE"])
        self.assertEqual(self.call.why, "no RTP for 300 s")

    def test_a_change_to_fax_is_still_rejected_and_the_audio_goes_on(self):
        fax = offer(port=0, extra="m=image 5000 udptl t38\r\n")
        self.assertEqual(self.reinvite(fax).status, 488)
        self.assertTrue(self.flow().sending)

    def test_a_call_cannot_begin_with_its_audio_off(self):
        self.assertEqual(self.trunk.say("INVITE", call_id="2", body=offer(port=0))[-1].status, 488)

    def test_the_same_offer_again_gets_the_same_answer(self):
        self.assertEqual(self.reinvite(OFFER).body, self.reinvite(OFFER).body)

    def test_a_refused_one_leaves_the_old_session_running(self):
        before = self.flow()
        t38 = OFFER.replace(b"m=audio 4000 RTP/AVP 8 0 101", b"m=image 4000 udptl t38")
        for _ in range(2):
            refused = self.reinvite(t38)
            self.assertEqual(refused.status, 488)
            self.assertTrue(refused.header("Warning").startswith("304 "))
        self.assertIs(self.flow(), before)
        self.assertEqual((self.call.state, self.call.media.stopped), ("confirmed", 0))

    def test_a_malformed_offer_is_400_and_harms_nothing(self):
        self.assertEqual(self.reinvite(b"v=0\r\nm=audio").status, 400)
        self.assertEqual(self.call.state, "confirmed")

    def test_its_200_is_resent_until_the_ack_and_then_ends_the_call(self):
        self.say("INVITE", body=OFFER)
        sent = self.trunk.advance(32)
        self.assertEqual([at for at, m in sent[:3]], [0.5, 1.5, 3.5])
        self.assertEqual(sent[-1][1].method(), "BYE")

    def test_an_offerless_one_acked_without_answer_keeps_the_old_media(self):
        before = self.flow()
        self.reinvite()
        self.assertEqual(self.trunk.advance(100), [])
        self.assertIs(self.flow(), before)

    def test_one_that_overtakes_the_ack_is_answered(self):
        trunk = Trunk()
        first = trunk.say("INVITE", body=OFFER)[-1]
        again = trunk.say("INVITE", 2, body=offer("sendonly"), to_tag=first.to_tag)[-1]
        self.assertEqual(again.status, 200)
        trunk.say("ACK", 1, to_tag=first.to_tag)
        self.assertEqual([m.header("CSeq") for _, m in trunk.advance(0.6)], ["2 INVITE"])
        trunk.say("ACK", 2, to_tag=first.to_tag)
        self.assertEqual(trunk.advance(100), [])

    def test_a_new_offer_while_ours_waits_for_its_answer_is_491(self):
        self.say("INVITE")
        self.assertEqual(self.say("INVITE", body=OFFER).status, 491)
        self.assertEqual(self.say("UPDATE", body=OFFER).status, 491)
        self.assertEqual(self.say("UPDATE").status, 200)

    def test_it_moves_the_remote_target_and_a_refused_one_does_not(self):
        self.reinvite(OFFER, contact="sip:new@192.0.2.20:5090")
        self.assertEqual(self.call.target, "sip:new@192.0.2.20:5090")
        self.reinvite(offer(formats="18"), contact="sip:no@192.0.2.21")
        self.assertEqual(self.call.target, "sip:new@192.0.2.20:5090")

    def test_an_unknown_to_tag_is_481(self):
        refused = self.trunk.say("INVITE", 9, body=OFFER, to_tag="nobody")
        self.assertEqual(statuses(refused), [481])


class Update(InCall):
    def test_with_sdp_it_moves_the_media_and_gets_an_answer(self):
        ok = self.say("UPDATE", body=offer("sendonly", port=4100))
        self.assertIn(b"a=recvonly\r\n", ok.body)
        self.assertEqual((ok.header("Content-Type"), self.flow().sending),
                         ("application/sdp", False))
        self.assertEqual(self.flow().remote, ("192.0.2.10", 4100))

    def test_without_sdp_it_gets_none_and_touches_no_media(self):
        before = self.flow()
        for body, headers in ((b"", []), (b"<x/>", ["Content-Type: application/pidf+xml"])):
            ok = self.say("UPDATE", body=body, headers=headers,
                          contact="sip:moved@192.0.2.20:5090")
            self.assertEqual((ok.status, ok.body, ok.header("Content-Type")), (200, b"", None))
        self.assertIs(self.flow(), before)
        self.assertEqual(self.call.target, "sip:moved@192.0.2.20:5090")

    def test_a_new_identity_is_whom_we_are_connected_with(self):
        with self.assertLogs("siprtp.sip.dialog", "INFO") as logged:
            self.say("UPDATE", headers=['P-Asserted-Identity: "Carol" <sip:5555@192.0.2.10>'])
            self.say("UPDATE", headers=['P-Asserted-Identity: "Carol" <sip:5555@192.0.2.10>'])
        self.assertEqual([record.getMessage() for record in logged.records],
                         ["call from '4711', Call-ID 'call-1@192.0.2.10': now connected to '5555'"])
        self.assertEqual((self.call.connected, self.call.identity.name), ("5555", "Carol"))

    def test_an_sdp_body_without_a_content_type_is_an_offer(self):
        self.cseq += 1
        update = self.trunk.request("UPDATE", self.cseq, to_tag=self.call.local_tag, body=OFFER)
        ok = self.trunk.send(update.replace(b"Content-Type: application/sdp\r\n", b""))[-1]
        self.assertIn(b"m=audio 20000 ", ok.body)

    def test_a_refused_one_is_488_and_one_outside_a_dialog_481(self):
        self.assertEqual(self.say("UPDATE", body=offer(formats="18")).status, 488)
        self.assertEqual(statuses(self.trunk.say("UPDATE", 9, to_tag="nobody")), [481])


class Others(InCall):
    def test_info_is_taken_in_a_call_only(self):
        ok = self.say("INFO", body=b"Signal= 1\r\nDuration= 160\r\n",
                      headers=["Content-Type: application/dtmf-relay"])
        self.assertEqual(ok.status, 200)
        self.assertEqual(statuses(self.trunk.say("INFO", to_tag="nobody")), [481])

    def test_keys_of_info_and_notify_are_logged_once_each(self):
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.say("INFO", body=b"Signal=5\r\nDuration=160\r\n",
                     headers=["Content-Type: application/dtmf-relay"])
            for flags in (b"\0", b"\x80"):
                self.say("NOTIFY", body=b"\7" + flags + b"\7\xd0", headers=[
                    "Event: telephone-event", "Content-Type: audio/telephone-event"])
        self.assertEqual([record.getMessage() for record in logged.records],
                         [f"call from '4711', Call-ID 'call-1@192.0.2.10': key {key}"
                          for key in ("5 (INFO)", "7 (NOTIFY)")])

    def test_an_info_of_an_unknown_type_gets_415(self):
        # a trunk that believes its keys to be taken does not try another way
        for kind in ("application/x-made-up", "application/sdp", "audio/x", "application/kpml+x"):
            refused = self.say("INFO", body=b"5", headers=[f"Content-Type: {kind}"])
            self.assertEqual(refused.status, 415, kind)
            self.assertIn("application/dtmf-relay, application/dtmf", refused.header("Accept"))
        no_type = self.trunk.request("INFO", self.cseq + 1, to_tag=self.call.local_tag, body=b"5")
        no_type = no_type.replace(b"Content-Type: application/sdp\r\n", b"")
        self.assertEqual(statuses(self.trunk.send(no_type)), [415])

    def test_an_info_whose_body_may_be_ignored_gets_200(self):
        for lines in (["Content-Type: application/media_control+xml"],
                      ["Content-Type: application/x-made-up",
                       "Content-Disposition: info;handling=optional"], []):
            self.cseq += 1
            body = b"<media_control/>" if lines else b""
            ok = self.trunk.say("INFO", self.cseq, body, lines, to_tag=self.call.local_tag)
            self.assertEqual(statuses(ok), [200], lines)

    def test_an_info_package_is_469(self):
        refused = self.say("INFO", headers=["Info-Package: foo"])
        self.assertEqual((refused.status, refused.header("Recv-Info")), (469, ""))

    def test_a_notify_with_a_key_press_is_taken_and_another_event_is_489(self):
        ok = self.say("NOTIFY", body=b"\7\0\7\xd0", headers=[
            "Event: telephone-event", "Content-Type: audio/telephone-event"])
        self.assertEqual(ok.status, 200)
        refused = self.say("NOTIFY", headers=["Event: kpml"])
        self.assertEqual((refused.status, refused.header("Allow-Events")),
                         (489, "telephone-event"))
        self.assertEqual(statuses(self.trunk.say("NOTIFY", headers=["Event: telephone-event"])),
                         [481])

    def test_options_in_a_call_leaves_it_alone_and_elsewhere_is_481(self):
        self.assertEqual(self.say("OPTIONS").status, 200)
        self.assertEqual(statuses(self.trunk.say("OPTIONS", 9, to_tag="nobody")), [481])
        self.assertEqual(self.call.state, "confirmed")

    def test_an_old_cseq_is_500_and_a_gap_is_fine(self):
        self.cseq = 50
        self.assertEqual(self.say("INFO").status, 200)
        refused = self.trunk.say("INFO", 50, to_tag=self.call.local_tag)
        self.assertEqual(statuses(refused), [500])
        self.assertEqual(self.say("INFO").status, 200)


if __name__ == "__main__":
    unittest.main()
