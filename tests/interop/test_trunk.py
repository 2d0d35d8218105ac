"""A scripted trunk that plays whole call flows of a call manager, with RTP throughout.

Signalling, media, music on hold and the party transferred to have loopback addresses of their own.
"""

import selectors
import socket
import struct
import threading
import time
from tempfile import TemporaryDirectory

from sip_message import SIPMessage
from tests.interop.support import (
    PATIENCE,
    SERVER_IP,
    Background,
    InteropCase,
    Server,
    undisturbed,
    wait_until,
)

SIGNALLING, MTP, MUSIC, OTHER = (f"127.0.0.{n}" for n in (21, 22, 23, 24))
PERIOD = 0.02  # seconds between packets
LATE = 0.1  # seconds to catch up at most: more would be a burst that no phone sends
HEADER = struct.Struct("!BBHII")
MARK = struct.Struct("!IH")  # at the start of each payload: its call and its source port
CISCO = "Session-Expires:  1800\r\nMin-SE:  1800\r\nSupported: timer,resource-priority,replaces\r\n"
CALLS = 50


class Stream:
    """One RTP socket of a call. sent: [seconds]; heard: [(seconds, SSRC, call, port)]."""

    def __init__(self, ip, number):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((ip, 0))
        self.sock.setblocking(False)
        self.ip, self.port = self.sock.getsockname()
        self.number, self.target, self.sent, self.heard = number, None, [], []

    def talk(self):
        target = self.target
        if target:
            sequence = len(self.sent)
            ssrc = self.port << 8 | self.number  # one SSRC for all would make some packets repeats
            header = HEADER.pack(0x80, 8, sequence & 0xFFFF, sequence * 160, ssrc)
            mark = MARK.pack(self.number, self.port)
            self.sock.sendto(header + mark + b"\xd5" * 154, target)
            self.sent.append(time.monotonic())

    def listen(self):
        data = self.sock.recv(2048)
        if data[1] & 127 == 8:  # it may be RTCP, if the port is the RTCP port of another call
            self.heard.append((time.monotonic(), HEADER.unpack_from(data)[4],
                               *MARK.unpack_from(data, HEADER.size)))


class Media(Background):
    """A thread that sends a packet of every stream each 20 ms, and receives.

    lock: held while they talk.
    """

    def __init__(self):
        super().__init__()
        self._selector, self.lock = selectors.DefaultSelector(), threading.Lock()
        self._streams = []

    def _close(self):
        self._selector.close()
        for stream in self._streams:
            stream.sock.close()

    def stream(self, ip, number):
        stream = Stream(ip, number)
        with self.lock:
            self._streams.append(stream)
            self._selector.register(stream.sock, selectors.EVENT_READ, stream)
        return stream

    def _run(self):
        due = time.monotonic()
        while not self._stopping.is_set():
            with self.lock:
                for stream in self._streams:
                    stream.talk()
            due = max(due + PERIOD, time.monotonic() - LATE)
            while time.monotonic() < due:
                for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                    key.data.listen()


