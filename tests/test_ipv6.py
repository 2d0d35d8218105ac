"""IPv6: the rules of RFC 5118 on the wire, and a call over ::1."""

import socket
import unittest

from rtp import RTPPacket, open_rtp_socket
from sip_message import SIPMessage
from siprtp.agreement import Agreement
from siprtp.media.session import RTPSession
from siprtp.media.thread import RTPThread
from tests.support import OFFER, Trunk, statuses
from tests.test_main import SECONDS, Process

PEER = ("2001:db8::10", 40001)
OFFER6 = OFFER.replace(b"IN IP4 192.0.2.10", b"IN IP6 2001:db8::10")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


class OnTheWire(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk(BIND_IP="2001:db8::1")

    def say(self, method, *args, **parts):
        parts.setdefault("via", "SIP/2.0/UDP [2001:DB8::10]:5062;branch=z9hG4bK"
                         f"{method}{len(self.trunk.server.sent)}")
        parts.setdefault("uri", "sip:1000@[2001:db8::1]")
        parts.setdefault("contact", "sip:4711@[2001:db8::10]:5064")
        return self.trunk.send(self.trunk.request(method, *args, **parts), PEER)

    def test_a_call_has_our_address_in_contact_and_sdp(self):
        ok = self.say("INVITE", body=OFFER6)[-1]
        self.assertEqual((ok.status, ok.header("Contact")), (200, "<sip:1000@[2001:db8::1]:5060>"))
        self.assertIn(b"c=IN IP6 2001:db8::1\r\n", ok.body)
        self.assertRegex(ok.body, rb"o=- \d+ 1 IN IP6 2001:db8::1\r\n")
        self.assertEqual(self.trunk.server.media_made[0].flow.remote, ("2001:db8::10", 4000))

    def test_a_reply_goes_to_the_vias_port_and_one_address_has_many_spellings(self):
        ok = self.say("OPTIONS")[-1]
        self.assertEqual(self.trunk.server.sent[-1][1], ("2001:db8::10", 5062))
        self.assertNotIn("received", ok.header("Via"))
        ok = self.say("OPTIONS", via="SIP/2.0/UDP [2001:db8::99];rport;branch=z9hG4bKx",
                      call_id="2")[-1]
        self.assertIn(";received=2001:db8::10", ok.header("Via"))  # RFC 5118 4.5: no brackets
        self.assertEqual(self.trunk.server.sent[-1][1], PEER)

    def test_our_bye_goes_to_the_contact(self):
        ok = self.say("INVITE", body=OFFER6)[-1]
        self.say("ACK", to_tag=ok.to_tag)
        next(iter(self.trunk.server.calls)).on("hang up", why="test")
        bye = self.trunk.last()
        self.assertEqual((bye.uri, bye.via.host), ("sip:4711@[2001:db8::10]:5064", "[2001:db8::1]"))
        self.assertEqual(self.trunk.server.sent[-1][1], ("2001:db8::10", 5064))

    def test_a_request_uri_needs_its_brackets(self):
        for uri, status in (("sip:2001:db8::10", 400), ("sip:[2001:db8::10", 400),
                            ("sip:[2001:db8::10:5070]", 405), ("sip:[2001:db8::10]:5070", 405)):
            self.assertEqual(statuses(self.say("REGISTER", uri=uri)), [status], uri)

    def test_received_is_taken_with_and_without_brackets_and_mixed_vias_come_back(self):
        for received in ("[2001:db8::9:255]", "2001:db8::9:255"):
            vias = ["SIP/2.0/UDP [2001:db8::10]:5062;branch=z9hG4bKb" + received[:1],
                    f"SIP/2.0/UDP [2001:db8::9:1];received={received};branch=z9hG4bKas3-111",
                    "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKkj"]
            refused = self.say("BYE", via=", ".join(vias), to_tag="x")[-1]
            self.assertEqual((refused.status, refused.headers_all("Via")), (481, vias))

    def test_the_other_ip_version_is_488_with_its_warning_unless_one_line_fits(self):
        for body in (OFFER, OFFER6.replace(b"IP6 2001:db8::10", b"IP6 ::ffff:192.0.2.10")):
            refused = self.say("INVITE", body=body, call_id=str(len(body)))[-1]
            self.assertEqual((refused.status, refused.header("Warning")[:3]), (488, "301"))
        both = OFFER + b"m=audio 6000 RTP/AVP 8\r\nc=IN IP6 2001:db8::10\r\n"
        ok = self.say("INVITE", body=both, call_id="both")[-1]
        self.assertIn(b"m=audio 0 RTP/AVP 8\r\nm=audio 20004 ", ok.body)

    def test_an_address_with_a_scope_is_no_place_to_send_to(self):
        for address in (b"fe80::1%eth0", b"fe80::1%\x1b[2J"):
            body = OFFER6.replace(b"c=IN IP6 2001:db8::10", b"c=IN IP6 " + address)
            refused = self.say("INVITE", body=body, call_id=address.hex())[-1]
            self.assertEqual((refused.status, refused.header("Warning")[:3]), (488, "301"))

    def test_three_colons_in_an_address_are_refused_or_read_but_never_a_500(self):
        refused = self.say("OPTIONS", contact="sip:x@[2001:db8:::192.0.2.1]",
                           via="SIP/2.0/UDP [2001:db8:::192.0.2.1];branch=z9hG4bKc")[-1]
        self.assertIn(refused.status, (200, 400))

    def test_a_target_is_spelled_as_the_system_does_and_a_mapped_one_is_ipv4(self):
        for bind, contact, address in (
                ("2001:db8::1", "sip:a@[2001:0DB8:0:0:0:0:0:10]:5064", ("2001:db8::10", 5064)),
                ("192.0.2.1", "sip:a@[::ffff:192.0.2.10]:5064", ("192.0.2.10", 5064))):
            trunk = Trunk(BIND_IP=bind, NAT="off")  # the source is IPv4 in both cases
            call = trunk.call(body=b"", contact=contact)
            call.on("hang up", why="test")
            self.assertEqual(trunk.server.sent[-1][1], address)

    def test_a_hold_by_zeros_is_a_hold(self):
        ok = self.say("INVITE", body=OFFER6.replace(b"c=IN IP6 2001:db8::10", b"c=IN IP6 ::"))[-1]
        self.assertIn(b"a=recvonly\r\n", ok.body)


@unittest.skipUnless(has_ipv6(), "this machine has no IPv6 loopback")
class Loopback(unittest.TestCase):
    def test_a_session_echoes(self):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as caller:
            caller.bind(("::1", 0))
            caller.settimeout(5)
            session = RTPSession(open_rtp_socket("::1", 15000, 15998), "::1")
            self.addCleanup(session.stop)
            session.update(Agreement(caller.getsockname()[:2], {8: 8}, True, True, "PCMA"))
            session.start(RTPThread())
            caller.sendto(RTPPacket(8, 1, 2, 3, b"voice").serialize(), ("::1", session.port))
            self.assertEqual(RTPPacket.parse(caller.recv(2048)).payload, b"voice")

    def test_the_server_listens_and_answers(self):
        server = Process(self, BIND_IP="::")
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET6, kind) as sock:
                sock.settimeout(SECONDS)
                sock.connect(("::1", server.port))
                here = "[{}]:{}".format(*sock.getsockname()[:2])
                sock.send("OPTIONS sip:[::1] SIP/2.0\r\n"
                          f"Via: SIP/2.0/UDP {here};branch=z9hG4bK1\r\n"
                          f"From: <sip:a@{here}>;tag=1\r\nTo: <sip:[::1]>\r\nCall-ID: {kind}\r\n"
                          "CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n".encode())
                self.assertEqual(SIPMessage(sock.recv(65535)).status, 200)


if __name__ == "__main__":
    unittest.main()
