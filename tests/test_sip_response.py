"""Responses: what they copy, what they stamp, and where they go."""

import unittest

from sip_message import SIPMessage
from sip_response import SIPResponse, response_address

REQUEST = ("INVITE sip:1000@192.0.2.1 SIP/2.0\r\n"
           "Via: SIP/2.0/UDP 192.0.2.10:5070;x=\"a;rport b\";branch=z9hG4bK1, SIP/2.0/UDP p2\r\n"
           "v: SIP/2.0/TCP p3;received=1.1.1.1\r\n"
           "Record-Route: <sip:r1;lr>, <sip:r2;lr>\r\nRecord-Route: <sip:r3>\r\n"
           "f: \"A\" <sip:a@b>;tag=f\r\nTo: <sip:1000@192.0.2.1>\r\nCall-ID: c\r\n"
           "CSeq: 7 INVITE\r\nTimestamp: 54.25\r\n\r\n")
HERE = ("192.0.2.10", 49193)


def reply(code, text=REQUEST, source=HERE, **parts):
    return SIPMessage(bytes(SIPResponse(code, "", SIPMessage(text, source), **parts)))


class Copied(unittest.TestCase):
    def test_all_vias_come_back_in_order_with_quoted_parameters(self):
        self.assertEqual(reply(200).headers_all("Via"), [
            'SIP/2.0/UDP 192.0.2.10:5070;x="a;rport b";branch=z9hG4bK1', "SIP/2.0/UDP p2",
            "SIP/2.0/TCP p3;received=1.1.1.1"])

    def test_from_call_id_cseq_and_timestamp_are_as_they_were(self):
        answer = reply(200)
        self.assertEqual([answer.header(n) for n in ("From", "Call-ID", "CSeq", "Timestamp")],
                         ['"A" <sip:a@b>;tag=f', "c", "7 INVITE", "54.25"])

    def test_record_route_is_copied_where_a_dialog_may_begin(self):
        routes = ["<sip:r1;lr>", "<sip:r2;lr>", "<sip:r3>"]
        self.assertEqual(reply(180).headers_all("Record-Route"), routes)
        self.assertEqual(reply(200).headers_all("Record-Route"), routes)
        for code in (100, 486):
            self.assertEqual(reply(code).headers_all("Record-Route"), [])

    def test_the_to_tag_is_the_dialogs_or_one_that_repeats_share(self):
        self.assertEqual(reply(200, to_tag="mine").to_tag, "mine")
        self.assertEqual(reply(486).to_tag, reply(486).to_tag)
        self.assertGreaterEqual(len(reply(486).to_tag), 8)

    def test_a_cancel_gets_the_to_tag_its_refused_invite_got(self):
        self.assertEqual(reply(200, REQUEST.replace("INVITE", "CANCEL")).to_tag, reply(488).to_tag)

    def test_100_has_no_to_tag(self):
        self.assertEqual(reply(100).to_tag, "")

    def test_a_to_tag_that_is_there_stays(self):
        text = REQUEST.replace("To: <sip:1000@192.0.2.1>", "To: <sip:1000@192.0.2.1> ;TAG=x")
        self.assertEqual(reply(200, text, to_tag="mine").header("To"),
                         "<sip:1000@192.0.2.1> ;TAG=x")

    def test_a_request_without_its_headers_can_still_be_refused(self):
        answer = reply(400, "INVITE sip:a@b SIP/2.0\r\n\r\n")
        self.assertEqual(answer.start_line, "SIP/2.0 400 Bad Request")

    def test_the_body_has_its_length_and_type(self):
        answer = reply(200, body=b"v=0\r\n")
        self.assertEqual((answer.header("Content-Length"), answer.header("Content-Type")),
                         ("5", "application/sdp"))
        self.assertEqual(answer.body, b"v=0\r\n")
        self.assertIsNone(reply(200).header("Content-Type"))


class Stamped(unittest.TestCase):
    def via(self, via, source=HERE):
        text = REQUEST.replace("SIP/2.0/UDP 192.0.2.10:5070;", f"{via};")
        return reply(200, text, source).headers_all("Via")[0].replace(
            ';x="a;rport b";branch=z9hG4bK1', "")

    def test_received_is_added_where_sent_by_is_not_the_source(self):
        self.assertEqual(self.via("SIP/2.0/UDP pbx.example:5070"),
                         "SIP/2.0/UDP pbx.example:5070;received=192.0.2.10")
        self.assertEqual(self.via("SIP/2.0/UDP 10.0.0.9"),
                         "SIP/2.0/UDP 10.0.0.9;received=192.0.2.10")
        self.assertEqual(self.via("SIP/2.0/UDP 192.0.2.10"), "SIP/2.0/UDP 192.0.2.10")

    def test_a_later_via_is_copied_as_it_came(self):
        bad = "SIP/2.0/UDP 2001:db8::9;branch=x;y=\"z"
        request = SIPMessage("OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1"
                             f"\r\nVia: {bad}\r\nFrom: <sip:a>;tag=1\r\nTo: <sip:a>\r\n"
                             "Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n", HERE)
        request.check()
        self.assertIn(f"\r\nVia: {bad}\r\n", str(SIPResponse(200, "", request)))

    def test_rport_is_filled_in_and_received_added(self):
        self.assertIn(";rport=49193", self.via("SIP/2.0/UDP 192.0.2.10;rport"))
        self.assertIn(";received=192.0.2.10", self.via("SIP/2.0/UDP 192.0.2.10;rport"))

    def test_a_received_the_sender_wrote_is_replaced(self):
        self.assertEqual(self.via("SIP/2.0/UDP 10.0.0.9;received=8.8.8.8"),
                         "SIP/2.0/UDP 10.0.0.9;received=192.0.2.10")


class Routed(unittest.TestCase):
    def to(self, via):
        return response_address(SIPMessage(f"OPTIONS sip:a@b SIP/2.0\r\n{via}\r\n\r\n", HERE))

    def test_a_reply_goes_to_the_source_ip_and_the_port_of_the_via(self):
        self.assertEqual(self.to("Via: SIP/2.0/UDP 10.9.9.9:5080;branch=1"), ("192.0.2.10", 5080))

    def test_a_via_without_port_means_5060(self):
        self.assertEqual(self.to("Via: SIP/2.0/UDP 192.0.2.10;branch=1"), ("192.0.2.10", 5060))

    def test_rport_asks_for_the_source_port(self):
        self.assertEqual(self.to("Via: SIP/2.0/UDP 192.0.2.10:5080;rport;branch=1"), HERE)

    def test_without_a_readable_via_it_goes_back_to_the_source(self):
        self.assertEqual(self.to("Via: nonsense"), HERE)
        self.assertEqual(self.to("X: y"), HERE)


if __name__ == "__main__":
    unittest.main()