class TrunkCall:
    """One call of the trunk: one request after the other, each answered within seconds."""

    def __init__(self, test, port, number, media):
        self.test, self.server, self.number, self.media = test, (SERVER_IP, port), number, media
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((SIGNALLING, 0))
        self.sock.settimeout(PATIENCE)
        self.here = "{}:{}".format(*self.sock.getsockname())
        self.to, self.uri, self.cseq, self.rtp_port = "", f"sip:1000@{SERVER_IP}", 100, 0
        self.stream = media.stream(MTP, number)

    def sdp(self, stream=None, direction="sendrecv", port=None):
        stream = stream or self.stream
        return (f"v=0\r\no=CiscoSystemsCCM-SIP {self.number} {self.cseq} IN IP4 {SIGNALLING}\r\n"
                f"s=SIP Call\r\nc=IN IP4 {stream.ip}\r\nb=TIAS:64000\r\nb=AS:64\r\nt=0 0\r\n"
                f"m=audio {port or stream.port} RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\n"
                f"a=ptime:20\r\na={direction}\r\na=rtpmap:101 telephone-event/8000\r\n"
                "a=fmtp:101 0-15\r\n")

    def send(self, method, body="", headers=""):
        branch = method if method != "CANCEL" else "INVITE"
        content = "Content-Type: application/sdp\r\n" if body else ""
        self.sock.sendto(
            f"{method} {self.uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self.here};branch=z9hG4bK{branch}{self.cseq:x}{self.number:x}\r\n"
            f"From: <sip:{self.number}@{SIGNALLING}>;tag={self.number}~t\r\n"
            f"To: <sip:1000@{SERVER_IP}>{self.to}\r\nDate: Mon, 23 Nov 2026 05:00:00 GMT\r\n"
            f"Call-ID: abbb8e00-{self.number}@{SIGNALLING}\r\n{headers}"
            f"CSeq: {self.cseq} {method}\r\nMax-Forwards: 69\r\n"
            f"Contact: <sip:{self.number}@{self.here}>\r\n{content}"
            f"Content-Length:  {len(body)}\r\n\r\n{body}".encode(), self.server)

    def request(self, method, body="", headers="", answer=None):
        """Send a request and, for an INVITE, the ACK (with an answer); return the final reply."""
        self.cseq += 1
        self.send(method, body, headers)
        reply = SIPMessage(self.sock.recv(65535))
        # the previous 200 is repeated if a busy machine took T1 to read its ACK
        while reply.status < 200 or reply.cseq[0] < self.cseq:
            reply = SIPMessage(self.sock.recv(65535))
        self.test.assertEqual((reply.status, reply.header("CSeq")), (200, f"{self.cseq} {method}"))
        if method == "INVITE":
            self.to = f";tag={reply.to_tag}"
            self.uri = reply.header("Contact").strip("<>")
            self.rtp_port = int(reply.body.split(b"\r\nm=audio ")[1].split()[0])
            self.send("ACK", answer or "")
        return reply

    def talk(self, stream=None, seconds=0.3):
        """Send from a stream for a while; receive its echo and nothing else."""
        stream = stream or self.stream
        stream.heard.clear()
        stream.target = SERVER_IP, self.rtp_port
        self.test.assertTrue(wait_until(lambda: len(stream.heard) >= seconds / PERIOD))
        self.test.assertEqual({number for _, _, number, _ in stream.heard}, {self.number})

    def hold_and_resume(self):
        """Inactive, music by an offerless re-INVITE, inactive, resume by another, elsewhere."""
        self.stream.target = None
        held = self.request("INVITE", self.sdp(direction="inactive"), CISCO)
        self.test.assertIn(b"a=inactive", held.body)
        music = self.media.stream(MUSIC, self.number)
        offer = self.request("INVITE", headers=CISCO,
                             answer=self.sdp(music, "sendonly", port=4000))
        self.test.assertIn(b"a=sendrecv", offer.body)
        music.target = SERVER_IP, self.rtp_port  # from a port that is in no SDP
        self.test.assertTrue(wait_until(lambda: len(music.sent) > 10))
        self.test.assertEqual(music.heard, [])
        music.target = None
        self.request("INVITE", self.sdp(direction="inactive"), CISCO)
        self.stream = self.media.stream(MTP, self.number)
        self.request("INVITE", headers=CISCO, answer=self.sdp())
        self.talk()

    def transfer(self):
        """Another party at another address takes over the call."""
        self.stream.target = None
        self.stream = self.media.stream(OTHER, self.number)
        self.request("INVITE", self.sdp(), CISCO)
        self.talk()

    def refresh(self, turns):
        """Refresh with UPDATE and re-INVITE by turns, without losing any audio.

        Return the longest gaps, in seconds, in what was sent and in what was heard.
        """
        self.stream.target = None
        self.stream = self.media.stream(self.stream.ip, self.number)
        offer = self.sdp()
        answer = self.request("INVITE", offer, CISCO).body
        self.stream.target = SERVER_IP, self.rtp_port
        for turn in range(turns):
            method, body = (("UPDATE", ""), ("INVITE", offer))[turn % 2]
            again = self.request(method, body, CISCO)
            self.test.assertEqual(again.header("Session-Expires"), "1800;refresher=uac")
            self.test.assertEqual(again.body, answer if body else b"")
            time.sleep(0.03)
        with self.media.lock:
            self.stream.target = None
        sent, heard = self.stream.sent, self.stream.heard
        wait_until(lambda: len(self.echoed()) == len(sent))  # until the last packets are back
        times = self.echoed()
        self.test.assertEqual({number for _, _, number, _ in heard}, {self.number})
        self.test.assertEqual(len({ssrc for _, ssrc, _, _ in heard}), 1)
        self.test.assertEqual(len(times), len(sent))
        self.test.assertGreater(len(sent), turns)
        return longest_gap(sent), longest_gap(times)

    def echoed(self):
        """Return when each packet of the stream came back."""
        # a packet of the previous stream may arrive here, too, if it was on the way at the move
        return [at for at, _, _, port in list(self.stream.heard) if port == self.stream.port]

    def hang_up(self, headers="Reason: Q.850;cause=16\r\n"):
        self.stream.target = None
        ok = self.request("BYE", headers=headers)
        self.sock.close()
        return ok


