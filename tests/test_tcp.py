"""SIP over TCP: framing, calls on a stand-in connection, and real sockets of the loopback."""

import signal
import socket
import threading
import time
import unittest
from ipaddress import ip_network
from unittest import mock

from sip_message import SIPMessage
from sip_response import TCPHop
from siprtp.sip import tcp
from siprtp.sip.admission import Admission
from siprtp.sip.tcp import MAX_MESSAGE, Connection, Framer, FramingError, TCPTransport
from tests.support import OFFER, PEER, Clock, Trunk
from tests.test_main import SECONDS, Process

ONE = b"OPTIONS sip:a@b SIP/2.0\r\nVia: x\r\nContent-Length: 4\r\n\r\nbody"
TWO = b"ACK sip:a@b SIP/2.0\r\nl :  0 \r\n\r\n"


class Framed(unittest.TestCase):
    def test_several_messages_in_one_segment(self):
        self.assertEqual(list(Framer().feed(ONE + TWO + ONE)), [ONE, TWO, ONE])

    def test_one_message_in_many_segments(self):
        framer = Framer()
        got = [message for at in range(len(ONE + TWO)) for message in
               framer.feed((ONE + TWO)[at:at + 1])]
        self.assertEqual(got, [ONE, TWO])
        self.assertFalse(framer.half)

    def test_a_message_that_has_begun_is_half(self):
        framer = Framer()
        self.assertEqual(list(framer.feed(b"\r\n" + ONE[:-1])), [])
        self.assertTrue(framer.half)

    def test_two_line_ends_between_messages_are_a_keepalive(self):
        framer = Framer()
        self.assertEqual(list(framer.feed(ONE + b"\r\n" * 4)), [ONE, b"", b""])
        self.assertEqual(list(framer.feed(b"\r\n")), [])
        self.assertEqual(list(framer.feed(b"\r\n")), [b""])
        self.assertEqual(list(framer.feed(b"\r\n" + ONE)), [ONE])
        self.assertFalse(framer.half)

    def test_without_content_length_the_head_can_still_be_answered(self):
        with self.assertRaises(FramingError) as caught:
            list(Framer().feed(ONE.replace(b"Content-Length: 4\r\n", b"")))
        self.assertTrue(caught.exception.head.startswith(b"OPTIONS"))

    def test_a_content_length_may_be_folded(self):
        folded = ONE.replace(b": 4", b":\r\n  4")
        self.assertEqual(list(Framer().feed(folded + TWO)), [folded, TWO])

    def test_where_a_message_ends_must_not_depend_on_the_reader(self):
        # the next request would be what one reader takes for a body
        for lines in (b"Content-Length: 4\r\nl: 0", b"Content-Length: 4\r\nContent-Length: x",
                      b"Content-Length: 4, 0", b"Content-Length: 4\r\n 0", b"Content-Length: +4",
                      b"Content-Length: 4;a", b"Content-Length:"):
            with self.subTest(lines), self.assertRaises(FramingError) as caught:
                list(Framer().feed(ONE.replace(b"Content-Length: 4", lines)))
            self.assertTrue(caught.exception.head.startswith(b"OPTIONS"))  # for a 400
        twice = ONE.replace(b"Content-Length: 4", b"Content-Length: 4\r\nl:4")
        self.assertEqual(list(Framer().feed(twice + TWO)), [twice, TWO])

    def test_a_message_or_a_head_without_end_is_refused(self):
        with self.assertRaises(FramingError):
            list(Framer().feed(ONE.replace(b": 4", b": 65536")))
        framer = Framer()
        with self.assertRaises(FramingError):
            for _ in range(MAX_MESSAGE // 1000 + 2):
                list(framer.feed(b"x" * 1000))


class StandIn:
    """Stands for a Connection that is open."""

    address, open = PEER, True


class Calls(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server, self.connection = self.trunk.server, StandIn()

    def say(self, method, *args, **parts):
        parts.setdefault("via", "SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bK"
                         f"{method}{len(self.server.sent)}")
        seen = len(self.server.sent)
        self.server.receive(self.trunk.request(method, *args, **parts), ("192.0.2.10", 40001),
                            self.connection)
        return self.trunk.answers(seen)

    def call(self):
        ok = self.say("INVITE", body=OFFER, contact="sip:4711@192.0.2.10:5060;transport=tcp")[-1]
        self.say("ACK", to_tag=ok.to_tag)
        return next(iter(self.server.calls)), ok

    def test_replies_go_by_the_connection_with_the_vias_port_in_reserve(self):
        self.call()
        self.assertEqual({hop for _, hop in self.server.sent},
                         {("192.0.2.10", 5060, self.connection)})

    def test_our_contact_says_tcp(self):
        self.assertEqual(self.call()[1].header("Contact"),
                         "<sip:1000@192.0.2.1:5060;transport=tcp>")

    def test_the_200_is_resent_over_tcp_too(self):
        # RFC 3261 13.3.1.4: a proxy behind the connection may have lost it
        self.say("INVITE", body=OFFER)
        self.assertEqual([m.status for _, m in self.trunk.advance(2)], [200, 200])

    def test_a_refusal_is_not_resent_and_other_replies_are_not_kept(self):
        self.say("INVITE", body=b"x", headers=["Content-Type: application/x-my"])
        self.say("OPTIONS", call_id="o")
        self.assertEqual(self.trunk.advance(0.1), [])
        self.assertEqual(len(self.server.transactions), 1)  # the INVITE waits for its ACK
        self.assertEqual(self.trunk.advance(100), [])
        self.assertEqual(len(self.server.transactions), 0)

    def test_our_bye_goes_by_the_same_connection_once(self):
        call, _ = self.call()
        call.on("hang up", why="test")
        bye = self.trunk.last()
        self.assertEqual((bye.via.transport, bye.uri),
                         ("TCP", "sip:4711@192.0.2.10:5060;transport=tcp"))
        self.assertEqual(self.server.sent[-1][1], ("192.0.2.10", 40001, self.connection))
        self.assertEqual([m.method() for _, m in self.trunk.advance(31)], [])
        self.trunk.advance(2)
        self.assertEqual(len(self.server.calls), 0)

    def test_our_bye_goes_by_the_connection_the_caller_uses_now(self):
        _, ok = self.call()
        self.connection = StandIn()
        self.say("UPDATE", 2, to_tag=ok.to_tag)
        next(iter(self.server.calls)).on("hang up", why="test")
        self.assertIs(self.server.sent[-1][1].connection, self.connection)

    def test_a_target_elsewhere_is_reached_by_a_connection_of_its_own(self):
        call, _ = self.call()
        self.connection.open = False
        call.target = "sip:x@192.0.2.77:5070;transport=tcp"
        call.on("hang up", why="test")
        self.assertEqual(self.server.sent[-1][1], ("192.0.2.77", 5070, None))

    def test_a_target_that_asks_for_udp_gets_it(self):
        call, _ = self.call()
        self.connection.open = False
        call.target = "sip:x@192.0.2.10;transport=UDP"
        call.on("hang up", why="test")
        self.assertEqual((self.trunk.last().via.transport, self.server.sent[-1][1]),
                         ("UDP", ("192.0.2.10", 5060)))

    def test_a_request_that_was_cut_by_another_content_length_is_400(self):
        options = self.trunk.request("OPTIONS", body=b"rest")
        options = options.replace(b"Content-Length: 4", b"Content-Length: 2")
        self.server.receive(options, PEER, self.connection)
        self.assertEqual(self.trunk.last().status, 400)

    def test_a_request_without_content_length_is_400(self):
        options = self.trunk.request("OPTIONS").replace(b"Content-Length: 0\r\n", b"")
        self.server.receive(options, PEER, self.connection)
        self.assertEqual((self.trunk.last().status, self.trunk.last().reason),
                         (400, "Missing Content-Length header"))


class Sockets(unittest.TestCase):
    """The server as a process; the caller has a listening socket for connections back."""

    def setUp(self):
        self.server = Process(self)
        self.listener = self.keep(socket.socket())
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen()
        self.listener.settimeout(SECONDS)
        self.here = "{}:{}".format(*self.listener.getsockname())
        self.rtp = self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.rtp.bind(("127.0.0.1", 0))
        self.framer = Framer()

    def keep(self, sock):
        self.addCleanup(sock.close)
        return sock

    def connect(self):
        return self.keep(socket.create_connection(("127.0.0.1", self.server.port), SECONDS))

    def request(self, method, cseq, to="<sip:echo@127.0.0.1>", body=""):
        return (f"{method} sip:echo@127.0.0.1 SIP/2.0\r\n"
                f"Via: SIP/2.0/TCP {self.here};branch=z9hG4bK{method}{cseq}\r\n"
                f"From: <sip:4711@{self.here}>;tag=t\r\nTo: {to}\r\nCall-ID: {self.here}\r\n"
                f"CSeq: {cseq} {method}\r\nContact: <sip:4711@{self.here};transport=tcp>\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}").encode()

    def invite(self):
        return self.request("INVITE", 1, body="v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\n"
                            "c=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                            f"m=audio {self.rtp.getsockname()[1]} RTP/AVP 8\r\n")

    def receive(self, sock, wanted):
        """Return the first message whose status or method is wanted."""
        while True:
            data = sock.recv(65536)
            self.assertTrue(data, "the connection was closed")
            for message in map(SIPMessage, self.framer.feed(data)):
                if wanted in (message.status, message.is_request() and message.method()):
                    return message

    def test_a_call_in_pieces_is_set_up_and_torn_down(self):
        sock = self.connect()
        for at in range(0, len(self.invite()), 100):
            sock.sendall(self.invite()[at:at + 100])
        ok = self.receive(sock, 200)
        sock.sendall(self.request("ACK", 1, ok.header("To")) + b"\r\n\r\n"
                     + self.request("BYE", 2, ok.header("To")))
        self.assertEqual(self.receive(sock, 200).method(), "BYE")
        self.server.wait_for("began: SIP/TCP 127.0.0.1")
        self.server.wait_for("the caller hung up")

    def test_a_bye_finds_the_contact_when_the_connection_is_gone(self):
        sock = self.connect()
        sock.sendall(self.invite())
        sock.sendall(self.request("ACK", 1, self.receive(sock, 200).header("To")))
        self.server.wait_for("began")
        sock.close()
        other = self.connect()  # what it sends is read behind the end of the first connection
        for _ in range(20):
            other.sendall(self.request("OPTIONS", 7).replace(b"OPTIONS7", b"%d" % time.time_ns()))
            self.receive(other, 200)
        self.server.process.send_signal(signal.SIGINT)
        back = self.keep(self.listener.accept()[0])
        back.settimeout(SECONDS)
        bye = self.receive(back, "BYE")
        copied = "".join(f"{name}: {bye.header(name)}\r\n" for name in ("Via", "CSeq"))
        back.sendall(f"SIP/2.0 200 OK\r\n{copied}Content-Length: 0\r\n\r\n".encode())
        self.assertEqual(self.server.process.wait(SECONDS), 0)

    def test_a_stream_that_is_not_sip_ends_the_connection_alone(self):
        bad, good = self.connect(), self.connect()
        bad.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(bad.recv(1000), b"")
        options = self.request("OPTIONS", 1)
        good.sendall(options.replace(b"Content-Length: 0\r\n", b""))
        self.assertEqual(self.receive(good, 400).reason, "Missing Content-Length header")
        self.assertEqual(good.recv(1000), b"")
        third = self.connect()
        third.sendall(options + b"\r\n\r\n")
        self.receive(third, 200)

    def test_a_keepalive_is_answered(self):
        sock = self.connect()
        sock.sendall(b"\r\n\r\n")
        self.assertEqual(sock.recv(10), b"\r\n")


class Stalled(unittest.TestCase):
    def test_half_a_message_may_not_wait_for_ever_and_an_idle_connection_may(self):
        self.addCleanup(setattr, tcp, "HALF_SECONDS", tcp.HALF_SECONDS)
        tcp.HALF_SECONDS = 0.05
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        took, ended = threading.Event(), threading.Event()
        connection = Connection(PEER, lambda *args: took.set(), lambda conn: ended.set(), ours)
        self.addCleanup(connection.close)
        connection.start()
        theirs.sendall(ONE)
        self.assertTrue(took.wait(5))
        connection.taken()
        self.assertFalse(ended.wait(0.25))  # nothing more came, several times over
        with self.assertLogs("siprtp.sip.tcp", "WARNING") as logged:
            for at in range(1000):  # a byte now and then does not help
                if ended.wait(0.02):
                    break
                theirs.sendall(ONE[at:at + 1])
            self.assertTrue(ended.wait(5))
        self.assertIn("no whole message", logged.output[0])

    def test_a_connection_that_never_sends_a_message_is_ended(self):
        self.addCleanup(setattr, tcp, "HALF_SECONDS", tcp.HALF_SECONDS)
        tcp.HALF_SECONDS = 0.05
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ended = threading.Event()
        connection = Connection(PEER, None, lambda conn: ended.set(), ours)
        self.addCleanup(connection.close)
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):
            connection.start()
            self.assertTrue(ended.wait(5))

    def test_a_connection_reads_no_more_than_the_sip_thread_takes(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        got, full, more = [], threading.Event(), threading.Event()

        def take(data, connection):
            got.append(data)
            if len(got) == tcp.MAX_UNREAD:
                full.set()
            elif len(got) > tcp.MAX_UNREAD:
                more.set()

        connection = Connection(PEER, take, lambda conn: None, ours)
        self.addCleanup(connection.close)
        self.addCleanup(connection.stop)
        connection.start()
        theirs.sendall(TWO * 20)
        self.assertTrue(full.wait(SECONDS))
        self.assertFalse(more.wait(0.2))
        connection.taken()
        self.assertTrue(more.wait(SECONDS))

    def test_a_connection_that_sends_too_much_is_read_more_slowly(self):
        transport = TCPTransport(None, lambda *args: heard, Admission((), "", 10, Clock()))
        connection, sent = Connection(("127.0.0.2", 5060), lambda *args: None, None), []
        connection.send = lambda data: sent.append(data) or True
        with mock.patch("siprtp.sip.tcp.time.sleep") as slept:
            for heard in (True, False):
                transport._take(ONE, connection)
                connection._pass_on(TWO)
                self.assertEqual(slept.called, not heard)
            slept.reset_mock()
            transport._take(b"", connection)  # a keepalive, and one too many
            connection._pass_on(TWO)
            self.assertEqual((sent, slept.called), ([b"\r\n"], False))
            with self.assertLogs("siprtp.sip.admission", "WARNING"):
                transport._take(b"", connection)
            connection._pass_on(TWO)
            self.assertEqual((sent, slept.called), ([b"\r\n"], True))

    def test_what_a_dead_connection_does_not_take_goes_by_a_new_one(self):
        dead = StandIn()
        dead.send = lambda data: False
        transport = TCPTransport(lambda *args: None, None, None)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.settimeout(5)
            transport.send(b"hello", TCPHop(*listener.getsockname(), dead))
            back, _ = listener.accept()
            with back:
                back.settimeout(5)
                self.assertEqual(back.recv(100), b"hello")
        self.addCleanup(transport.close)

    def test_a_peer_that_does_not_read_is_cut_off_and_blocks_no_other(self):
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        ended = threading.Event()
        connection = Connection(PEER, lambda *args: None, lambda conn: ended.set(), ours)
        connection.start()
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):
            for _ in range(1000):
                connection.send(b"x" * 60000)
        self.assertFalse(connection.open)
        self.assertTrue(ended.wait(5))
        connection.close()

    def test_an_accepted_connection_sends_at_once_and_much_and_notices_a_dead_peer(self):
        transport = TCPTransport(lambda *args: None, None, None)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            with socket.create_connection(listener.getsockname()):
                sock, address = listener.accept()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 46080)  # as by Ethernet
                with self.assertLogs("siprtp.sip.tcp", "INFO"):
                    connection = transport._begin(address, sock)
                self.addCleanup(connection.close)
                self.assertGreater(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 200000)
                self.assertTrue(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
                self.assertTrue(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def test_a_connection_of_no_peer_of_ours_is_closed_at_once(self):
        closed, ours = [], StandIn()
        ours.close = lambda: closed.append(True)
        transport = TCPTransport(None, None, Admission([ip_network("192.0.2.10")], "", 0, Clock()))
        with self.assertLogs("siprtp.sip.admission", "WARNING"):
            transport._take_connection(("192.0.2.66", 40000), ours)
        self.assertEqual((closed, len(transport)), ([True], 0))

    def test_unverified_peers_cannot_take_all_connections(self):
        begun, ours, admission = [], StandIn(), Admission((), "", 0, Clock())
        ours.close = lambda: begun.append("closed")
        transport = TCPTransport(None, None, admission)
        transport._begin = lambda address, sock: begun.append(address[0])

        def held(count, address, sock):
            one = Connection((address, 1), None, None, sock)
            return {(address, port): one for port in range(count)}

        transport._connections = held(tcp.MAX_PER_PEER, "10.0.0.1", ours)
        transport._connections.update(held(tcp.MAX_CONNECTIONS, "10.0.3.1", None))
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):
            transport._take_connection(("10.0.0.1", 40000), ours)
        transport._take_connection(("10.0.0.2", 40000), ours)
        rest = tcp.MAX_UNVERIFIED - tcp.MAX_PER_PEER
        transport._connections.update(held(rest, "10.0.1.1", ours))
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):
            transport._take_connection(("10.0.0.2", 40000), ours)
        admission.verify(("10.0.0.1", 5060))
        transport._take_connection(("10.0.0.1", 40000), ours)
        transport._connections.update(held(tcp.MAX_PER_KNOWN, "10.0.0.1", ours))
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):
            transport._take_connection(("10.0.0.1", 40000), ours)
        self.assertEqual(begun, ["closed", "10.0.0.2", "closed", "10.0.0.1", "closed"])
        del transport._begin
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):  # and we open no more than that
            self.assertIsNone(transport._begin(("10.0.4.1", 5060), None))
        transport._connections = held(tcp.MAX_PER_PEER, "10.0.3.1", None)
        with self.assertLogs("siprtp.sip.tcp", "WARNING"):  # nor that many to one
            self.assertIsNone(transport._begin(("10.0.3.1", 5060), None))

    def test_a_connection_that_cannot_be_made_is_forgotten(self):
        posted = []
        transport = TCPTransport(lambda *args: posted.append(args), None, None)
        with socket.socket() as taken:  # bound and not listening: refused
            taken.bind(("127.0.0.1", 0))
            with self.assertLogs("siprtp.sip.tcp", "WARNING"):
                connection = transport._begin(taken.getsockname(), None)
                connection.send(b"lost")
                while not posted:
                    threading.Event().wait(0.01)
        function, *args = posted[0]
        function(*args)
        self.assertEqual(len(transport), 0)


if __name__ == "__main__":
    unittest.main()
