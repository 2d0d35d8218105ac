"""Admission: which peers get an answer, how often and how much, and what the log says then."""

import logging
import tempfile
import threading
import unittest
from ipaddress import ip_network
from unittest import mock

from siprtp.bots import actions
from siprtp.calls import MAX_UNVERIFIED
from siprtp.config import Config
from siprtp.logs import PEER_LINES, UNVERIFIED_LINES, Counts
from siprtp.sip.admission import MAX_PEERS, Admission, warn_of_open_access
from siprtp.sip.uas import MAX_TRANSACTIONS
from tests.support import OFFER, PEER, Clock, Trunk, offer, statuses, wait_until

MUTE = logging.NullHandler()  # what is expected of the log is asserted, not shown
UNVERIFIED = ("192.0.2.66", 5060)
SECOND = ("192.0.2.10", 40000)  # the trunk's address, another port


def setUpModule():
    logging.getLogger().addHandler(MUTE)


def tearDownModule():
    logging.getLogger().removeHandler(MUTE)


def trunk(**environ):
    """Return a Trunk whose server answers every peer, at 20 messages per second."""
    environ.setdefault("SIP_RATE", "20")
    return Trunk(known=False, **environ)


class Peers(unittest.TestCase):
    def silent(self, trunk, source):
        """Say whether OPTIONS from a source get no answer."""
        return not trunk.send(trunk.request("OPTIONS"), source)

    def test_without_the_setting_private_networks_are_answered_and_others_are_not(self):
        trunk = Trunk(known=False, ALLOWED_PEERS=" ")
        for ip in ("127.0.0.1", "127.255.1.2", "10.1.2.3", "172.31.0.1", "192.168.1.1",
                   "169.254.1.1", "::1", "fd00::1", "fe80::1%eth0"):
            self.assertFalse(self.silent(trunk, (ip, 5060)), ip)
        for ip in ("8.8.8.8", "172.32.0.1", "192.0.2.10", "100.64.0.1", "2001:db8::1",
                   "::ffff:8.8.8.8", "0.0.0.0"):
            self.assertTrue(self.silent(trunk, (ip, 5060)), ip)

    def test_with_the_setting_no_other_peer_gets_an_answer(self):
        trunk = Trunk(known=False, ALLOWED_PEERS="198.51.100.7, 203.0.113.0/25,2001:db8::/32")
        for ip in ("198.51.100.7", "203.0.113.127", "2001:db8:1::1"):
            self.assertFalse(self.silent(trunk, (ip, 5060)), ip)
        for ip in ("198.51.100.8", "203.0.113.128", "127.0.0.1", "10.0.0.1", "::1"):
            self.assertTrue(self.silent(trunk, (ip, 5060)), ip)

    def test_whatever_they_send_there_is_one_line_a_minute_that_names_the_setting(self):
        trunk = Trunk(known=False, ALLOWED_PEERS="198.51.100.7")
        with self.assertLogs("siprtp.sip.admission", "WARNING") as log:
            for method in ("OPTIONS", "INVITE", "REGISTER", "BYE", "ACK") * 20:
                self.assertEqual(trunk.send(trunk.request(method, body=OFFER), UNVERIFIED), [])
            trunk.send(b"\x16\x03\x01" * 100, UNVERIFIED)
        self.assertEqual([record.getMessage() for record in log.records],
                         ["192.0.2.66 gets no answer: it is not in ALLOWED_PEERS"])
        self.assertEqual((len(trunk.server.transactions), len(trunk.server.calls)), (0, 0))
        trunk.advance(60)
        with self.assertLogs("siprtp.sip.admission", "WARNING") as log:
            trunk.send(b"x", UNVERIFIED)
        self.assertEqual(len(log.records), 1)


    def test_a_ping_is_answered_to_our_own_address_only(self):
        trunk = Trunk(known=False, BIND_IP="192.0.2.1", ALLOWED_PEERS="198.51.100.7")
        options = trunk.request("OPTIONS")
        ping = options.replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
        home = "192.0.2.1", 40000
        self.assertEqual(statuses(trunk.send(ping, home)), [200])
        for data, source in ((ping, UNVERIFIED), (options, home),
                             (ping.replace(b"OPTIONS", b"REGISTER"), home)):
            self.assertEqual(trunk.send(data, source), [])

    def test_a_start_on_a_public_address_says_which_peers_get_an_answer(self):
        for peers, says in (("", "is a public address, but only private networks get an answer"),
                            ("0.0.0.0/0", "ALLOWED_PEERS lets everyone call"),
                            ("198.51.100.7", None)):
            settings = Config.from_env({"ALLOWED_PEERS": peers})
            with self.assertLogs("siprtp.sip.admission", "WARNING") as log:
                warn_of_open_access(settings.allowed_peers, settings.sip_password_file, "8.8.8.8")
                warn_of_open_access(settings.allowed_peers, (), "192.168.1.1")
                logging.getLogger("siprtp.sip.admission").warning("none")
            self.assertIn(says or "none", log.output[0])
            self.assertEqual(len(log.output), 1 + bool(says))

    def test_no_warning_if_callers_need_a_password(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("alice:wonderland")
            file.flush()
            settings = Config.from_env({"ALLOWED_PEERS": "0.0.0.0/0",
                                        "SIP_PASSWORD_FILE": file.name})
        with self.assertLogs("siprtp.sip.admission", "WARNING") as log:
            warn_of_open_access(settings.allowed_peers, settings.sip_password_file, "8.8.8.8")
            logging.getLogger("siprtp.sip.admission").warning("none")
        self.assertEqual(len(log.output), 1)


class Rate(unittest.TestCase):
    def answered(self, trunk, source, count):
        return sum(len(trunk.send(trunk.request("OPTIONS"), source)) for _ in range(count))

    def test_an_unverified_peer_may_send_a_tenth_of_the_rate_each_second(self):
        with self.assertLogs("siprtp.sip.admission", "WARNING") as log:
            peer = trunk()
            self.assertEqual(self.answered(peer, UNVERIFIED, 10), 2)
        self.assertRegex(log.output[0], "192.0.2.66: too many messages.*SIP_RATE")
        self.assertEqual(len(log.output), 1)
        peer.advance(1)
        self.assertEqual(self.answered(peer, UNVERIFIED, 10), 2)

    def test_all_unverified_peers_together_may_send_half_of_the_rate(self):
        peer = trunk()
        answers = [self.answered(peer, (f"192.0.2.{number}", 5060), 2) for number in range(20, 30)]
        self.assertEqual(answers, [2] * 5 + [0] * 5)

    def test_a_flood_of_unverified_peers_takes_nothing_from_verified_ones(self):
        peer = trunk()
        peer.call()
        peer.advance(1)
        for number in range(100, 200):
            self.answered(peer, (f"192.0.2.{number}", 5060), 2)
        self.assertEqual(self.answered(peer, SECOND, 50), 20)  # the same IP, perhaps forged
        self.assertEqual(self.answered(peer, PEER, 50), 20)

    def test_unverified_peers_fill_no_table_of_verified_ones(self):
        clock = Clock()
        admission = Admission((), "", 2 * MAX_PEERS * 100, clock)
        admission.verify(PEER)
        for number in range(MAX_PEERS + 1):
            admission.admits((f"10.0.{number >> 8}.{number & 255}", 5060), 1)
        self.assertTrue(admission.admits(("192.168.0.1", 5060), 1) is False)
        admission.verify(("192.168.0.2", 5060))
        self.assertTrue(admission.admits(("192.168.0.2", 5060), 1))

    def test_what_is_forged_over_udp_takes_nothing_from_tcp(self):
        admission = Admission((), "", 20, Clock())
        admission.verify(("10.0.0.1", 5060))
        udp = [admission.admits(("10.0.0.1", 40000), 1) for _ in range(30)]
        tcp = [admission.admits(("10.0.0.1", 50000), 1, tcp=True) for _ in range(30)]
        self.assertEqual((sum(udp), sum(tcp)), (20, 20))

    def test_an_address_named_by_itself_is_known(self):
        peer = trunk(ALLOWED_PEERS="192.0.2.66, 192.0.2.0/24")
        for number in range(100, 200):
            self.answered(peer, (f"192.0.2.{number}", 5060), 2)
        self.assertEqual(self.answered(peer, UNVERIFIED, 30), 20)

    def test_a_network_of_ipv6_counts_as_one(self):
        peer = Trunk(known=False, BIND_IP="2001:db8::1", SIP_RATE="100")
        counts = [self.answered(peer, (f"2001:db8:0:{n % 2}::{n}", 5060), 1) for n in range(2, 42)]
        self.assertEqual(sum(counts), 20)

    def test_a_verified_ipv6_network_counts_as_one_too(self):
        admission = Admission([ip_network("2001:db8::/32")], "", 20, Clock())
        sources = [(f"2001:db8:0:1::{number}", 5060) for number in range(1, 10)]
        for source in sources:
            admission.verify(source)
        self.assertEqual(sum(admission.admits(source, 1) for source in sources * 10), 20)

    def test_a_long_message_counts_as_several(self):
        admission = Admission((), "", 1000, Clock())
        admission.verify(("10.0.0.1", 5060))
        known = [admission.admits(("10.0.0.1", 5060), 65535) for _ in range(100)]
        unverified = [admission.admits(("10.0.0.2", 5060), 65535) for _ in range(100)]
        self.assertEqual((sum(known), sum(unverified)), (23, 3))
        self.assertTrue(Admission((), "", 2, Clock()).admits(("10.0.0.1", 5060), 65535))

    def test_garbage_counts_as_messages_do(self):
        peer = trunk()
        for _ in range(5):
            peer.send(b"\0\1\2", UNVERIFIED)
        self.assertEqual(self.answered(peer, UNVERIFIED, 1), 0)

    def test_an_unverified_peer_may_always_send_one_message(self):
        self.assertEqual(self.answered(trunk(SIP_RATE="2"), UNVERIFIED, 3), 1)

    def test_with_0_nothing_is_too_much(self):
        peer = trunk(SIP_RATE="0")
        self.assertEqual(self.answered(peer, UNVERIFIED, 300), 300)

    def test_what_is_counted_is_bounded(self):
        counts = Counts(Clock(), 1)
        for number in range(MAX_PEERS):
            self.assertEqual(counts.add(number), 1)
        self.assertGreater(counts.add("one more"), 1e9)
        self.assertEqual(counts.add(7), 2)


class Amplification(unittest.TestCase):
    """A forged source gets at most three times the bytes that the server received from it."""

    def sent_to(self, peer, ip):
        return sum(len(data) for data, address in peer.server.sent if address[0] == ip)

    def test_a_forged_invite(self):
        peer = Trunk(known=False)
        data = peer.request("INVITE", body=OFFER)
        self.assertIn(200, statuses(peer.send(data)))
        peer.advance(200)
        self.assertLessEqual(self.sent_to(peer, PEER[0]), 3 * len(data))
        self.assertEqual((len(peer.server.calls), len(peer.server.transactions)), (0, 0))

    def test_from_our_own_address_nothing_is_forged(self):
        peer = Trunk(known=False, BIND_IP=PEER[0])
        self.assertIn(200, statuses(peer.say("INVITE", body=OFFER)))
        sent = [m for _, m in peer.advance(33)]
        self.assertEqual([statuses(sent).count(200), sent[-1].method()], [10, "BYE"])

    def test_an_invite_that_is_refused(self):
        peer = Trunk(known=False)
        data = peer.request("INVITE", body=offer(formats="18"))
        self.assertIn(488, statuses(peer.send(data)))
        peer.advance(64)
        self.assertLessEqual(self.sent_to(peer, PEER[0]), 3 * len(data))

    def test_a_bye_does_not_go_where_an_unverified_peer_says(self):
        peer = Trunk(known=False)
        peer.say("INVITE", body=OFFER, contact="sip:x@198.51.100.1")
        peer.advance(200)
        self.assertEqual(self.sent_to(peer, "198.51.100.1"), 0)
        self.assertEqual(len(peer.server.calls), 0)

    def test_the_smallest_of_requests_are_answered(self):
        peer = Trunk(known=False)
        for method in ("OPTIONS", "REGISTER", "BYE", "CANCEL", "FOO"):
            tag = ";tag=2" if method == "BYE" else ""
            ip = f"192.0.2.{100 + len(method)}"
            data = (f"{method} sip:a SIP/2.0\r\nv:SIP/2.0/UDP {ip};branch=z9hG4bK{method}\r\n"
                    f"f:<sip:a>;tag=1\r\nt:<sip:a>{tag}\r\ni:1\r\nCSeq:1 {method}\r\n\r\n").encode()
            seen = len(peer.server.sent)
            answers = peer.send(data, (ip, 5060))
            self.assertTrue(answers, method)
            sent = sum(len(data) for data, _ in peer.server.sent[seen:])
            self.assertLessEqual(sent, 3 * len(data))

    def test_a_first_call_whose_200_is_lost_gets_it_again(self):
        # the 100 would have ended the caller's own retransmissions, which add to what it may get
        for padding in (0, 263, 763):
            peer = Trunk(known=False)
            invite = peer.request("INVITE", body=OFFER, headers=["X-Padding: " + "x" * padding])
            sent = peer.send(invite)
            for wait in (0.5, 1, 2, 4, 1.5):  # timer A, RFC 3261 17.1.1.2
                sent += [m for _, m in peer.advance(wait)] + peer.send(invite)
            self.assertGreaterEqual(statuses(sent).count(200), 4, len(invite))
            self.assertLessEqual(self.sent_to(peer, PEER[0]), 3 * 6 * len(invite))

    def test_an_invite_of_a_softphone_gets_at_least_four_without_any_more_from_it(self):
        peer = Trunk(known=False)
        headers = ["User-Agent: Softphone/5.2.6", "Supported: replaces, outbound, gruu, path",
                   "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, MESSAGE, SUBSCRIBE"]
        formats = "96 97 98 0 8 101 99 100"
        sdp = offer(formats=formats, extra="".join(
            f"a=rtpmap:{number} codec{number}/48000/2\r\na=fmtp:{number} useinbandfec=1\r\n"
            for number in range(96, 101)))
        sent = peer.say("INVITE", body=sdp, headers=headers)
        sent += [m for _, m in peer.advance(9)]
        self.assertGreaterEqual(statuses(sent).count(200), 4)

    def test_a_peer_that_is_named_alone_gets_every_200(self):
        peer = Trunk(known=False, ALLOWED_PEERS="192.0.2.10")
        sent = peer.say("INVITE", body=OFFER) + [m for _, m in peer.advance(31.9)]
        self.assertEqual(statuses(sent).count(200), 11)

    def test_what_a_forged_invite_of_a_known_trunk_gets_is_no_sound_and_goes_nowhere_else(self):
        for body, contact in ((offer(ip="198.51.100.1"), "sip:x@198.51.100.1"),
                              (OFFER, "sip:x@198.51.100.1:6379;transport=tcp"),
                              (OFFER, "sip:x@victim.example")):
            peer = Trunk()
            peer.say("INVITE", body=body, contact=contact)
            call, = peer.server.calls
            self.assertTrue(call.media.mute)
            with mock.patch.object(threading.Thread, "start") as started:
                peer.advance(100)  # nor is a name looked up
            started.assert_not_called()
            self.assertEqual({address for _, address in peer.server.sent}, {PEER})
            self.assertEqual(peer.last().method(), "BYE")
            self.assertEqual(len(peer.server.calls), 0)

    def test_a_cancel_from_elsewhere_does_not_learn_our_tag(self):
        peer = Trunk(known=False)
        peer.say("INVITE", body=OFFER, branch="z9hG4bKi")
        cancel = peer.request("CANCEL", branch="z9hG4bKi")
        answer, = peer.send(cancel, UNVERIFIED)
        self.assertEqual(answer.status, 481)
        self.assertNotEqual(answer.to_tag, next(iter(peer.server.calls)).local_tag)

    def test_guessing_a_branch_does_not_begin_the_trunks_transaction(self):
        peer = Trunk()
        peer.send(peer.request("INVITE", headers=["Require: x"], branch="z9hG4bK2567F",
                               call_id="another"), UNVERIFIED)
        answers = peer.say("INVITE", body=OFFER, branch="z9hG4bK2567F")
        self.assertEqual(statuses(answers), [200])
        self.assertEqual(peer.server.sent[-1][1], PEER)

    def test_the_ack_proves_the_address_the_invite_came_from_and_no_other(self):
        peer = Trunk(known=False)
        ok = peer.say("INVITE", body=OFFER)[-1]
        peer.send(peer.request("ACK", to_tag=ok.to_tag), UNVERIFIED)
        self.assertTrue(peer.server.admission.is_known(PEER[0]))
        self.assertFalse(peer.server.admission.is_known(UNVERIFIED[0]))

    def test_an_ack_verifies_its_peer(self):
        peer = Trunk(known=False)
        call = peer.call()
        peer.say("INVITE", 2, body=OFFER, to_tag=call.local_tag)
        again = [m for _, m in peer.advance(33) if m.status == 200]
        self.assertEqual(len(again), 10)  # T1 ... T2 up to 64*T1, all of them

    def test_an_ack_with_another_tag_proves_nothing(self):
        peer = Trunk(known=False)
        peer.say("INVITE", body=OFFER)
        peer.say("ACK", to_tag="0123456789abcdef")
        self.assertFalse(peer.server.admission.is_known(PEER[0]))

    def test_an_unverified_peer_hears_no_speech_before_the_ack(self):
        for bot in (None, lambda call: None):
            peer = Trunk(bot, known=False)
            peer.server.calls.start_bot = lambda call: None
            peer.server.calls._bot_thread.tick = lambda tick: None
            peer.say("INVITE", body=OFFER)
            call, = peer.server.calls
            if bot:
                actions.accept(call, peer.server.calls.answer)
            self.assertTrue(call.media.mute)
            peer.say("ACK", to_tag=peer.last().to_tag)
            self.assertFalse(call.media.mute)


class Bounds(unittest.TestCase):
    def invite(self, peer, name, source=PEER):
        """Deliver the INVITE of a new call; return the status it gets."""
        data = peer.request("INVITE", body=OFFER, call_id=name, from_tag=name)
        return peer.send(data, source)[-1].status

    def test_unverified_calls_without_ack_make_room_after_a_second(self):
        for environ, most in (({}, MAX_UNVERIFIED), ({"MAX_CALLS": "50"}, 26)):
            peer = Trunk(known=False, SIP_RATE="0", **environ)
            for number in range(most):
                self.assertEqual(self.invite(peer, f"forged{number}"), 200)
            self.assertEqual(self.invite(peer, "at once"), 486)
            peer.advance(1)
            self.assertEqual(self.invite(peer, "later"), 200)
            self.assertEqual(len(peer.server.calls), most)
            peer.server.admission.verify(UNVERIFIED)
            self.assertEqual(self.invite(peer, "known", UNVERIFIED), 200)
            peer.advance(64)
            self.assertEqual((len(peer.server.calls), len(peer.server.transactions)), (0, 0))

    def test_a_trunk_that_is_named_by_its_address_may_ring_as_often_as_it_likes(self):
        peer = Trunk(known=False, SIP_RATE="0", ALLOWED_PEERS="192.0.2.10")
        for number in range(MAX_UNVERIFIED + 50):
            self.assertEqual(self.invite(peer, f"ring{number}"), 200)
        self.assertEqual(len(peer.server.calls), MAX_UNVERIFIED + 50)

    def test_calls_that_wait_for_the_answer_to_our_bye_are_no_room(self):
        peer = Trunk(known=False, SIP_RATE="0")
        for number in range(MAX_UNVERIFIED - 1):
            self.invite(peer, f"x{number}", UNVERIFIED)
        ok = peer.send(peer.request("INVITE", body=OFFER, call_id="acked"), UNVERIFIED)[-1]
        peer.send(peer.request("ACK", call_id="acked", to_tag=ok.to_tag), UNVERIFIED)
        peer.advance(1)
        for number in range(3 * MAX_UNVERIFIED):
            self.invite(peer, f"forged{number}")
        self.assertEqual(len(peer.server.calls._unverified), MAX_UNVERIFIED)

    def test_if_no_port_is_left_an_unverified_call_makes_room(self):
        peer = Trunk(known=False, RTP_PORT_START="20000", RTP_PORT_END="20019", MAX_CALLS="1000")
        self.assertEqual([self.invite(peer, f"forged{n}") for n in range(7)], [200] * 6 + [486])
        peer.server.admission.verify(UNVERIFIED)
        calls = [self.invite(peer, f"real{n}", UNVERIFIED) for n in range(5)]
        self.assertEqual(calls, [200] * 4 + [486])
        peer.advance(1)
        self.assertEqual(self.invite(peer, "real", UNVERIFIED), 200)

    def test_an_address_is_known_by_a_few_ports(self):
        admission = Admission((), "", 10, Clock())
        for port in range(100):
            admission.verify(("10.0.0.1", port))
        admitted = sum(admission.admits(("10.0.0.1", port), 1)
                       for port in range(100) for _ in range(11))
        self.assertEqual((len(admission._verified), admitted), (1, 50))

    def test_a_busy_trunk_takes_no_transaction_from_a_new_one(self):
        peer = Trunk(SIP_RATE="0")
        for _ in range(MAX_TRANSACTIONS):
            peer.say("OPTIONS")
        self.assertEqual(self.invite(peer, "new", UNVERIFIED), 200)

    def test_all_ports_in_use_is_busy(self):
        peer = Trunk(RTP_PORT_START="20001", RTP_PORT_END="20005")
        self.assertEqual([self.invite(peer, name) for name in "abc"], [200, 200, 486])

    def test_transactions_of_unverified_peers_are_limited(self):
        peer = Trunk(known=False, SIP_RATE="0")
        for _ in range(MAX_TRANSACTIONS + 100):
            self.assertEqual(statuses(peer.send(peer.request("OPTIONS"), UNVERIFIED)), [200])
        self.assertEqual(len(peer.server.transactions), MAX_TRANSACTIONS)
        self.assertEqual(statuses(peer.send(peer.request("INVITE", body=OFFER), UNVERIFIED)), [486])
        self.assertEqual(statuses(peer.send(peer.request("BYE", to_tag="x"), UNVERIFIED)), [481])
        self.assertEqual(statuses(peer.send(peer.request("FOO"), UNVERIFIED)), [501])
        peer.advance(32)
        self.assertEqual(len(peer.server.transactions), 0)
        self.assertEqual(peer.say("INVITE", body=OFFER)[-1].status, 200)

    def test_sources_that_are_remembered(self):
        admission = Admission((), "", 0, Clock())
        for number in range(MAX_PEERS + 10):
            ip = f"10.0.{number >> 8}.{number & 255}"
            self.assertTrue(admission.admits((ip, 5060), 100))
            admission.verify((f"10.1.{number >> 8}.{number & 255}", 5060))
        self.assertEqual((len(admission._credit), len(admission._verified)), (MAX_PEERS, MAX_PEERS))
        self.assertFalse(admission.take_credit("10.0.0.0", 1))  # forgotten
        self.assertTrue(admission.take_credit(ip, 300))
        self.assertFalse(admission.take_credit(ip, 1))


class Log(unittest.TestCase):
    def setUp(self):
        self.peer = Trunk(known=False, SIP_RATE="0", ALLOWED_PEERS="192.0.2.0/24, 10.0.0.0/8")
        self.lines = []
        handler = logging.Handler()
        handler.emit = self.note
        handler.addFilter(self.peer.server.log_throttle)
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(handler)
        root.setLevel("INFO")
        self.addCleanup(root.removeHandler, handler)
        self.addCleanup(root.setLevel, level)

    def note(self, record):
        if record.thread == threading.get_ident():  # one of an earlier test may still say something
            self.lines.append(record.getMessage())

    def test_lines_about_an_unverified_peer_are_limited_per_minute(self):
        for _ in range(300):
            self.peer.send(self.peer.request("REGISTER"), UNVERIFIED)
        self.assertEqual(len(self.lines), PEER_LINES + 1)
        self.assertEqual(self.lines[-1], "192.0.2.66: no more lines about this peer for a minute")
        self.peer.send(self.peer.request("REGISTER"), PEER)
        self.assertIn("192.0.2.10:5060 rejected: 405", self.lines[-1])
        self.peer.advance(60)
        self.peer.send(self.peer.request("REGISTER"), UNVERIFIED)
        self.assertIn("192.0.2.66:5060 rejected: 405", self.lines[-1])

    def test_a_name_that_is_not_found_is_a_line_of_its_peer(self):
        self.peer.server.sock, lookups = mock.Mock(), self.peer.server.uas._lookups
        with mock.patch("socket.getaddrinfo", side_effect=OSError):
            for number in range(PEER_LINES + 20):
                self.peer.send(self.peer.request("INVITE", body=offer(ip="x.invalid"),
                                                 call_id=f"{number}"), UNVERIFIED)
                wait_until(lambda: self.peer.advance(0) or not lookups._waiting)
        self.assertEqual(len(self.lines), PEER_LINES + 1)

    def test_a_line_is_short_whatever_the_message_says(self):
        long = b"\x1b" * 9000
        data = self.peer.request("INVITE", body=OFFER, uri="sip:%s@192.0.2.1" % ("1" * 900))
        data = data.replace(b"Alice", long).replace(b"4711@192.0.2.10:", b"%s@192.0.2.10:" % long)
        ok = self.peer.send(data)[-1]
        self.peer.say("ACK", to_tag=ok.to_tag)
        call, = self.peer.server.calls
        actions.transfer(call, "sip:1@192.0.2.7", lambda status, reason: None)
        call.referral.on_news(603, "x" * 9000)
        call.routes = [f"<sip:{'x' * 9000}>"]
        call.hang_up("test")
        self.assertEqual(len(self.lines), 5)
        self.assertLess(max(map(len, self.lines)), 1000, self.lines)

    def test_lines_about_all_unverified_peers_together_are_limited(self):
        for number in range(UNVERIFIED_LINES + 200):
            source = (f"10.0.{number >> 8}.{number & 255}", 5060)
            self.peer.send(self.peer.request("REGISTER"), source)
        self.assertEqual(len(self.lines), UNVERIFIED_LINES + 1)
        self.assertEqual(self.lines[-1],
                         "unverified peers: no more lines about this peer for a minute")
        self.peer.server.admission.verify(PEER)
        self.peer.call()
        self.peer.say("BYE", 2, to_tag=self.peer.last().to_tag)
        self.assertIn("ended", self.lines[-1])  # lines about a verified peer are still written

    def test_a_flood_of_addresses_silences_no_line_about_verified_peers(self):
        self.peer.server.admission.verify(PEER)
        for number in range(MAX_PEERS + 100):
            self.peer.send(b"x", (f"8.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5060))
        self.peer.call()
        self.assertIn("began", self.lines[-1])
        logging.getLogger("siprtp.calls").warning("no thread: %s", "x")
        self.assertEqual(self.lines[-1], "no thread: x")

    def test_lines_that_a_bot_or_a_key_causes_count_against_the_caller(self):
        call, server = self.peer.call(), self.peer.server
        server.admission._verified.clear()
        for _ in range(200):
            call.keys._reports.clear()
            call.media.on_key("1")
            server.run_due()
        self.assertEqual(len(self.lines), PEER_LINES + 1)
        self.lines.clear()
        self.peer.advance(60)
        server.calls._bot_function = lambda call: None
        server.calls.start_bot = lambda call: actions.reject(call, 603)
        for number in range(200):
            self.peer.say("INVITE", body=OFFER, call_id=f"{number}", from_tag=f"{number}")
        refused = [line for line in self.lines if "its bot rejected it" in line]
        self.assertEqual(len(refused), PEER_LINES)

    def test_lines_of_a_posted_call_do_not_count_against_the_last_peer(self):
        for _ in range(200):
            self.peer.send(self.peer.request("REGISTER"), UNVERIFIED)
        server = self.peer.server
        server.call_soon(server.receive, self.peer.request("REGISTER"), UNVERIFIED)
        server.call_soon(logging.getLogger("x").info, "said by a bot")
        server.run_due()
        self.assertEqual(self.lines[-1], "said by a bot")

    def test_that_passwords_are_guessed_is_written_whatever_came_before(self):
        for _ in range(200):
            self.peer.send(self.peer.request("REGISTER"), UNVERIFIED)
        logging.getLogger("siprtp.sip.auth").warning("guessed")
        self.assertEqual(self.lines[-1], "guessed")

    def test_lines_that_no_peer_caused_are_always_written(self):
        for _ in range(300):
            self.peer.send(self.peer.request("REGISTER"), UNVERIFIED)
        self.peer.server.stop()
        self.assertEqual(self.lines[-1], "stopping, calls in progress: 0")


if __name__ == "__main__":
    unittest.main()
