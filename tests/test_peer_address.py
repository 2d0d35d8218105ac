"""Where the peer is: a caller behind NAT, an unusable Contact, a caller that changes networks."""

import unittest
from unittest import mock

from sip_response import TCPHop
from tests.support import OFFER, PEER, Trunk, offer, wait_until

OUTSIDE = ("198.51.100.20", 40312)  # the public side of the caller's NAT
NEW_NETWORK = ("198.51.100.77", 41000)
PRIVATE = offer(ip="192.168.1.5")
ROUTE = "Record-Route: <sip:203.0.113.1:5070;lr>"


class Connection:
    """Stands for a TCP connection of the caller."""

    def __init__(self, address=OUTSIDE):
        self.address, self.open = address, True


class PeerCase(unittest.TestCase):
    def setUp(self):
        self.make()

    def make(self, **environ):
        self.trunk = Trunk(**environ)
        self.server = self.trunk.server

    def send(self, method, cseq=1, source=OUTSIDE, connection=None, **parts):
        """Deliver a request; return the last message that came back."""
        data = self.trunk.request(method, cseq, **parts)
        self.server.guard(self.server.receive, data, source, connection)
        self.server.run_due()
        return self.trunk.last() if self.server.sent else None

    def call(self, source=OUTSIDE, connection=None, body=PRIVATE, **parts):
        """Set a call up to the ACK; return its Dialog."""
        transport = "TCP" if connection else "UDP"
        parts.setdefault("via", f"SIP/2.0/{transport} 192.168.1.5:5060;branch=z9hG4bK%d;rport")
        via = parts.pop("via")
        self.via = lambda: via.replace("%d", str(self.trunk.branches))
        ok = self.send("INVITE", 1, source, connection, body=body, via=self.via(), **parts)
        self.assertEqual(ok.status, 200)
        self.send("ACK", 1, source, connection, to_tag=ok.to_tag, via=self.via(), **parts)
        self.parts = dict(parts, to_tag=ok.to_tag)
        return list(self.server.calls)[-1]

    def bye_goes_to(self, dialog):
        """Hang up; return (where our BYE goes, its Request-URI)."""
        before = len(self.server.sent)
        dialog.hang_up("test")
        sent = self.server.sent[before:]
        self.assertEqual(len(sent), 1)
        bye = self.trunk.last()
        self.assertEqual(bye.method(), "BYE")
        return sent[0][1], bye.uri