def longest_gap(times):
    return max(after - before for before, after in zip(times, times[1:]))


class Trunk(InteropCase):
    """Each test is a flow, or many at once."""

    def setUp(self):
        path = self.enter(TemporaryDirectory())
        # fifty calls that refresh as fast as possible exceed the rate limit of a peer
        self.server = self.enter(Server(path, SIP_RATE="0"))
        self.media = self.enter(Media())

    def call(self, number=1):
        return TrunkCall(self, self.server.port, number, self.media)

    def assert_idle(self):
        self.assertTrue(self.server.is_idle_again(), f"{self.server.idle}, {self.server.usage()}")
        self.assertEqual(self.server.complaints(), [])

    def test_early_offer_with_its_media_at_a_termination_point(self):
        call = self.call()
        call.request("INVITE", call.sdp(), CISCO)
        call.talk()
        self.assertIn("PS=", call.hang_up().header("P-RTP-Stat"))
        self.assert_idle()
        self.assertEqual(self.server.ended()[0].why, "the caller hung up (Q.850 cause 16)")

    def test_delayed_offer(self):
        call = self.call()
        call.request("INVITE", headers=CISCO, answer=call.sdp())
        call.talk()
        call.hang_up()
        self.assert_idle()

    def test_no_common_codec_after_a_delayed_offer(self):
        call = self.call()
        call.request("INVITE", headers=CISCO)  # the ACK has no answer
        call.hang_up("Reason: Q.850;cause=47\r\n")
        self.assert_idle()
        self.assertEqual(self.server.ended()[0].why, "the caller hung up (Q.850 cause 47)")

    def test_three_times_hold_with_music_and_resume_and_then_a_transfer(self):
        call = self.call()
        call.request("INVITE", call.sdp(), CISCO)
        call.talk()
        for _ in range(3):
            call.hold_and_resume()
        call.transfer()
        call.hang_up()
        self.assert_idle()

    def test_forty_refreshes_leave_no_gap_in_the_audio(self):
        call = self.call()
        first = call.request("INVITE", call.sdp(), CISCO)
        self.assertEqual(first.header("Session-Expires"), "1800;refresher=uac")
        undisturbed(lambda: self.gap(*call.refresh(40)))
        call.hang_up()
        self.assert_idle()

    def gap(self, sent, heard):
        """Return (None, the longest gap in the echo if the server caused it)."""
        return None, [heard] * (heard > 0.1 + sent)  # the test's own pauses do not count

    def test_fifty_such_calls_at_once_each_get_only_their_own_echo(self):
        done = []

        def play(number):
            call = self.call(number)
            if number % 2:
                call.request("INVITE", call.sdp(), CISCO)
            else:
                call.request("INVITE", headers=CISCO, answer=call.sdp())
            for _ in range(3):
                call.hold_and_resume()
            call.transfer()
            call.refresh(40)
            call.hang_up()
            done.append(number)

        threads = [threading.Thread(target=play, args=(number,)) for number in range(1, CALLS + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(sorted(done), list(range(1, CALLS + 1)), self.server.complaints())
        self.assert_idle()
        self.assertEqual(len(self.server.ended()), CALLS)
