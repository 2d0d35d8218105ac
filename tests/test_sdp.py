"""Offer and answer: what is taken, what is refused, and what our side says."""

import unittest

from siprtp.formats import BY_NAME
from siprtp.sip import sdp
from siprtp.sip.sdp import (
    MAX_FORMATS,
    MAX_LINES,
    MAX_MEDIA,
    Negotiation,
    SDPError,
    host_names,
    parse,
    with_addresses,
)
from tests.support import offer

HEAD = "v=0\r\no=x 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n"
AUDIO = "m=audio 4000 RTP/AVP 8\r\n"


def lines(body):
    return body.decode().split("\r\n")


class Parsed(unittest.TestCase):
    def test_media_level_address_and_direction_win(self):
        _, media = parse(HEAD + "a=inactive\r\n" + AUDIO + AUDIO
                      + "c=IN IP4 10.0.0.2/127\r\na=sendonly\r\n")
        self.assertEqual([(m.remote("10.0.0.9"), m.direction) for m in media],
                         [(("10.0.0.1", 4000), "inactive"), (("10.0.0.2", 4000), "sendonly")])

    def test_line_feeds_unknown_lines_and_a_missing_last_line_end_are_fine(self):
        _, media = parse(b"v=0\no=CiscoSystemsCCM-SIP 1 1 IN IP4 1.1.1.1\nb=TIAS:64000\nb=AS:64\n"
                      b"a=X-nat:0\nm=audio 4000 RTP/AVP 8\nc=IN IP4 10.0.0.1\na=label:1\nzzz")
        self.assertEqual(media[0].remote("10.0.0.9"), ("10.0.0.1", 4000))

    def test_what_is_no_description_raises_sdp_error(self):
        for body in (b"", b"\xff\xfe", "v=0", HEAD, "m=audio", "m=audio x RTP/AVP 8",
                     "m=audio 70000 RTP/AVP 8", "m=audio \u00b2 RTP/AVP 8",
                     "m=audio 4000 RTP/AVP", "m=audio -1 RTP/AVP 8"):
            with self.subTest(body), self.assertRaises(SDPError):
                parse(body)

    def test_more_than_any_trunk_sends_raises_sdp_error_and_as_much_does_not(self):
        formats = "m=audio 4000 RTP/AVP" + " 8" * MAX_FORMATS
        for body, more in ((AUDIO * MAX_MEDIA, AUDIO), (formats, " 8"),
                           (AUDIO + "a=x\r\n" * (MAX_LINES - 2), "a=x\r\n")):
            parse(body)
            with self.subTest(more), self.assertRaisesRegex(SDPError, "too many"):
                parse(body + more)

    def test_a_reason_that_quotes_the_description_is_short(self):
        for media, reason in (("m=audio 4000 {} 8\r\n", "audio over 'x{188}"),
                              (AUDIO + "c=IN IP4 {}\r\n", "connection address: too long")):
            with self.assertRaises(SDPError) as caught:
                Negotiation("192.0.2.1", 20000).answer(HEAD + media.format("x" * 60000))
            self.assertRegex(str(caught.exception), f"^{reason}$")

    def test_nothing_is_ever_sent_to_an_address_that_is_no_host(self):
        for ip in ("0.0.0.0", "239.1.1.1", "255.255.255.255"):
            _, media = parse(HEAD.replace("c=IN IP4 10.0.0.1", f"c=IN IP4 {ip}") + AUDIO)
            self.assertIsNone(media[0].remote("10.0.0.9"), ip)