class BehindNat(PeerCase):
    def test_requests_go_to_the_source_of_a_caller_that_asked_for_rport(self):
        where, uri = self.bye_goes_to(self.call(contact="sip:4711@192.168.1.5:5060"))
        self.assertEqual((where, uri), (OUTSIDE, "sip:4711@192.168.1.5:5060"))

    def test_requests_go_to_the_via_port_if_the_source_ip_is_not_in_the_via(self):
        # it has no rport, so its 200 went to this port, too, and the ACK came
        dialog = self.call(via="SIP/2.0/UDP 192.168.1.5:5062;branch=z9hG4bK%d",
                           contact="sip:4711@192.168.1.5:5062")
        self.assertEqual(self.bye_goes_to(dialog)[0], (OUTSIDE[0], 5062))

    def test_requests_go_to_a_public_source_with_a_private_contact(self):
        public = ("8.8.8.8", 40312)
        dialog = self.call(public, via="SIP/2.0/UDP 8.8.8.8:5060;branch=z9hG4bK%d",
                           contact="sip:4711@10.0.0.5")
        self.assertEqual(self.bye_goes_to(dialog), (("8.8.8.8", 5060), "sip:4711@10.0.0.5"))

    def test_a_trunk_without_rport_gets_requests_at_its_contact(self):
        # IOS sends from an ephemeral port, on which it does not listen
        dialog = self.call((PEER[0], 49193), via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK%d",
                           contact="sip:4711@192.0.2.99:5080")
        self.assertEqual(self.bye_goes_to(dialog)[0], ("192.0.2.99", 5080))

    def test_a_name_in_the_via_is_no_sign_of_nat(self):
        dialog = self.call((PEER[0], 5060), via="SIP/2.0/UDP gw.example.net;branch=z9hG4bK%d",
                           contact="sip:4711@192.0.2.99:5080")
        self.assertEqual(self.bye_goes_to(dialog)[0], ("192.0.2.99", 5080))

    def test_a_proxy_that_is_not_on_the_route_gets_no_requests_for_its_rport_or_nat(self):
        for top in ("198.51.100.20;branch=z9hG4bK%d;rport", "10.0.0.4;branch=z9hG4bK%d"):
            self.make()
            dialog = self.call(via=f"SIP/2.0/UDP {top}, SIP/2.0/UDP 192.0.2.99;branch=1",
                               contact="sip:4711@192.0.2.99:5080")
            self.assertEqual(self.bye_goes_to(dialog)[0], ("192.0.2.99", 5080), top)

    def test_a_public_proxy_gets_requests_if_the_contact_is_private(self):
        via = "SIP/2.0/UDP 10.0.0.4;branch=z9hG4bK%d;rport, SIP/2.0/UDP 192.168.1.5;branch=1"
        dialog = self.call(("8.8.8.8", 5060), via=via, contact="sip:4711@192.168.1.5:5062")
        self.assertEqual(self.bye_goes_to(dialog)[0], ("8.8.8.8", 5060))

    def test_a_route_set_always_wins(self):
        dialog = self.call(contact="sip:4711@192.168.1.5", headers=[ROUTE])
        self.assertEqual(self.bye_goes_to(dialog), (("203.0.113.1", 5070),
                                                    "sip:4711@192.168.1.5"))

    def test_nat_off_sends_to_the_contact(self):
        self.make(NAT="off")
        where, _ = self.bye_goes_to(self.call(contact="sip:4711@192.168.1.5:5062"))
        self.assertEqual(where, ("192.168.1.5", 5062))

    def test_the_log_says_where_requests_go_when_the_call_begins(self):
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.call(contact="sip:4711@192.168.1.5")
        self.assertIn("requests go to 198.51.100.20:40312, not to the Contact (NAT)",
                      logged.output[0])

    def test_the_log_names_the_source_if_a_bye_gets_no_answer(self):
        dialog = self.call()
        with self.assertLogs("siprtp.sip.dialog", "INFO") as logged:
            dialog._on_bye_answer(None)
        self.assertIn("our BYE to '198.51.100.20:40312' got no answer", logged.output[-1])

    def test_the_log_does_not_if_the_contact_is_the_source(self):
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.call(contact="sip:4711@198.51.100.20:40312")
        self.assertNotIn("Contact (NAT)", logged.output[0])


class UnusableContact(PeerCase):
    CONTACTS = ("sip:4711@0.0.0.0:5060", "sip:4711@0.0.0.0", "sip:4711@224.0.1.75",
                "sip:4711@192.0.2.10:0", "sip:4711@255.255.255.255")

    def test_nothing_is_sent_to_it(self):
        for contact in self.CONTACTS:
            self.make()
            dialog = self.call(PEER, via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK%d",
                               contact=contact)
            self.assertEqual(self.bye_goes_to(dialog), (PEER, contact))

    def test_nothing_is_sent_to_it_with_nat_off_either(self):
        for contact in self.CONTACTS:
            self.make(NAT="off")
            dialog = self.call(PEER, via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK%d",
                               contact=contact)
            self.server.sent.clear()
            with self.assertLogs("siprtp.sip.next_hop", "WARNING") as logged:
                dialog.hang_up("test")
            self.assertEqual((self.server.sent, dialog.state), ([], "ended"))
            self.assertIn("BYE cannot be sent", logged.output[0])

    def test_one_of_the_other_ip_version_is_not_sent_to(self):
        dialog = self.call(PEER, via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK%d",
                           contact="sip:4711@[2001:db8::5]")
        self.assertEqual(self.bye_goes_to(dialog), (PEER, "sip:4711@[2001:db8::5]"))

    def test_a_name_for_no_single_host_is_not_sent_to(self):
        dialog = self.call(PEER, via="SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK%d",
                           contact="sip:4711@blocked.example")
        self.server.sent.clear()
        # as many resolvers answer for names that they block
        with mock.patch("socket.getaddrinfo", return_value=[(0, 0, 0, "", ("0.0.0.0", 0))]):
            dialog.hang_up("test")
            wait_until(lambda: not self.server._posted.empty())
        with self.assertLogs("siprtp.sip.next_hop", "WARNING") as logged:
            self.server.run_due()
        self.assertEqual((self.server.sent, dialog.state), ([], "ended"))
        self.assertIn("BYE cannot be sent", logged.output[0])

    def test_an_unusable_route_is_not_sent_to_either(self):
        dialog = self.call(headers=["Record-Route: <sip:0.0.0.0;lr>"])
        self.server.sent.clear()
        with self.assertLogs("siprtp.sip.next_hop", "WARNING"):
            dialog.hang_up("test")
        self.assertEqual(self.server.sent, [])


