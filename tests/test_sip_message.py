"""Parsing: what a datagram says, and the defect a bad one has."""

import unittest

from sip_message import (
    MAX_BODIES,
    MAX_BODY_HEADERS,
    MAX_MARKS,
    MAX_URI,
    MAX_VALUES,
    SIPError,
    SIPMessage,
)

SDP = b"v=0\r\nm=audio 4000 RTP/AVP 8\r\n"
INVITE = (b"INVITE sip:1000@192.0.2.1 SIP/2.0\r\n"
          b"Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1\r\n"
          b"From: <sip:4711@192.0.2.10>;tag=f\r\nTo: <sip:1000@192.0.2.1>\r\n"
          b"Call-ID: a@192.0.2.10\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n")


def with_body(body, *lines):
    return SIPMessage(INVITE + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)


class StartLine(unittest.TestCase):
    def test_a_request_is_a_request(self):
        message = SIPMessage(INVITE + b"\r\n")
        self.assertTrue(message.valid and message.is_request() and not message.is_response())
        self.assertEqual((message.method(), message.uri), ("INVITE", "sip:1000@192.0.2.1"))
        message.check()

    def test_a_response_is_a_response(self):
        message = SIPMessage("SIP/2.0 486 Busy Here\r\nCSeq: 2 BYE\r\n\r\n")
        self.assertTrue(message.valid and message.is_response() and not message.is_request())
        self.assertEqual((message.status, message.reason, message.method()),
                         (486, "Busy Here", "BYE"))

    def test_a_response_may_have_no_reason(self):
        self.assertEqual(SIPMessage("SIP/2.0 100\r\n\r\n").status, 100)
        self.assertEqual(SIPMessage("SIP/2.0 100 \r\n\r\n").status, 100)

    def test_what_is_not_sip_is_not_valid_and_raises_nothing(self):
        for raw in (b"", b"\0\0\0\0", b"\r\n\r\n", "hello", b"\xff\xfe" * 100, "GET / HTTP/1.1",
                    "INVITE sip:a@b", "SIP/2.0 4294967301 big", "SIP/2.0", "INV(TE sip:a SIP/2.0",
                    "\ud800", " \t ", "SIP/2.0 99 x", ":\r\n:\r\n\r\n", b"\r\n" * 30000):
            with self.subTest(raw[:20]):
                message = SIPMessage(raw)
                self.assertFalse(message.valid or message.is_request() or message.is_response())
                self.assertEqual(message.method(), "")

    def test_leading_line_ends_are_skipped(self):
        self.assertTrue(SIPMessage(b"\r\n\r\n" + INVITE + b"\r\n").valid)

    def test_methods_are_case_sensitive_and_any_token(self):
        message = SIPMessage("!interesting-Method0123456789_*+`.%indeed'~ sip:a@b SIP/2.0\r\n\r\n")
        self.assertEqual(message.method(), "!interesting-Method0123456789_*+`.%indeed'~")