class Answers(unittest.TestCase):
    def answer(self, media, head=HEAD):
        body, self.agreement = Negotiation("192.0.2.1", 20000).answer(head + media)
        return lines(body)

    def warning(self, media, head=HEAD):
        with self.assertRaises(SDPError) as caught:
            Negotiation("192.0.2.1", 20000).answer(head + media)
        return caught.exception.warning

    def test_the_answer_is_a_whole_description_in_order(self):
        answer = self.answer(AUDIO)
        self.assertEqual([line[:2] for line in answer],
                         ["v=", "o=", "s=", "c=", "t=", "m=", "a=", "a=", "a=", ""])
        self.assertRegex(answer[1], r"^o=- \d+ 1 IN IP4 192\.0\.2\.1$")
        self.assertEqual(answer[3:], ["c=IN IP4 192.0.2.1", "t=0 0", "m=audio 20000 RTP/AVP 8",
                                      "a=rtpmap:8 PCMA/8000", "a=ptime:20", "a=sendrecv", ""])

    def test_one_codec_of_many_is_answered(self):
        self.assertIn("m=audio 20000 RTP/AVP 8",
                      self.answer("m=audio 4000 RTP/AVP 0 4 8 9 18 19\r\na=rtpmap:19 CN/8000\r\n"))

    def test_pcmu_is_taken_where_pcma_is_not_offered(self):
        answer = self.answer("m=audio 4000 RTP/AVP 18 0\r\n")
        self.assertIn("a=rtpmap:0 PCMU/8000", answer)
        self.assertEqual((self.agreement.codec, self.agreement.formats), ("PCMU", {0: 0}))

    def test_telephone_event_keeps_the_offerers_payload_type(self):
        for pt in (98, 100, 101, 127):
            answer = self.answer(f"m=audio 4000 RTP/AVP 8 {pt}\r\n"
                                 f"a=rtpmap:{pt} telephone-event/8000\r\na=fmtp:{pt} 0-16\r\n")
            self.assertIn(f"m=audio 20000 RTP/AVP 8 {pt}", answer)
            self.assertIn(f"a=rtpmap:{pt} telephone-event/8000", answer)
            self.assertIn(f"a=fmtp:{pt} 0-15", answer)
            self.assertEqual((self.agreement.formats, self.agreement.events), ({8: 8, pt: pt}, pt))

    def test_a_mapped_pcma_of_any_case_is_taken_with_its_type(self):
        answer = self.answer("m=audio 4000 RTP/AVP 0 97\r\na=rtpmap:97 pcma/8000/1\r\n")
        self.assertIn("m=audio 20000 RTP/AVP 97", answer)
        self.assertIn("a=rtpmap:97 PCMA/8000", answer)

    def test_the_codecs_that_are_set_are_taken_in_their_order(self):
        session = Negotiation("192.0.2.1", 20000, codecs=(BY_NAME["G722"], BY_NAME["PCMU"]))
        body, agreement = session.answer(HEAD + "m=audio 4000 RTP/AVP 8 0 9\r\n")
        self.assertIn("m=audio 20000 RTP/AVP 9", lines(body))
        self.assertIn("a=rtpmap:9 G722/8000", lines(body))
        self.assertEqual((agreement.codec, agreement.formats), ("G722", {9: 9}))
        self.assertIn("m=audio 20000 RTP/AVP 9 0 101", lines(session.offer()))
        with self.assertRaises(SDPError):
            session.answer(HEAD + AUDIO)

    def test_type_8_mapped_to_something_else_is_not_pcma(self):
        self.assertEqual(self.warning("m=audio 4000 RTP/AVP 8\r\na=rtpmap:8 G729/8000\r\n"), 305)

    def test_every_media_line_is_answered_in_order(self):
        answer = self.answer("m=video 5000 RTP/AVP 97\r\nm=audio 4000 RTP/AVP 8\r\n"
                             "m=application 6000 UDP/BFCP *\r\nm=audio 4002 RTP/AVP 8\r\n"
                             "m=image 0 udptl t38\r\n")
        self.assertEqual([line for line in answer if line.startswith("m=")], [
            "m=video 0 RTP/AVP 97", "m=audio 20000 RTP/AVP 8", "m=application 0 UDP/BFCP *",
            "m=audio 0 RTP/AVP 8", "m=image 0 udptl t38"])

    def test_a_secure_line_is_passed_over_for_a_plain_one(self):
        answer = self.answer("m=audio 4000 RTP/SAVP 8\r\nm=audio 4002 RTP/AVP 8\r\n")
        self.assertIn("m=audio 0 RTP/SAVP 8", answer)
        self.assertEqual(self.agreement.remote, ("10.0.0.1", 4002))

    def test_directions_are_mirrored(self):
        for theirs, ours, flow in (("sendrecv", "sendrecv", (True, True)),
                                   ("sendonly", "recvonly", (False, True)),
                                   ("recvonly", "sendonly", (True, False)),
                                   ("inactive", "inactive", (False, False))):
            answer = self.answer(f"{AUDIO}a={theirs}\r\n")
            self.assertIn(f"a={ours}", answer)
            self.assertEqual((self.agreement.sending, self.agreement.receiving), flow)

    def test_an_address_of_zeros_is_a_hold_answered_with_our_real_address(self):
        hold = HEAD.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0")
        for theirs, ours in (("sendrecv", "recvonly"), ("recvonly", "inactive"),
                             ("inactive", "inactive")):
            answer = self.answer(f"{AUDIO}a={theirs}\r\n", hold)
            self.assertIn("c=IN IP4 192.0.2.1", answer)
            self.assertIn("m=audio 20000 RTP/AVP 8", answer)
            self.assertIn(f"a={ours}", answer)
            self.assertIsNone(self.agreement.remote)
            self.assertFalse(self.agreement.sending)

    def test_a_refusal_has_the_warning_that_says_why(self):
        self.assertEqual(self.warning("m=video 5000 RTP/AVP 97\r\n"), 304)
        self.assertEqual(self.warning("m=image 5000 udptl t38\r\n"), 304)
        self.assertEqual(self.warning("m=audio 0 RTP/AVP 8\r\n"), 304)
        self.assertEqual(self.warning("m=audio 4000 RTP/AVP 18\r\n"), 305)
        self.assertEqual(self.warning("m=audio 4000 RTP/SAVP 8\r\n"), 302)
        self.assertEqual(self.warning(AUDIO, HEAD.replace("c=IN IP4 10.0.0.1", "c=IN IP6 ::1")),
                         301)

    def test_no_connection_address_at_all_is_malformed(self):
        self.assertEqual(self.warning(AUDIO, "v=0\r\n"), 0)


    def test_a_payload_type_of_more_than_7_bits_is_no_codec(self):
        for pt in (128, 300):
            self.assertEqual(self.warning(f"m=audio 9 RTP/AVP {pt}\r\na=rtpmap:{pt} PCMA/8000\r\n"),
                             305)

    def test_the_times_of_the_offer_are_repeated(self):
        self.assertIn("t=2873397496 2873404696",
                      self.answer(AUDIO, HEAD.replace("t=0 0", "t=2873397496 2873404696")))
        self.assertIn("t=0 0", self.answer(AUDIO, HEAD.replace("t=0 0", "t=0 0\rm=video 1 x 2")))

    def test_audio_wanted_at_one_of_our_own_addresses_is_refused(self):
        session = Negotiation("192.0.2.1", 20000, lambda at: at == ("10.0.0.1", 4000))
        for take in (session.answer, session.on_answer):
            session.offer()
            with self.assertRaises(SDPError) as caught:
                take(HEAD + AUDIO)
            self.assertEqual(caught.exception.warning, 399)
        self.assertTrue(session.answer(HEAD + AUDIO.replace("4000", "4002")))


    def test_reports_go_to_the_next_port_or_where_a_rtcp_says(self):
        for attribute, where in (("", ("10.0.0.1", 4001)),
                                 ("a=rtcp:59711\r\n", ("10.0.0.1", 59711)),
                                 ("a=rtcp:4071 IN IP4 10.0.0.3\r\n", ("10.0.0.3", 4071)),
                                 ("a=rtcp:0\r\n", None), ("a=rtcp:x\r\n", None),
                                 ("a=rtcp:9 IN IP4 239.1.1.1\r\n", None),
                                 ("a=rtcp:9 IN IP6 ::1\r\n", None)):
            self.answer(AUDIO + attribute)
            self.assertEqual(self.agreement.rtcp, where, attribute)
        self.answer(AUDIO, HEAD.replace("c=IN IP4 10.0.0.1", "c=IN IP4 0.0.0.0"))
        self.assertIsNone(self.agreement.rtcp)