class OverTCP(PeerCase):
    def test_requests_use_the_open_connection_whatever_the_contact_says(self):
        for contact in ("sip:4711@192.168.1.5:5060;transport=tcp", "sip:4711@192.168.1.5:5060",
                        "sip:4711@0.0.0.0", "sip:4711@phone.invalid",
                        "sip:4711@192.168.1.5;transport=udp"):
            self.make()
            connection = Connection()
            dialog = self.call(connection=connection, contact=contact)
            self.assertEqual(self.bye_goes_to(dialog), (TCPHop(*OUTSIDE, connection), contact))
            self.assertTrue(self.trunk.last().header("Via").startswith("SIP/2.0/TCP "))

    def test_the_connection_of_a_proxy_that_is_not_on_the_route_is_not_used(self):
        via = "SIP/2.0/TCP 198.51.100.20;branch=z9hG4bK%d, SIP/2.0/UDP 192.0.2.99;branch=1"
        dialog = self.call(connection=Connection(), via=via, contact="sip:4711@192.0.2.99:5080")
        self.assertEqual(self.bye_goes_to(dialog)[0], TCPHop("192.0.2.99", 5080, None))

    def test_a_connection_that_is_closed_is_not_used(self):
        connection = Connection()
        dialog = self.call(connection=connection, contact="sip:4711@192.0.2.10:5062")
        connection.open = False
        self.assertEqual(self.bye_goes_to(dialog)[0], TCPHop("192.0.2.10", 5062, None))

    def test_a_later_connection_of_the_caller_takes_its_place(self):
        first, second = Connection(), Connection(NEW_NETWORK)
        dialog = self.call(connection=first, contact="sip:4711@192.168.1.5")
        first.open = False
        self.send("OPTIONS", 2, NEW_NETWORK, second, via=self.via(), **self.parts)
        self.assertEqual(self.bye_goes_to(dialog)[0], TCPHop(*NEW_NETWORK, second))


class BeforeTheAck(PeerCase):
    def test_a_bye_names_the_transport_of_the_invite_whatever_the_contact_says(self):
        for nat in ("auto", "off"):
            for connection, transport, other in (
                    (None, "UDP", "tcp"), (Connection(), "TCP", "udp")):
                self.make(NAT=nat)
                self.server.admission.verify(OUTSIDE)
                self.send("INVITE", 1, OUTSIDE, connection, body=OFFER,
                          via=f"SIP/2.0/{transport} 192.0.2.10;branch=z9hG4bK1",
                          contact=f"sip:4711@192.0.2.10;transport={other}")
                sent = [m for _, m in self.trunk.advance(33) if not m.status]
                self.assertEqual(sent[0].method(), "BYE")
                self.assertEqual(sent[0].via.transport, transport, nat)
                self.assertEqual(isinstance(self.server.sent[-1][1], TCPHop), transport == "TCP")


