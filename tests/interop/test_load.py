"""500 calls at 50 a second with RTP, and a caller that checks its echo meanwhile."""

import socket
import struct
import time
from tempfile import TemporaryDirectory

from tests.interop.support import RUNS, SERVER_IP, InteropCase, Server, SIPp, wait_until

CALLS, RATE = 500, 50
HEADER = struct.Struct("!BBHII")  # RFC 3550 5.1
FRAME = 160  # bytes: 20 ms of A-law
SSRC = 0x1234ABCD


class Caller:
    """A small SIP caller that compares RTP byte by byte; SIPp can't."""

    def __init__(self, target):
        self._target, self._to_tag = target, ""
        self._sip, self._rtp = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12"]
        for sock in (self._sip, self._rtp):
            sock.bind((SERVER_IP, 0))
            sock.settimeout(5)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._sip.close()
        self._rtp.close()

    def talk(self, payloads):
        """Call, send a packet each 20 ms, hang up; return the packets that came back."""
        answer = self._request("INVITE", 1, "\r\n".join([
            "v=0", f"o=- 1 1 IN IP4 {SERVER_IP}", "s=-", f"c=IN IP4 {SERVER_IP}", "t=0 0",
            f"m=audio {self._rtp.getsockname()[1]} RTP/AVP 8", ""]))
        self._to_tag = ";" + answer.split("\r\nTo: ")[1].split("\r\n")[0].split(";")[-1]
        self._send("ACK", 1)
        port = int(answer.split("\r\nm=audio ")[1].split()[0])
        for number, payload in enumerate(payloads):
            header = HEADER.pack(0x80, 8, 65500 + number & 0xFFFF, number * FRAME, SSRC)
            self._rtp.sendto(header + payload, (self._target[0], port))
            time.sleep(0.02)
        echoes = [self._rtp.recv(2048) for _ in payloads]
        self._request("BYE", 2)
        return echoes

    def _request(self, method, number, body=""):
        """Send a request; return its 2xx."""
        self._send(method, number, body)
        reply = "SIP/2.0 100 "
        while reply.startswith("SIP/2.0 1"):
            reply = self._sip.recv(65535).decode()
        if not reply.startswith("SIP/2.0 200 "):
            raise AssertionError(f"{method} was answered {reply}")
        return reply

    def _send(self, method, number, body=""):
        content = ["Content-Type: application/sdp"] if body else []
        here, there = ("{}:{}".format(*at) for at in (self._sip.getsockname(), self._target))
        self._sip.sendto("\r\n".join([
            f"{method} sip:echo@{there} SIP/2.0",
            f"Via: SIP/2.0/UDP {here};rport;branch=z9hG4bK-{method}", "Max-Forwards: 70", *content,
            f"From: <sip:listener@{here}>;tag=1", f"To: <sip:echo@{there}>{self._to_tag}",
            "Call-ID: listener", f"CSeq: {number} {method}", f"Contact: <sip:listener@{here}>",
            f"Content-Length: {len(body)}", "", body,
        ]).encode(), self._target)


class FiveHundredCalls(InteropCase):
    """The results of SIPp, the server's log and /proc for one run, which all tests share."""

    tools = ("sipp",)
    payloads = [bytes((number + at) % 256 for at in range(FRAME)) for number in range(100)]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for _ in range(RUNS):
            cls.run_calls()
            if not cls.retransmissions:
                break  # otherwise the machine may have paused

    @classmethod
    def run_calls(cls):
        with TemporaryDirectory() as path, Server(path) as server:
            target = SERVER_IP, server.port
            with SIPp(path, "call", target, CALLS, RATE) as sipp, Caller(target) as caller:
                wait_until(lambda: len(server.ended()) > RATE)  # and as many start meanwhile
                cls.busy = server.usage()
                cls.echoes = [(HEADER.unpack_from(data), data[HEADER.size:])
                              for data in caller.talk(cls.payloads)]
                cls.exit_code = sipp.wait()
                cls.idle_again = server.is_idle_again()
                cls.idle, cls.after = server.idle, server.usage()
                cls.retransmissions = sipp.retransmissions()
                cls.counts = sipp.counts()
            cls.began, cls.ended = server.began(), server.ended()
            cls.complaints = server.complaints()

    def test_every_call_succeeds(self):
        self.assertEqual(self.exit_code, 0)
        self.assertEqual(self.counts["7_200_Recv"], CALLS)

    def test_nothing_is_sent_twice_by_either_side(self):
        self.assertEqual(self.retransmissions, {})

    def test_every_call_begins_once(self):
        self.assertEqual(sorted(self.began),
                         sorted(["listener"] + [str(number + 1) for number in range(CALLS)]))

    def test_every_call_ends_by_its_bye(self):
        self.assertEqual(sorted(call.caller for call in self.ended), sorted(self.began))
        self.assertEqual({call.why for call in self.ended}, {"the caller hung up"})

    def test_every_rtp_packet_of_every_call_is_echoed(self):
        self.assertEqual([call for call in self.ended
                          if not 0 < call.packets_in == call.packets_out], [])

    def test_many_calls_are_up_at_once(self):
        self.assertGreater(self.busy.threads, self.idle.threads + 10)
        self.assertGreater(self.busy.files, self.idle.files + 10)

    def test_threads_and_sockets_are_gone_after_the_last_call(self):
        self.assertTrue(self.idle_again, f"{self.idle} before, {self.after} after")

    def test_nothing_worse_than_info_is_logged(self):
        self.assertEqual(self.complaints, [])

    def test_payloads_come_back_byte_for_byte(self):
        self.assertEqual([payload for _, payload in self.echoes], self.payloads)

    def test_echoes_are_pcma(self):
        self.assertEqual({second & 127 for (_, second, _, _, _), _ in self.echoes}, {8})

    def test_echoes_have_one_ssrc_of_their_own(self):
        ssrcs = {ssrc for (_, _, _, _, ssrc), _ in self.echoes}
        self.assertEqual(len(ssrcs), 1)
        self.assertNotIn(SSRC, ssrcs)

    def test_echoes_are_numbered_without_a_gap(self):
        numbers = [sequence for (_, _, sequence, _, _), _ in self.echoes]
        self.assertEqual(numbers, [numbers[0] + at & 0xFFFF for at in range(len(numbers))])

    def test_timestamps_of_echoes_advance_by_a_frame(self):
        times = [timestamp for (_, _, _, timestamp, _), _ in self.echoes]
        self.assertEqual(times, [times[0] + at * FRAME & 0xFFFFFFFF for at in range(len(times))])
