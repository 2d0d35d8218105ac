"""Shared by the tests: a server without sockets, a clock that a test sets, and a trunk.

Trunk is the peer of that server: it writes requests as they look on the wire and reads what came
back, as SIPMessages.
"""

import random
import socket
import time

from server import SIPServer
from sip_message import SIPMessage
from siprtp.agreement import NOTHING
from siprtp.config import Config
from siprtp.media.flow import Flow
from siprtp.media.rtcp import Reception

PEER = ("192.0.2.10", 5060)
OFFER = (b"v=0\r\no=trunk 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n"
         b"m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
         b"a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n")


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Media:
    """Stands in for an RTPSession: remembers its calls, has no socket and no thread."""

    def __init__(self, port, peer_ip):
        self.port, self.peer_ip = port, peer_ip
        self.flow = Flow(NOTHING)
        self.flows = []
        self.started = self.stopped = 0
        self.mute = False
        self.packets_out = self.bytes_out = self.reports = 0
        self.received, self.round_trip = Reception(), None

    @property
    def packets_in(self):
        return self.received.packets

    def update(self, agreement):
        self.flow = Flow(agreement)
        self.flows.append(self.flow)

    def start(self, thread, tick=None):
        if tick:
            thread.tick(tick)
        else:
            self.thread = thread
            self.started += 1

    def stop(self):
        self.stopped += 1

    def report(self, now):
        self.reports += 1


class Server(SIPServer):
    """The server as it is, but what it sends is kept in a list and its media are stand-ins."""

    def __init__(self, clock, bot=None, **environ):
        environ.setdefault("BIND_IP", "192.0.2.1")
        environ.setdefault("ALLOWED_PEERS", "0.0.0.0/0, ::/0")
        super().__init__(Config.from_env(environ), bot, clock)
        self.sent, self.media_made = [], []
        self.calls.open_media = self._open_media

    def send(self, data, address):
        self.sent.append((data, address))

    def call_soon(self, function, *args):
        self._posted.put((function, *args))

    def _open_media(self, peer_ip):
        self.media_made.append(Media(20000 + 2 * len(self.media_made), peer_ip))
        return self.media_made[-1]


class Trunk:
    """The other side of the wire, at PEER, with one dialog's worth of state.

    known: it had a call before.
    """

    def __init__(self, bot=None, known=True, **environ):
        self.clock = Clock()
        self.server = Server(self.clock, bot, **environ)
        if known:
            self.server.admission.verify(PEER)
        self.branches = 0

    def send(self, data, source=PEER):
        """Deliver a datagram; return the messages that came back for it."""
        seen = len(self.server.sent)
        self.server.guard(self.server.receive, data, source)
        self.server.run_due()
        return self.answers(seen)

    def answers(self, start=0):
        return [SIPMessage(data) for data, _ in self.server.sent[start:]]

    def last(self):
        return SIPMessage(self.server.sent[-1][0])

    def advance(self, seconds):
        """Let time pass; return the messages that were sent meanwhile as (time passed, message)."""
        start, end, sent = self.clock.now, self.clock.now + seconds, []
        while True:
            seen = len(self.server.sent)
            wait = self.server.run_due()
            sent += [(round(self.clock.now - start, 3), m) for m in self.answers(seen)]
            if wait is None or self.clock.now + wait > end:
                break
            self.clock.now += wait
        self.clock.now = end
        return sent

    def request(self, method, cseq=1, body=b"", headers=(), **parts):
        """Return a request's bytes; parts: uri, branch, via, from_tag, to_tag, call_id, contact."""
        self.branches += 1
        branch = parts.get("branch", f"z9hG4bK{method}{self.branches}")
        to_tag = parts.get("to_tag", "")
        lines = [
            f"{method} {parts.get('uri', 'sip:1000@192.0.2.1')} SIP/2.0",
            f"Via: {parts.get('via', f'SIP/2.0/UDP 192.0.2.10:5060;branch={branch}')}",
            f"From: \"Alice\" <sip:4711@192.0.2.10>;tag={parts.get('from_tag', 'alice')}",
            "To: <sip:1000@192.0.2.1>" + (f";tag={to_tag}" if to_tag else ""),
            f"Call-ID: {parts.get('call_id', 'call-1@192.0.2.10')}",
            f"CSeq: {cseq} {method}",
            "Max-Forwards: 70",
        ]
        if parts.get("contact", True):
            lines.append(f"Contact: <{parts.get('contact', 'sip:4711@192.0.2.10:5060')}>")
        lines += headers
        if body and not any(line.lower().startswith("content-type") for line in headers):
            lines.append("Content-Type: application/sdp")
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def say(self, method, *args, **parts):
        """Deliver a request; return the messages that came back."""
        return self.send(self.request(method, *args, **parts))

    def call(self, body=OFFER, ack_body=b"", **parts):
        """Set a call up to the ACK; return its Call."""
        ok = self.say("INVITE", body=body, **parts)[-1]
        assert ok.status == 200, ok.start_line
        self.say("ACK", body=ack_body, to_tag=ok.to_tag, **parts)
        return list(self.server.calls)[-1]


def free_port(ip):
    """Return a port that is free for UDP and TCP at ip.

    It lies below the ports that the kernel gives to sockets by itself: one of these could be taken
    before the process it is meant for binds it.
    """
    for port in random.sample(range(28000, 30000), 100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, \
                socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            try:
                udp.bind((ip, port))
                tcp.bind((ip, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port of {ip} is free for both UDP and TCP")


def wait_until(condition, seconds=5):
    """Let the other threads run until condition() holds, but no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0)


def statuses(messages):
    return [message.status for message in messages]


def offer(direction="sendrecv", ip="192.0.2.10", port=4000, formats="8 101", extra=""):
    """Return an SDP body with one audio line."""
    return (f"v=0\r\no=trunk 1 2 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP {formats}\r\na=rtpmap:101 telephone-event/8000\r\n"
            f"a={direction}\r\n{extra}").encode()