class Moved(PeerCase):
    """From Wi-Fi to LTE: the source changes, the private address in Contact and SDP may stay."""

    def move(self, method="INVITE", cseq=2, source=NEW_NETWORK, **parts):
        return self.send(method, cseq, source, via=self.via(), **dict(self.parts, **parts))

    def test_a_reinvite_moves_signalling_and_media(self):
        dialog = self.call(contact="sip:4711@192.168.1.5")
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            ok = self.move(body=PRIVATE)
        self.assertEqual((ok.status, self.server.sent[-1][1]), (200, NEW_NETWORK))
        self.assertEqual(dialog.media.peer_ip, NEW_NETWORK[0])
        self.assertIn("the caller moved from 198.51.100.20 to 198.51.100.77", logged.output[0])
        self.move("ACK")
        self.assertEqual(self.bye_goes_to(dialog)[0], NEW_NETWORK)

    def test_any_request_moves_them(self):
        for method, headers in (("OPTIONS", []), ("INFO", []), ("UPDATE", []),
                                ("NOTIFY", ["Event: telephone-event"])):
            self.make()
            dialog = self.call(contact="sip:4711@192.168.1.5")
            self.move(method, headers=headers)
            self.assertEqual(dialog.media.peer_ip, NEW_NETWORK[0], method)
            self.assertEqual(self.bye_goes_to(dialog)[0], NEW_NETWORK, method)

    def test_a_rejected_reinvite_moves_them_too(self):
        dialog = self.call(contact="sip:4711@192.168.1.5")
        self.assertEqual(self.move(body=offer(formats="18")).status, 488)
        self.assertEqual(self.bye_goes_to(dialog)[0], NEW_NETWORK)

    def test_a_replayed_request_or_one_with_a_wrong_tag_moves_nothing(self):
        dialog = self.call(contact="sip:4711@192.168.1.5")
        self.send("OPTIONS", 7, via=self.via(), **self.parts)
        for cseq, parts in ((7, {}), (6, {}), (8, {"to_tag": "wrong"}), (8, {"from_tag": "wrong"}),
                            (8, {"call_id": "wrong"})):
            self.move("OPTIONS", cseq, **parts)
            self.assertEqual(dialog.media.peer_ip, OUTSIDE[0], (cseq, parts))
        self.assertEqual(self.bye_goes_to(dialog)[0], OUTSIDE)

    def test_an_ack_for_nothing_moves_nothing(self):
        dialog = self.call(contact="sip:4711@192.168.1.5")
        self.move("ACK", 1)
        self.assertEqual(self.bye_goes_to(dialog)[0], OUTSIDE)

    def test_a_late_ack_from_the_old_network_does_not_move_the_caller_back(self):
        dialog = self.call(contact="sip:4711@192.168.1.5")
        self.send("INVITE", 2, via=self.via(), body=PRIVATE, **self.parts)
        self.move("OPTIONS", 3)
        self.send("ACK", 2, via=self.via(), **self.parts)
        self.assertEqual(dialog.media.peer_ip, NEW_NETWORK[0])
        self.assertEqual(self.bye_goes_to(dialog)[0], NEW_NETWORK)

    def test_the_first_ack_moves_it_also_after_other_requests(self):
        via = "SIP/2.0/UDP 192.168.1.5:5060;branch=z9hG4bK%d;rport"
        ok = self.send("INVITE", via=via % 1, body=PRIVATE)
        self.send("OPTIONS", 2, via=via % 2, to_tag=ok.to_tag)
        self.send("ACK", 1, NEW_NETWORK, via=via % 3, to_tag=ok.to_tag)
        self.assertEqual(self.bye_goes_to(list(self.server.calls)[-1])[0], NEW_NETWORK)

    def test_the_new_address_is_not_verified_by_it(self):
        # the source may be forged by the caller itself: nothing that it repeats was sent there
        self.call(contact="sip:4711@192.168.1.5")
        self.move(body=PRIVATE)
        self.move("ACK")
        self.assertFalse(self.server.admission.is_verified(NEW_NETWORK[0]))

    def test_before_the_ack_nothing_moves(self):
        self.send("INVITE", body=PRIVATE)
        dialog = list(self.server.calls)[-1]
        self.send("OPTIONS", 2, NEW_NETWORK, to_tag=dialog.local_tag)
        self.assertEqual(dialog.media.peer_ip, OUTSIDE[0])

    def test_a_trunk_that_sends_from_changing_ports_moves_nothing_and_logs_nothing(self):
        dialog = self.call((PEER[0], 49193), via="SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK%d",
                           contact="sip:4711@192.0.2.10:5060", body=OFFER)
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            self.move("OPTIONS", source=(PEER[0], 50000))
            self.assertEqual(self.bye_goes_to(dialog)[0], PEER)
        self.assertNotIn("moved", "".join(logged.output))


if __name__ == "__main__":
    unittest.main()