class Headers(unittest.TestCase):
    def test_names_have_any_case_and_a_compact_form(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\nv: 1\r\nVIA:2\r\ncAlL-iD :  x \r\nl: 0\r\n"
                             "m:<sip:a@b>\r\nk: timer\r\nx: 90\r\no: refer\r\n\r\n")
        self.assertEqual(message.headers_all("via"), ["1", "2"])
        self.assertEqual(message.header("I"), "x")
        self.assertEqual(message.header("Contact"), "<sip:a@b>")
        self.assertEqual(message.header("Session-Expires"), "90")
        self.assertEqual(message.header("event"), "refer")

    def test_an_absent_header_is_none_or_the_default(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\n\r\n")
        self.assertIsNone(message.header("To"))
        self.assertEqual(message.header("To", "-"), "-")
        self.assertEqual(message.headers_all("To"), [])

    def test_joined_and_repeated_values_are_one_list_in_order(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\nSupported: a,b\r\nVia: 1 , 2\r\n"
                             "Supported:\r\nSupported: c\r\nVia: 3\r\n\r\n")
        self.assertEqual(message.headers_all("Via"), ["1", "2", "3"])
        self.assertEqual(message.headers_all("Supported"), ["a", "b", "c"])

    def test_a_header_that_is_no_list_keeps_its_commas(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\nDate: Sat, 13 Nov 2010\r\n\r\n")
        self.assertEqual(message.headers_all("Date"), ["Sat, 13 Nov 2010"])

    def test_folded_lines_are_one(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\nSubject: one\r\n two\r\n\tthree\r\n\r\n")
        self.assertEqual(message.header("Subject"), "one two three")

    def test_bare_line_feeds_end_lines_too(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\nTo: x\n\nbody")
        self.assertEqual((message.header("To"), message.body), ("x", b"body"))

    def test_a_bare_carriage_return_does_not_reach_a_value(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\nTo: x\rVia: y\r\n\r\n")
        self.assertEqual(message.header("To"), "x Via: y")

    def test_what_is_missing_raises_value_error_where_it_is_needed(self):
        message = SIPMessage("OPTIONS sip:a@b SIP/2.0\r\n\r\n")
        for name in ("via", "cseq", "from_tag", "to_tag"):
            with self.subTest(name), self.assertRaises(ValueError):
                getattr(message, name)

    def test_bytes_that_are_not_utf8_survive(self):
        message = SIPMessage(b"OPTIONS sip:a@b SIP/2.0\r\nSubject: \xff\xe4\r\n\r\n")
        self.assertEqual(message.header("Subject").encode("utf-8", "surrogateescape"), b"\xff\xe4")


class Defects(unittest.TestCase):
    def assert_refused(self, status, reason, raw):
        with self.assertRaises(SIPError) as caught:
            SIPMessage(raw).check()
        self.assertEqual(caught.exception.status, status)
        self.assertIn(reason, caught.exception.reason)

    def test_each_missing_header_is_named(self):
        for line in INVITE.split(b"\r\n")[1:6]:
            name = line.split(b":")[0].decode()
            with self.subTest(name):
                self.assert_refused(400, f"Missing {name} header",
                                    INVITE.replace(line + b"\r\n", b"") + b"\r\n")

    def test_a_header_that_is_not_needed_may_be_missing_or_malformed(self):
        SIPMessage(INVITE.replace(b"Max-Forwards: 70\r\n", b"") + b"\r\n").check()
        for lines in (b"Via: SIP/2.0/UDP 2001:db8::9:1;branch=z9hG4bK2", b"Via: SIP/9 a b c",
                      b"Via: SIP/2.0/UDP h, SIP/2.0/UDP 2001:db8::9", b"Via: SIP/2.0/UDP",
                      b"X Y: 1", b"no colon", b": no name", b"N\xc3\xa4me: x", b"\xff: x",
                      b"Max-Forwards: 300", b"Max-Forwards: x", b"Max-Forwards 70", b"<script>",
                      b"Date: never", b"Contact: <sip:a@h>, <sip:x", b"Length: 5", b"Label",
                      b"Record-Route: <sip:h;lr>, <x", b"MIME Version: 1.0"):
            with self.subTest(lines):
                message = SIPMessage(INVITE + lines + b"\r\nX-Next: read\r\n\r\n")
                message.check()
                self.assertEqual(message.header("X-Next"), "read")

    def test_a_line_that_is_no_header_may_be_the_last(self):
        for line in (b"no colon", b"X Y: 1", b": no name", b"N\xc3\xa4me: x"):
            for end in (b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"):
                with self.subTest(line + end):
                    SIPMessage(INVITE + line + end).check()
            self.assert_refused(400, "header line", INVITE + line + b"\r\r\n\r\n")

    def test_a_bye_may_have_a_malformed_contact(self):
        bye = INVITE.replace(b"INVITE", b"BYE") + b"Contact: <sip:x\r\nRecord-Route: <\r\n\r\n"
        SIPMessage(bye).check()

    def test_a_malformed_header_is_named(self):
        for old, new, name in (
                (b";branch=z9hG4bK1", b";;,;,,", "Via"), (b"192.0.2.10;", b"a b c;", "Via"),
                (b"<sip:4711@192.0.2.10>", b'"Mr <sip:a@b>', "From"),
                (b"To: <sip:1000@192.0.2.1>", b"To: <sip:1000@192.0.2.1", "To"),
                (b"To: <sip:1000@192.0.2.1>", b"To: <sip:1000@192.0.2.1>;tag=", "To: empty tag"),
                (b"CSeq: 1 INVITE", b"CSeq: x INVITE", "CSeq"),
                (b"CSeq: 1 INVITE", b"CSeq: 1 BYE", "CSeq method"),
                (b"sip:1000@192.0.2.1 SIP", b"sip:a@b?Route=%3Csip:x%3E SIP", "Request-URI"),
                (b"sip:1000@192.0.2.1 SIP", b"<sip:1000@192.0.2.1> SIP", "Request-URI"),
                (b"INVITE sip:1000@192.0.2.1", b"INVITE sip:2001:db8::1", "Request-URI"),
                (b"INVITE sip:", b"INVITE  sip:", "request line"),
                (b"SIP/2.0\r\nVia", b"SIP/2.0  \r\nVia", "request line"),
                (b"INVITE sip:1000@", b"INVITE sip:10 00@", "request line"),
                (b"Max-Forwards: 70", b"Content-Length 0", "header line"),
                (b"Max-Forwards: 70", b"Content Length: 0", "header line"),
                (b"Max-Forwards: 70", b"Content-Length\x0b: 9", "header line"),
                (b"Max-Forwards: 70", b"\xc2\xa0l: 9", "header line"),
                (b"Max-Forwards: 70", b"X Y\rContent-Type: x", "header line"),
                (b"Max-Forwards: 70", b"X\0Y: 1", "header line"),
                (b"Max-Forwards: 70", b"Max-Forwards: 70\r\nContact: <sip:x", "Contact"),
                (b"Max-Forwards: 70", b"Max-Forwards: 70\r\nContact: <sip:x@[bad>", "Contact"),
                (b"Max-Forwards: 70", b"Max-Forwards: 70\r\nContact: <tel:1>", "Contact"),
                (b"Max-Forwards: 70", b"Max-Forwards: 70\r\nRecord-Route: <x>", "Record-Route")):
            with self.subTest(new):
                raw = INVITE.replace(old, new)
                self.assertNotEqual(raw, INVITE)
                self.assert_refused(400, name, raw + b"\r\n")

    def test_empty_elements_of_a_list_are_read_over(self):
        SIPMessage(INVITE + b"Contact: <sip:a@h>;;,\r\n\r\n").check()

    def test_conflicting_single_headers_are_refused_and_equal_ones_taken(self):
        self.assert_refused(400, "Conflicting from", INVITE + b"From: <sip:x@y>;tag=2\r\n\r\n")
        SIPMessage(INVITE + b"CSeq: 1 INVITE\r\n\r\n").check()

    def test_another_version_is_505(self):
        self.assert_refused(505, "", INVITE.replace(b"SIP/2.0\r\nVia", b"SIP/7.0\r\nVia"))

    def test_another_scheme_is_416(self):
        self.assert_refused(416, "", INVITE.replace(b"INVITE sip:", b"INVITE soap.beep:"))


class Bounds(unittest.TestCase):
    """What is far more than any trunk sends is refused before it costs time."""

    def check(self, *lines):
        message = with_body(b"", *lines)
        message.check()
        return message

    def refusal(self, *lines):
        with self.assertRaises(SIPError) as caught:
            self.check(*lines)
        return caught.exception.status, caught.exception.reason

    def test_a_message_by_way_of_seventy_proxies_is_taken(self):
        message = self.check(*["Via: SIP/2.0/UDP h;branch=z9hG4bK1;received=1"] * 70,
                             *["Record-Route: <sip:h;lr>, <sip:i;lr>"] * 20,
                             "Contact: <sip:a@h;transport=tcp>;q=1")
        self.assertEqual(len(message.headers_all("Via")), 71)

    def test_a_list_of_too_many_values_is_left_out_and_named(self):
        for name, value in (("P-Asserted-Identity", "<sip:a@b>,"), ("Via", ","), ("From", ";a"),
                            ("To", '"'), ("To", "\\"), ("Contact", "<>"), ("X-None", ";,")):
            with self.subTest(name):
                line = f"{name}: {value * (MAX_MARKS + 1)}"
                self.assertEqual(self.refusal(line), (400, f"Too many values, at {name}"))
                self.assertNotIn(line[-100:], str(with_body(b"", line).headers_all(name)))

    def test_what_comes_behind_too_many_values_is_read(self):
        message = with_body(b"", "Diversion: " + "," * MAX_VALUES, "Route: <sip:a>")
        self.assertEqual(message.headers_all("Diversion"), [])
        self.assertEqual(message.headers_all("Route"), ["<sip:a>"])

    def test_values_count_together_however_they_are_spread(self):
        self.check("Route: " + "a," * 70, "Diversion: " + "a," * 70)
        self.assertEqual(self.refusal("Route: " + "a," * 70, "Diversion: " + "a," * 80),
                         (400, "Too many values, at Diversion"))
        self.check("From: <sip:4711@192.0.2.10>;tag=f", "X: " + ";" * 280, "Y: " + ";" * 280)
        self.assertEqual(self.refusal("X: " + '"' * 280, "Y: " + ";" * 320),
                         (400, "Too many values, at Y"))

    def test_too_many_header_lines_are_refused(self):
        self.check(*["X: y"] * (MAX_VALUES - 10))
        self.assertEqual(self.refusal(*["X: y"] * MAX_VALUES), (400, "Too many values, at X"))
        self.assertEqual(self.refusal(*["X: y"] * 2 * MAX_VALUES), (400, "Too many values, at X"))

    def test_what_is_not_taken_apart_may_be_long(self):
        message = self.check("X: " + "y" * 60000)
        self.assertEqual(len(message.header("X")), 60000)

    def test_lines_beyond_the_bound_are_no_part_of_a_value(self):
        for blank in range(MAX_VALUES - 8, MAX_VALUES + 2):  # one has X where no more is read
            message = with_body(b"", *["\r"] * blank, "X: y", "Z: z")
            self.assertIn(message.header("X"), ("y", None))

    def test_too_many_folds_are_refused(self):
        self.check("X: y" + "\r\n y" * (MAX_VALUES - 10))
        self.assertEqual(self.refusal("X: y" + "\r\n y" * (MAX_VALUES + 1)),
                         (400, "Malformed header line"))

    def test_lines_that_are_no_headers_hide_nothing_behind_them(self):
        junk = ["no colon"] * (MAX_VALUES + 1)
        for hidden in ("Require: x", "l: 5", "Via: SIP/2.0/UDP h", "no colon"):
            with self.subTest(hidden):
                self.assertEqual(self.refusal(*junk, hidden), (400, "Malformed header line"))
        folds = "X: y" + "\r\n y" * MAX_VALUES
        for hidden in ("\r\n l: 5", "\r\n Require: x", "\r\n y"):
            with self.subTest(hidden):
                self.assertEqual(self.refusal(folds + hidden, "X-Last: z")[0], 400)

    def test_a_request_uri_too_long_is_414(self):
        for size, status in ((MAX_URI, 0), (MAX_URI + 1, 414)):
            message = SIPMessage(INVITE.replace(
                b"sip:1000@192.0.2.1 SIP", b"sip:1".ljust(size, b"0") + b" SIP") + b"\r\n")
            with self.subTest(size):
                if not status:
                    message.check()
                    continue
                with self.assertRaises(SIPError) as caught:
                    message.check()
                self.assertEqual(caught.exception.status, status)

    def test_a_response_keeps_what_is_within_the_bounds(self):
        message = SIPMessage("SIP/2.0 200 OK\r\nCSeq: 1 BYE\r\nAllow: " + "a," * 9999 + "\r\n\r\n")
        self.assertTrue(message.is_response())
        self.assertEqual((message.cseq, message.headers_all("Allow")), ((1, "BYE"), []))


class Bodies(unittest.TestCase):
    def test_content_length_cuts_what_follows(self):
        message = with_body(b"12345INVITE sip:again", "Content-Length: 005")
        self.assertEqual(message.body, b"12345")

    def test_without_content_length_the_body_goes_to_the_end(self):
        self.assertEqual(with_body(b"12345").body, b"12345")

    def test_a_length_past_the_datagram_is_a_defect_of_a_request(self):
        message = with_body(b"12345", "Content-Length: 6")
        self.assertTrue(message.valid)
        with self.assertRaises(SIPError) as caught:
            message.check()
        self.assertEqual(caught.exception.status, 400)

    def test_a_length_past_the_datagram_discards_a_response(self):
        self.assertFalse(SIPMessage("SIP/2.0 200 OK\r\nl: 9999\r\n\r\n12345").valid)

    def test_a_length_that_is_no_number_is_a_defect(self):
        for value in ("-999", "1_0", "x", "\u0661", "9" * 5000):
            with self.subTest(value[:9]), self.assertRaises(SIPError):
                with_body(b"12345", f"Content-Length: {value}").check()

    def test_sdp_is_found_by_its_type(self):
        self.assertEqual(with_body(SDP, "c: Application/SDP ;x=y").sdp(), SDP)

    def test_sdp_without_a_type_is_found_by_its_first_line(self):
        self.assertEqual(with_body(SDP).sdp(), SDP)
        self.assertIsNone(with_body(b"\7\0\7\xd0").sdp())

    def test_no_body_is_no_sdp(self):
        self.assertIsNone(with_body(b"", "Content-Type: application/sdp").sdp())
        self.assertIsNone(with_body(b"\r\n", "Content-Type: application/unknown").sdp())

    def test_bodies_a_call_can_do_without_are_ignored(self):
        for lines in (["Content-Type: application/pidf+xml"], ["Content-Type: application/gtd"],
                      ["Content-Type: x/y", "Content-Disposition: signal; handling = optional"]):
            with self.subTest(lines):
                self.assertIsNone(with_body(b"<x/>", *lines).sdp())

    def test_a_body_that_must_be_understood_is_415_with_accept(self):
        for lines in (["Content-Type: application/unknownformat"],
                      ["Content-Type: application/pidf+xml",
                       "Content-Disposition: session;handling=required"]):
            with self.subTest(lines), self.assertRaises(SIPError) as caught:
                with_body(b"<x/>", *lines).sdp()
            self.assertEqual((caught.exception.status, caught.exception.headers),
                             (415, [("Accept", "application/sdp")]))

    def test_a_coded_body_is_ignored_where_it_is_optional_or_empty(self):
        optional = ["Content-Encoding: gzip", "Content-Disposition: signal;handling=optional"]
        self.assertIsNone(with_body(b"\x1f\x8b", "Content-Type: x/y", *optional).sdp())
        self.assertIsNone(with_body(b"", "Content-Encoding: gzip").sdp())

    def test_a_coded_body_is_415_with_accept_encoding(self):
        with self.assertRaises(SIPError) as caught:
            with_body(SDP, "Content-Type: application/sdp", "e: gzip").sdp()
        self.assertEqual(caught.exception.headers, [("Accept-Encoding", "identity")])


class Multiparts(unittest.TestCase):
    TYPE = 'Content-Type: multipart/mixed; charset=x;boundary="uniq-1"'

    def test_the_sdp_part_is_found_among_others(self):
        body = (b"preamble\r\n--uniq-1 \r\nContent-Type: application/pidf+xml\r\n\r\n<x/>\n"
                b"\r\n--uniq-1\r\nc: application/sdp\r\nContent-Disposition: session\r\n\r\n"
                + SDP + b"--uniq-1--\r\nepilogue")
        self.assertEqual(with_body(body, self.TYPE).sdp() + b"\r\n", SDP)

    def test_a_boundary_may_be_quoted_with_a_semicolon_in_it(self):
        body = b"--b;c\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--b;c--"
        self.assertEqual(with_body(body, 'Content-Type: multipart/mixed;boundary="b;c"').sdp(), SDP)

    def test_a_coded_part_is_not_read_as_sdp(self):
        body = (b"--uniq-1\r\nContent-Type: application/sdp\r\nContent-Encoding: gzip\r\n\r\n"
                + SDP + b"\r\n--uniq-1--")
        self.assertIsNone(with_body(body, self.TYPE).sdp())

    def test_a_description_of_an_early_session_is_not_the_calls(self):
        early = (b"--uniq-1\r\nContent-Type: application/sdp\r\n"
                 b"Content-Disposition: early-session\r\n\r\nv=0\r\nearly\r\n")
        ours = b"--uniq-1\r\nContent-Type: application/sdp\r\n\r\n" + SDP
        for parts in (early + ours, ours + b"\r\n" + early):
            self.assertEqual(with_body(parts + b"\r\n--uniq-1--", self.TYPE).sdp(), SDP)
        self.assertIsNone(with_body(early + b"--uniq-1--", self.TYPE).sdp())

    def test_a_multipart_within_a_multipart_is_searched(self):
        inner = (b"--b2\r\nContent-Type: text/plain\r\n\r\nhi\r\n--b2\r\n"
                 b"Content-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--b2--")
        body = (b"--uniq-1\r\nContent-Type: multipart/alternative;boundary=b2\r\n\r\n" + inner
                + b"\r\n--uniq-1--\r\n")
        self.assertEqual(with_body(body, self.TYPE).sdp(), SDP)

    def test_a_multipart_deeper_than_that_is_not_searched(self):
        body = b"Content-Type: application/sdp\r\n\r\n" + SDP
        for boundary in (b"c", b"b", b"uniq-1"):
            body = b"--" + boundary + b"\r\n" + body + b"\r\n--" + boundary + b"--"
            if boundary != b"uniq-1":
                body = b"Content-Type: multipart/mixed;boundary=" + boundary + b"\r\n\r\n" + body
        self.assertIsNone(with_body(body, self.TYPE).sdp())

    def test_too_many_parts_are_refused(self):
        part = b"--uniq-1\r\nContent-Type: text/plain\r\n\r\nhi\r\n"
        last = b"--uniq-1\r\nContent-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--uniq-1--"
        self.assertEqual(with_body(part * (MAX_BODIES - 1) + last, self.TYPE).sdp(), SDP)
        for number in (MAX_BODIES, 9 * MAX_BODIES):
            with self.subTest(number), self.assertRaises(SIPError) as caught:
                with_body(part * number + last, self.TYPE).sdp()
            self.assertEqual((caught.exception.status, caught.exception.reason),
                             (400, "Too many parts in the body"))

    def test_a_part_of_too_many_header_lines_is_not_read_to_their_end(self):
        for lines, found in ((MAX_BODY_HEADERS - 1, b"m=x"), (MAX_BODY_HEADERS, None)):
            body = (b"--uniq-1\r\n" + b"X: y\r\n" * lines + b"Content-Type: application/sdp\r\n\r\n"
                    b"m=x\r\n--uniq-1--")
            self.assertEqual(with_body(body, self.TYPE).sdp(), found)

    def test_a_boundary_longer_than_rfc_2046_allows_is_none(self):
        for size, found in ((70, SDP), (71, None)):
            mark = b"b" * size
            body = b"--" + mark + b"\r\nContent-Type: application/sdp\r\n\r\n" + SDP
            kind = f"Content-Type: multipart/mixed;boundary={mark.decode()}"
            self.assertEqual(with_body(body, kind).sdp(), found)

    def test_a_required_part_that_is_unknown_is_415(self):
        body = (b"--uniq-1\r\nContent-Type: application/x-mine\r\n"
                b"Content-Disposition: session; handling=required\r\n\r\nx\r\n--uniq-1--")
        with self.assertRaises(SIPError) as caught:
            with_body(body, self.TYPE).sdp()
        self.assertEqual(caught.exception.status, 415)

    def test_a_multipart_without_sdp_is_an_invite_without_offer(self):
        body = b"--uniq-1\r\nContent-Type: application/pidf+xml\r\n\r\n<x/>\r\n--uniq-1--"
        self.assertIsNone(with_body(body, self.TYPE).sdp())
        self.assertIsNone(with_body(body, "Content-Type: multipart/mixed").sdp())


if __name__ == "__main__":
    unittest.main()