class Versions(unittest.TestCase):
    def setUp(self):
        self.session = Negotiation("192.0.2.1", 20000)

    def origin(self, body):
        return lines(body)[1].split()[1:3]

    def test_the_version_rises_only_when_we_say_something_else(self):
        first = self.origin(self.session.answer(HEAD + AUDIO)[0])
        again = self.origin(self.session.answer(HEAD + AUDIO)[0])
        held = self.origin(self.session.answer(HEAD + AUDIO + "a=inactive\r\n")[0])
        back = self.origin(self.session.answer(HEAD + AUDIO)[0])
        self.assertEqual(again, first)
        self.assertEqual([held[0], back[0]], [first[0]] * 2)
        self.assertEqual([int(held[1]), int(back[1])], [int(first[1]) + 1, int(first[1]) + 2])

    def test_other_times_are_another_version(self):
        session = Negotiation("192.0.2.1", 20000)
        first = lines(session.answer(HEAD + AUDIO)[0])[1]
        again = lines(session.answer(HEAD.replace("t=0 0", "t=100 200") + AUDIO)[0])[1]
        self.assertEqual(int(again.split()[2]), int(first.split()[2]) + 1)

    def test_a_refused_offer_changes_nothing(self):
        before = self.session.answer(HEAD + AUDIO)[0]
        with self.assertRaises(SDPError):
            self.session.answer(HEAD + "m=image 5000 udptl t38\r\n")
        self.assertEqual(self.session.answer(HEAD + AUDIO)[0], before)


