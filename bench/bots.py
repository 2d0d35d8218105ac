"""Measure how evenly bots send: `python bench/bots.py` runs many bots at once.

It starts the server, calls it, and prints the gaps between the packets of each call, by the
kernel's receive timestamps, and how long the server takes to answer OPTIONS. --pinned keeps the
server on the first core this process may use, and the callers on the last. --compute adds bots
that compute in pure Python, --garbage adds bots that leave cycles to the garbage collector; the
calls of these extra bots are not measured. --loss and --jitter worsen what the callers send. Needs
Linux; uses the loopback only; takes less than a minute.
"""

import argparse
import heapq
import os
import random
import re
import resource
import socket
import struct
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from rtp import RTPPacket  # noqa: E402
from siprtp.media import codec  # noqa: E402
from siprtp.media.arrival import SO_TIMESTAMP, arrival_of  # noqa: E402

HERE, SERVER = "127.0.0.2", "127.0.0.1"
SECOND = struct.pack("<8000h", *(300 * (n % 40 - 20) for n in range(8000)))  # a saw
SECOND_24 = struct.pack("<24000h", *(100 * (n % 120 - 60) for n in range(24000)))
ASK_EVERY = 10  # ticks of 20 ms between two OPTIONS


def answer(call):
    """Serve a call by the bot that its number names."""
    call.answer()
    BOTS[call.called](call)


def play(call):
    """Play audio of TALK seconds, then hang up."""
    call.say(SECOND * int(os.environ["TALK"]))


def talk24(call):
    """Play as much audio at 24000 Hz, chunk by chunk, as speech services send it."""
    chunk = SECOND_24[:4800]  # 100 ms
    call.say((chunk for _ in range(10 * int(os.environ["TALK"]))), rate=24000)


def listen(call):
    """Say each utterance back until the caller hangs up."""
    for utterance in call.utterances():
        call.say(utterance.pcm)


def compute(call):
    """Compute in pure Python until the caller hangs up."""
    while not call.ended:
        sum(number * number for number in range(100000))


def litter(call):
    """Keep the garbage collector busy, with many objects that live on."""
    kept = [[] for _ in range(300000)]
    while not call.ended:
        for _ in range(1000):
            cycle = [kept]
            cycle.append(cycle)
        time.sleep(0.01)


BOTS = {function.__name__: function for function in (play, talk24, listen, compute, litter)}


