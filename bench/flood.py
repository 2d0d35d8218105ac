"""Measure what floods do to calls in progress: `python bench/flood.py` floods a server.

    python bench/flood.py --seconds 60                  eight floods, 20,000 datagrams/s each
    python bench/flood.py --kinds INVITE --sources 1000 --rate 5000

A flood sends INVITEs, OPTIONS, BYEs or garbage, from one source and from many (addresses and ports
of 127.0.0.0/8). Meanwhile a trunk has calls in progress (bench/load.c, 50 packets/s each) and sends
OPTIONS every second, retransmitted by RFC 3261 17.1.2.2. Each row of the result shows

    how many of the calls' audio packets were lost
    how many OPTIONS were answered, and how many of them without a retransmission ("at once")
    how many bytes the flood got back for each byte it sent
    what the server holds before the flood, and after it, when all timers have run out

The server runs on the first core, all else on the last; it takes its settings from the environment.
The exit status is 1 if a call failed, more than 0.1 % of the audio was lost, an OPTIONS was not
answered, more than three bytes came back for one, or something was not released. Needs Linux and
gcc; uses the loopback only.
"""

import argparse
import json
import os
import pathlib
import random
import select
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import run

TRUNK = run.ADDRESS.rpartition(".")[0] + ".2"
SERVER = run.ADDRESS, run.PORT
SDP = ("v=0\r\no=- 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\n"
       "m=audio 4000 RTP/AVP 8 0 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n"
       "a=rtpmap:101 telephone-event/8000\r\n")
ROW = ("| {} | {} | {rate:.0f} | {lost} of {sent} | {k.answered} of {k.asked}, {k.at_once} "
       "| {back:.2f} | {cpu:.0f} % | {before.memory}, {busy.memory}, {after.memory} | {} |")
KINDS = ("INVITE", "OPTIONS", "BYE", "garbage")
TIMERS = 70  # seconds until a call without an ACK has ended: twice 64*T1, and a little
T1, T2, TIMEOUT = 0.5, 4.0, 32.0


def message(method, number, here):
    """Return a new request as bytes. number: makes it unique; here: (ip, port) of its sender."""
    body = SDP.format(here[0]) if method == "INVITE" else ""
    tag = ";tag=0123456789abcdef" if method == "BYE" else ""
    return (f"{method} sip:1000@{run.ADDRESS} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {here[0]}:{here[1]};branch=z9hG4bK-{number};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: \"Nobody\" <sip:{number}@{here[0]}>;tag={number}\r\n"
            f"To: <sip:1000@{run.ADDRESS}>{tag}\r\nCall-ID: {number}@{here[0]}\r\n"
            f"CSeq: 1 {method}\r\nContact: <sip:{here[0]}:{here[1]}>\r\n"
            + ("Content-Type: application/sdp\r\n" if body else "")
            + f"Content-Length: {len(body)}\r\n\r\n{body}").encode()


class Flood:
    """Sends datagrams of one kind from many sources, and counts the bytes both ways."""

    def __init__(self, kind, sources, rate):
        self.kind, self.rate, self.socks, self.poll = kind, rate, [], select.epoll()
        for number in range(sources):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((f"127.{200 + number % 7}.{number // 250 % 250}.{1 + number % 250}", 0))
            sock.setblocking(False)
            self.socks.append((sock, sock.getsockname()))
            self.poll.register(sock, select.EPOLLIN)
        self.by_fd = {sock.fileno(): sock for sock, _ in self.socks}
        self.sent = self.bytes_out = self.bytes_in = 0

    def send(self, count):
        for _ in range(count):
            self.sent += 1
            sock, here = self.socks[self.sent % len(self.socks)]
            if self.kind == "garbage":
                data = random.getrandbits(8 * 400).to_bytes(400, "big")
            else:
                data = message(self.kind, self.sent, here)
            try:
                self.bytes_out += sock.sendto(data, SERVER)
            except BlockingIOError:
                self.sent -= 1

    def take(self):
        for fd, _ in self.poll.poll(0):
            try:
                while True:
                    self.bytes_in += len(self.by_fd[fd].recv(65535))
            except OSError:
                continue

    def close(self):
        self.poll.close()
        for sock, _ in self.socks:
            sock.close()