class Offers(unittest.TestCase):
    def setUp(self):
        self.session = Negotiation("192.0.2.1", 20000)

    def test_our_offer_is_all_our_codecs_and_telephone_event(self):
        self.assertEqual(lines(self.session.offer())[5:], [
            "m=audio 20000 RTP/AVP 8 0 101", "a=rtpmap:8 PCMA/8000", "a=rtpmap:0 PCMU/8000",
            "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15", "a=ptime:20", "a=sendrecv", ""])

    def test_an_offer_while_held_is_sendrecv_and_keeps_the_media_lines(self):
        self.session.answer(HEAD + "m=video 1 RTP/AVP 97\r\n" + AUDIO + "a=inactive\r\n")
        offer = lines(self.session.offer())
        self.assertEqual([line for line in offer if line.startswith("m=")],
                         ["m=video 0 RTP/AVP 97", "m=audio 20000 RTP/AVP 8 0 101"])
        self.assertIn("a=sendrecv", offer)

    def test_an_offer_keeps_the_types_that_were_agreed(self):
        self.session.answer(HEAD + "m=audio 4000 RTP/AVP 97 96\r\na=rtpmap:97 PCMA/8000\r\n"
                            "a=rtpmap:96 telephone-event/8000\r\n")
        self.assertIn("m=audio 20000 RTP/AVP 97 0 96", lines(self.session.offer()))

    def test_the_answer_sets_where_and_with_which_types_we_send(self):
        self.session.offer()
        agreement = self.session.on_answer(
            HEAD + "m=audio 4000 RTP/AVP 8 96\r\na=rtpmap:96 telephone-event/8000\r\n"
            "a=sendonly\r\n")
        self.assertEqual(agreement.remote, ("10.0.0.1", 4000))
        self.assertEqual(agreement.formats, {8: 8, 101: 96})  # received: sent
        self.assertEqual((agreement.sending, agreement.receiving), (False, True))

    def test_the_answer_may_pick_our_second_codec(self):
        self.session.offer()
        agreement = self.session.on_answer(
            HEAD + "m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n")
        self.assertEqual((agreement.codec, agreement.formats), ("PCMU", {0: 0, 101: 101}))

    def test_the_first_codec_of_an_answer_is_sent_and_any_of_them_may_come(self):
        self.session.offer()
        agreement = self.session.on_answer(
            HEAD + "m=audio 4000 RTP/AVP 96 0 18 8\r\na=rtpmap:96 telephone-event/8000\r\n")
        self.assertEqual((agreement.codec, list(agreement.formats.items()), agreement.events),
                         ("PCMU", [(0, 0), (8, 8), (101, 96)], 101))

    def test_an_answer_that_refuses_the_audio_agrees_nothing(self):
        self.session.offer()
        self.assertEqual(self.session.on_answer(HEAD + "m=audio 0 RTP/AVP 8\r\n"), sdp.NOTHING)

    def test_an_answer_without_our_codec_raises(self):
        self.session.offer()
        for answer in ("RTP/AVP 18", "RTP/SAVP 8"):
            with self.assertRaises(SDPError):
                self.session.on_answer(HEAD + f"m=audio 4000 {answer}\r\n")

    def test_a_payload_type_with_a_zero_before_is_none(self):
        session = Negotiation("192.0.2.1", 20000)
        session.offer()
        with self.assertRaises(SDPError):
            session.on_answer(HEAD + "m=audio 4000 RTP/AVP 08 101\r\na=rtpmap:08 PCMA/8000\r\n")

    def test_a_payload_type_is_offered_for_one_codec_only(self):
        self.session.answer(HEAD + AUDIO)
        self.session.offer()
        self.session.answer(HEAD + "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 PCMA/8000\r\n")
        self.assertIn("m=audio 20000 RTP/AVP 101 0 96", lines(self.session.offer()))


