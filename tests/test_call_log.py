"""The log lines by which a voice engineer follows a call."""

import tempfile
import unittest

from siprtp.config import Config
from tests.support import OFFER, Trunk, offer


class Lines(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()

    def lines(self, do, logger="siprtp.calls"):
        """Return what `do()` logs."""
        with self.assertLogs(logger, "INFO") as logged:
            do()
        return [record.getMessage() for record in logged.records]

    def change(self, call, cseq, body=b"", ack_body=b""):
        self.trunk.say("INVITE", cseq, to_tag=call.local_tag, body=body)
        self.trunk.say("ACK", cseq, to_tag=call.local_tag, body=ack_body)

    def test_a_delayed_offer_call_logs_codec_and_address_after_the_ack(self):
        lines = self.lines(lambda: self.trunk.call(body=b"", ack_body=offer()))
        self.assertIn("remote media unknown until the ACK (delayed offer)", lines[0])
        self.assertIn("the ACK agrees on PCMA, remote media 192.0.2.10:4000", lines[1])
        self.assertIn("call-1@192.0.2.10", lines[1])

    def test_the_media_of_a_call_log_under_its_call_id(self):
        call = self.trunk.call()
        self.assertEqual(call.media.name, "call from '4711', Call-ID 'call-1@192.0.2.10'")

    def test_a_delayed_re_invite_logs_what_it_changes_once(self):
        call = self.trunk.call()
        self.assertEqual(len(self.lines(
            lambda: self.change(call, 2, ack_body=offer("sendonly")))), 1)
        with self.assertRaises(AssertionError):  # a refresh changes nothing and logs nothing
            self.lines(lambda: self.change(call, 3, ack_body=offer("sendonly")))

    def test_a_488_says_what_was_offered_and_what_is_supported(self):
        body = offer(formats="18 97 3 101", extra='a=rtpmap:97 "op\\us\r"/48000/2\r\n')
        line = self.lines(lambda: self.trunk.say("INVITE", body=body), "siprtp.sip.uas")[0]
        self.assertIn("rejected: 488 Not Acceptable Here", line)
        self.assertIn("no common codec; supported: PCMA/8000, PCMU/8000; offered: type 18, "
                      "?OP?US??/48000/2, type 3, TELEPHONE-EVENT/8000", line)

    def test_hold_and_resume_are_logged(self):
        call = self.trunk.call()
        for cseq, direction, end in ((2, "sendonly", "on hold, audio only from the caller"),
                                     (3, "inactive", "on hold"), (4, "sendrecv", "resumed")):
            line, = self.lines(lambda: self.change(call, cseq, offer(direction)))  # noqa: B023
            self.assertEqual(line, f"call from '4711', Call-ID 'call-1@192.0.2.10': {end}")

    def test_new_media_addresses_and_codecs_are_logged_and_refreshes_are_not(self):
        call = self.trunk.call()
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.change(call, 2, OFFER)
            self.change(call, 3, offer(port=4100))
            self.change(call, 4, offer(port=4100, formats="0 101"))
        self.assertEqual([record.getMessage().partition(": ")[2] for record in logged.records],
                         ["now PCMA, remote media 192.0.2.10:4100",
                          "now PCMU, remote media 192.0.2.10:4100"])

    def test_a_missing_ack_says_how_often_the_200_went_where(self):
        self.trunk.say("INVITE", body=OFFER)
        line = self.lines(lambda: self.trunk.advance(33))[-1]
        self.assertIn("no ACK to our 200, sent 11 times to 192.0.2.10:5060", line)

    def test_an_unreachable_contact_is_logged_once_a_minute(self):
        from server import SIPServer
        call = self.trunk.call(contact="sip:4711@192.0.2.99:5060")
        server = self.trunk.server

        class Unreachable:
            def sendto(self, data, address):
                raise OSError(101, "Network is unreachable")

        server.sock, server.send = Unreachable(), lambda *args: SIPServer.send(server, *args)
        server.client_transactions._send = server.send

        def hang_up():
            call.hang_up("test")
            self.trunk.advance(40)

        lines = self.lines(hang_up, "server")
        self.assertEqual(lines, ["192.0.2.99:5060, from the peer's Contact, Record-Route or Via, "
                                 "is unreachable: [Errno 101] Network is unreachable"])

    def test_the_settings_are_one_line_without_passwords(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("alice:wonderland")
            file.flush()
            line = Config.from_env({"SIP_PASSWORD_FILE": file.name, "SIP_PORT": "5070",
                                    "ALLOWED_PEERS": "198.51.100.0/24"}).describe()
        self.assertIn("SIP_PORT=5070 ALLOWED_PEERS=198.51.100.0/24 SIP_PASSWORD_FILE=(users: 1) "
                      "SIP_DIGEST=SHA-256,MD5", line)
        self.assertIn("CODECS=PCMA,PCMU", line)
        self.assertNotIn("wonderland", line)
        self.assertNotIn("\n", line)


if __name__ == "__main__":
    unittest.main()