class Callers:
    """All callers, on one SIP and one RTP socket; the server's RTP port tells the calls apart."""

    def __init__(self, port):
        self.sip, self.rtp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12")
        for sock in (self.sip, self.rtp):
            sock.bind((HERE, 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.rtp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)
        self.rtp.setblocking(False)
        self.sip.settimeout(5)
        self.server, self.ports, self.ended = (SERVER, port), [], 0
        self.seen = {}  # the server's RTP port: [(arrival, sequence)], of the calls to measure
        self.asked, self.answered = {}, []  # number of an OPTIONS: when it was sent; seconds taken

    def message(self, method, number, bot="x", to="<sip:bot@x>", body=""):
        here = "{}:{}".format(*self.sip.getsockname())
        return (f"{method} sip:{bot}@x SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{method}"
                f"{number}\r\nFrom: <sip:{number}@x>;tag=t\r\nTo: {to}\r\nCall-ID: {number}\r\n"
                f"CSeq: 1 {method}\r\nContact: <sip:{here}>\r\nContent-Type: application/sdp\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}").encode()

    def call(self, number, bot, measured=True):
        port = self.rtp.getsockname()[1]
        self.sip.sendto(self.message("INVITE", number, bot, body=(
            f"v=0\r\no=- 1 1 IN IP4 {HERE}\r\ns=-\r\nc=IN IP4 {HERE}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP 8\r\n")), self.server)
        while True:
            text = self.sip.recv(65535).decode()
            if text.startswith("SIP/2.0 200") and f"Call-ID: {number}\r\n" in text:
                break
        to = re.search(r"^To: (.*)\r$", text, re.M).group(1)
        self.sip.sendto(self.message("ACK", number, to=to), self.server)
        self.ports.append(int(re.search(r"^m=audio (\d+)", text, re.M).group(1)))
        if measured:
            self.seen[self.ports[-1]] = []

    def ask(self, tick):
        """Send an OPTIONS."""
        self.asked[f"options{tick}"] = time.monotonic()
        self.sip.sendto(self.message("OPTIONS", f"options{tick}"), self.server)

    def run(self, seconds, loss, jitter):
        """Send 50 packets/s per call and receive for the given seconds. loss: 0 to 1; jitter: s."""
        self.sip.setblocking(False)
        voice = codec.encode_pcma(struct.pack("<160h", *(8 * (n % 7) for n in range(160))))
        begun, line, tick = time.monotonic(), [], 0
        while time.monotonic() < begun + seconds:
            for number, port in enumerate(self.ports):
                if random.random() >= loss:
                    at = begun + tick * 0.020 + number * 0.020 / len(self.ports)
                    heapq.heappush(line, (at + random.random() * jitter, port, tick))
            if tick % ASK_EVERY == 0:
                self.ask(tick)
            tick += 1
            while time.monotonic() < begun + tick * 0.020:
                while line and line[0][0] <= time.monotonic():
                    _, port, number = heapq.heappop(line)
                    self.rtp.sendto(RTPPacket(8, number & 0xFFFF, number * 160, port, voice)
                                    .serialize(), (SERVER, port))
                self.take()
                time.sleep(0.001)

    def take(self):
        try:
            while True:
                data, ancillary, _, source = self.rtp.recvmsg(2048, 64)
                if source[1] in self.seen:
                    self.seen[source[1]].append((arrival_of(ancillary),
                                                 RTPPacket.parse(data).sequence))
        except BlockingIOError:
            pass
        try:
            while True:
                text = self.sip.recv(65535).decode()
                number = re.search(r"^Call-ID: (.*)\r$", text, re.M).group(1)
                if number in self.asked:
                    self.answered.append(time.monotonic() - self.asked.pop(number))
                elif text.startswith("BYE"):
                    self.ended += 1
                    lines = [line for line in text.split("\r\n")
                             if line.startswith(("Via", "From", "To", "Call-ID", "CSeq"))]
                    self.sip.sendto("\r\n".join(["SIP/2.0 200 OK", *lines, "", ""]).encode(),
                                    self.server)
        except BlockingIOError:
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=10, help="of audio that the bots play")
    parser.add_argument("--bot", default="play", choices=["play", "talk24", "listen"])
    parser.add_argument("--talk24", dest="bot", action="store_const", const="talk24",
                        help="the same as --bot talk24: speech at 24 kHz")
    parser.add_argument("--compute", type=int, default=0, help="extra bots that compute")
    parser.add_argument("--garbage", type=int, default=0, help="extra bots that leave garbage")
    parser.add_argument("--pinned", action="store_true", help="one core each: server, callers")
    parser.add_argument("--unpinned", dest="pinned", action="store_false", help="the default")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the callers' packets")
    parser.add_argument("--jitter", type=float, default=0.0, help="ms, added by the callers")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    pin = ["taskset", "-c", str(cores[0])] if options.pinned else []
    server = subprocess.Popen(
        [*pin, sys.executable, "server.py"], cwd=ROOT,
        stderr=subprocess.PIPE, universal_newlines=True,
        env=dict(os.environ, BIND_IP=SERVER, SIP_PORT="0", BOT="bench.bots:answer",
                 TALK=str(options.seconds), LOG_LEVEL="warning", PYTHONPATH=ROOT,
                 DRAIN_SECONDS="0"))
    if options.pinned:
        os.sched_setaffinity(0, cores[-1:])
    try:
        callers = Callers(find_port(server.pid))
        for number in range(options.calls):
            callers.call(number, options.bot)
        for number in range(options.compute):
            callers.call(f"compute{number}", "compute", measured=False)
        for number in range(options.garbage):
            callers.call(f"litter{number}", "litter", measured=False)
        callers.run(options.seconds + 2.0, options.loss / 100, options.jitter / 1000)
    finally:
        server.terminate()
        complaints = server.communicate(timeout=10)[1]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    show(callers, options, used.ru_utime + used.ru_stime)
    print(complaints, end="")


def find_port(pid, seconds=10):
    """Return the UDP port that a process has bound, by /proc; wait for it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        inodes = set()
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue
        with open("/proc/net/udp") as table:
            for row in list(table)[1:]:
                words = row.split()
                if f"socket:[{words[9]}]" in inodes:
                    return int(words[1].partition(":")[2], 16)
    raise SystemExit("the server did not start")


def show(callers, options, cpu):
    gaps, lost, frames = [], 0, 0
    for packets in callers.seen.values():
        frames += len(packets)
        for (before, last), (now, sequence) in zip(packets, packets[1:]):
            gaps.append((now - before) * 1000)
            lost += (sequence - last - 1) & 0xFFFF
    gaps.sort()
    off = sorted(abs(gap - 20) for gap in gaps)
    print(f"{options.calls} calls, {frames} packets, {lost} lost, {callers.ended} ended; gaps, ms: "
          f"p1 {gaps[len(gaps) // 100]:.2f}, p50 {gaps[len(gaps) // 2]:.2f}, "
          f"p99 {gaps[-len(gaps) // 100]:.2f}, max {gaps[-1]:.2f}; "
          f"off 20 ms by p99 {off[-len(off) // 100]:.2f}; OPTIONS answered "
          f"{len(callers.answered)} of {len(callers.answered) + len(callers.asked)}, the slowest "
          f"in {max(callers.answered, default=0) * 1000:.0f} ms; server {cpu:.1f} s of CPU")


if __name__ == "__main__":
    main()