class Keepalive:
    """Sends a trunk's OPTIONS, one per second, and counts the answers."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((TRUNK, 0))
        self.sock.setblocking(False)
        self.waiting, self.asked, self.answered, self.at_once = {}, 0, 0, 0
        self.next = 0.0

    def look(self, now, asking=True):
        try:
            while True:
                words = self.sock.recv(65535).decode().partition("branch=z9hG4bK-")[2]
                ask = self.waiting.pop(words.partition(";")[0], None)
                if ask:
                    self.answered += 1
                    self.at_once += ask["sent"] == 1
        except OSError:
            pass
        if asking and now >= self.next:
            self.next, self.asked = now + 1, self.asked + 1
            name = f"ask{self.asked}x{random.getrandbits(32)}"
            self.waiting[name] = {"data": message("OPTIONS", name, self.sock.getsockname()),
                                  "due": now, "wait": T1, "sent": 0, "end": now + TIMEOUT}
        for name, ask in list(self.waiting.items()):
            if now > ask["end"]:
                del self.waiting[name]
            elif now >= ask["due"]:
                self.sock.sendto(ask["data"], SERVER)
                ask["due"], ask["wait"] = now + ask["wait"], min(2 * ask["wait"], T2)
                ask["sent"] += 1


def drive(flood, seconds, load, cores, options, server):
    """Run a flood for the given seconds beside the calls of `load`; return a row's figures."""
    keepalive, result = Keepalive(), None
    before = run.Sample(server.pid, server.pid)
    command = load + ["-t", str(seconds + 2)]
    with run.running(command, cores, options, stdout=subprocess.PIPE) as generator:
        assert "begin" in generator.stdout.readline(), "the trunk's calls did not come up"
        begun = time.monotonic()
        busy = run.Sample(server.pid, server.pid)
        while time.monotonic() < begun + seconds:
            now = time.monotonic()
            flood.send(min(int((now - begun) * flood.rate) - flood.sent, flood.rate // 50))
            flood.take()
            keepalive.look(now)
            time.sleep(0.001)
        done = run.Sample(server.pid, server.pid)
        for line in generator.stdout:
            if line.startswith("{"):
                result = json.loads(line)
    end = time.monotonic() + (TIMERS if flood.kind == "INVITE" else TIMEOUT + 3)
    while time.monotonic() < end:
        flood.take()
        keepalive.look(time.monotonic(), asking=False)
        time.sleep(0.05)
    keepalive.sock.close()
    return dict(result, before=before, busy=done, after=run.Sample(server.pid, server.pid),
                rate=flood.sent / seconds, cpu=(done.cpu - busy.cpu) / (done.at - busy.at) * 100,
                back=flood.bytes_in / (flood.bytes_out or 1), keepalive=keepalive)


def faults(row):
    """Return the harm that a flood did, as texts."""
    keepalive, before, after = row["keepalive"], row["before"], row["after"]
    return [text for wrong, text in (
        (row["failed"], f"{row['failed']} calls of the trunk failed"),
        (row["lost"] > row["sent"] / 1000, f"{row['lost']} of {row['sent']} packets lost"),
        (keepalive.answered < keepalive.asked, "OPTIONS not answered"),
        (row["back"] > 3, "more than three bytes for one"),
        (after.sockets > before.sockets, "sockets not released"),
        (after.threads > before.threads, "threads not ended")) if wrong]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--sources", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--rate", type=int, default=20000, help="datagrams per second")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--calls", type=int, default=50, help="the trunk's calls in progress")
    options = parser.parse_args()
    options.realtime, wrong = False, []  # for run.running
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    env = dict({"LOG_LEVEL": "info", "DRAIN_SECONDS": "0"}, **os.environ)
    env.update(BIND_IP=run.ADDRESS, SIP_PORT=str(run.PORT))
    print("| flood | sources | datagrams/s | audio lost | OPTIONS answered, at once | bytes back "
          "for one | CPU | memory before, in it, after, kB | log lines |\n" + "|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder, open(f"{folder}/log", "w") as log:
        load = [run.build(folder)[0], "-s", f"{run.ADDRESS}:{run.PORT}", "-l", TRUNK,
                "-n", str(options.calls), "-r", "50"]
        command = [sys.executable, str(run.HERE.parent / "server.py")]
        server = subprocess.Popen(command, env=env, stderr=log,
                                  preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]))
        try:
            run.wait_for(server)
            for kind in ["none", *options.kinds]:  # without a flood, for comparison
                for sources in options.sources if kind != "none" else [1]:
                    lines = pathlib.Path(log.name).read_text().count("\n")
                    flood = Flood(kind, sources, options.rate if kind != "none" else 0)
                    row = drive(flood, options.seconds, load, cores[-1:], options, server)
                    flood.close()
                    lines = pathlib.Path(log.name).read_text().count("\n") - lines
                    print(ROW.format(kind, sources, lines, k=row["keepalive"], **row), flush=True)
                    wrong += [f"{kind}, {sources} sources: {text}" for text in faults(row)]
        finally:
            server.terminate()
            server.wait(10)
    print("\n".join(wrong) or "the calls took no harm, and everything was released")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