class Lenient(unittest.TestCase):
    def answer(self, body):
        return Negotiation("192.0.2.1", 20000).answer(body)

    def test_a_line_that_is_off_may_have_no_format(self):
        for line, refused in (("m=video 0 RTP/AVP", b"m=video 0 RTP/AVP 0\r\n"),
                              ("m=image 0 udptl", b"m=image 0 udptl *\r\n")):
            body, agreement = self.answer(offer(extra=line + "\r\n"))
            self.assertIn(refused, body)
            self.assertTrue(agreement.sending)
        for line in ("m=audio 4000 RTP/AVP", "m=video 0", "m=video"):
            with self.assertRaises(SDPError) as caught:
                self.answer(offer(extra=line + "\r\n"))
            self.assertEqual(caught.exception.warning, 0)

    def test_a_description_without_media_offers_no_audio(self):
        with self.assertRaises(SDPError) as caught:
            self.answer(b"v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nt=0 0\r\n")
        self.assertEqual(caught.exception.warning, 304)

    def test_host_names_are_found_and_replaced(self):
        body = b"c=IN IP4 192.0.2.1\r\nc=IN IP4 a.example\r\na=x\r\nc=IN IP6 b-1.example\n"
        self.assertEqual(host_names(body + body), ["a.example", "b-1.example"])
        self.assertEqual(with_addresses(body, {"a.example": "192.0.2.7"}),
                         body.replace(b"a.example", b"192.0.2.7"))
        for line in (b"xc=IN IP4 a.example", b"c=IN IP4 a.example/127", b"c=IN IP4 \xff",
                     b"c=IN IP4 " + b"a" * 300, b"c=IN IP4 ::1", b"c=IN ATM a.example",
                     b"c=IN IP4 010.0.0.1", b"c=IN IP4 10.1", b"c=IN IP4 0x7F000001"):
            self.assertEqual(host_names(line), [])


if __name__ == "__main__":
    unittest.main()
