"""The SIP server: one loop for datagrams, timers and posted calls; and main.

All SIP state lives in the thread that runs `serve_forever`; other threads reach it by `call_soon`
alone.
"""

import argparse
import gc
import ipaddress
import logging
import os
import queue
import sched
import signal
import socket
import sys
import threading
import time

try:
    import resource
except ImportError:  # not of Windows
    resource = None

import bot
from sip_message import SIPError, SIPMessage
from sip_response import SIPResponse, TCPHop, response_address, serialize
from sip_utils import new_branch, new_tag
from siprtp import config
from siprtp.calls import Calls
from siprtp.logs import LogThrottle
from siprtp.media import recorder
from siprtp.sip.admission import Admission
from siprtp.sip.auth import Authenticator, hide_credentials
from siprtp.sip.dialog import hop_address, hop_transport
from siprtp.sip.methods import ALLOW, METHODS, NOT_ALLOWED, UNDERSTOOD
from siprtp.sip.tcp import TCPTransport
from siprtp.sip.transaction import ClientTransactions, ServerTransactions
from siprtp.sockets import (
    DSCP_SIP,
    host_port,
    local_address,
    network,
    open_socket,
    plain_ip,
    set_dscp,
)

log = logging.getLogger("server")

MAX_DATAGRAM = 65535  # bytes
PING = b"\r\nMax-Forwards: 0\r\n"  # OPTIONS with it, from our own address, are always answered
MAX_LOOKUPS = 10  # names that are looked up at once for the calls of one source
MAX_TRANSACTIONS = 2000  # beyond, strangers get their answers without one
STOP_SECONDS = 2.0  # how long a stop waits for the answers to our BYEs
# The longest sleep of the loop: Python runs a signal's handler when recvfrom returns, and one that
# arrives just before recvfrom, or in another thread, does not interrupt it. Nor does what is posted
# where the loop can't be woken.
NAP_SECONDS = 1.0
# A call leaves no cycles behind, so garbage is collected for the sake of bots only, and seldom:
# with many calls up each full look at all objects keeps everybody waiting for 100 ms.
GARBAGE = 5000, 50, 100
# how long a bot that computes may keep the others from the interpreter; Python's own 5 ms would
# make a packet of every call that late
SWITCH_SECONDS = 0.0005


class SIPServer:
    """A SIP server on one port, UDP and TCP.

    config: a Config. bot: a function called with the bot.Call of each call, in a thread of its
    own; None for the echo. clock: seconds, monotonic.
    """

    def __init__(self, config, bot=None, clock=time.monotonic):
        self.config, self.clock = config, clock
        self.sock, self.port = None, config.sip_port
        self.running, self._lingers = True, False
        self.stopping = False  # then no new call is taken
        self._posted = queue.SimpleQueue()
        self._timers = sched.scheduler(clock, lambda seconds: None)
        self.log_throttle = LogThrottle(clock, config.sip_rate,
                                        lambda ip: self.admission.has_acked(ip))
        self.admission = Admission(config.allowed_peers, config.reach_ip, config.sip_rate, clock,
                                   self.log_throttle.begin)
        self.transactions = ServerTransactions(self.reply, self.after)
        self.requests = ClientTransactions(self.send, self.after)
        self.tcp = TCPTransport(self.call_soon, self.receive, self.admission)
        self.calls = Calls(self, bot)
        self.authenticator = None
        if config.sip_password_file:
            self.authenticator = Authenticator(config.sip_password_file, clock, self.after,
                                               config.sip_digest)

    # The loop

    def open(self):
        """Bind the SIP port, UDP and TCP. Raises OSError."""
        for attempt in range(20):
            try:
                self._bind()
                return
            except OSError:
                if self.sock:
                    self.sock.close()
                if self.config.sip_port or attempt == 19:
                    raise  # only where any port will do, the next may be free for both

    def _bind(self):
        self.sock = open_socket(self.config.bind_ip, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # what bursts need
        set_dscp(self.sock, DSCP_SIP)
        self.sock.bind((self.config.bind_ip, self.config.sip_port))
        self.port = self.sock.getsockname()[1]
        self.tcp.listen(self.config.bind_ip, self.port)

    def serve_forever(self):
        """Serve until `drain`, `stop` or `end` is through; then close everything."""
        try:
            while True:
                seconds = self.run_due()
                if not self.running:
                    break
                nap = NAP_SECONDS if seconds is None else min(seconds, NAP_SECONDS)
                self._receive_one(nap if self._posted.empty() else 0)
        finally:
            for call in self.calls:
                call.media.stop()
            self.tcp.close()
            self.sock.close()

    def run_due(self):
        """Run what was posted and is due; return the seconds to the next timer, None for none."""
        for _ in range(self._posted.qsize()):  # what is posted meanwhile waits for a datagram
            self.guard(*self._posted.get())
        return self._timers.run(blocking=False)

    def _receive_one(self, seconds):
        self.sock.settimeout(seconds)
        try:
            data, address = self.sock.recvfrom(MAX_DATAGRAM)
        except (socket.timeout, BlockingIOError):
            return
        except OSError as error:
            log.warning("nothing received: %s", error)
            return
        if data.strip(b"\r\n\0"):
            self.guard(self.receive, data, address[:2])

    def guard(self, function, *args):
        """Call function; what it raises is logged and ends nothing else."""
        try:
            function(*args)
        except Exception:
            log.exception("%s failed", getattr(function, "__name__", function))
        finally:
            self.log_throttle.end()

    def after(self, seconds, function, *args):
        """Call function(*args) in the SIP thread when so many seconds have passed."""
        self._timers.enter(seconds, 0, self.guard, (function,) + args)

    def call_soon(self, function, *args):
        """Call function(*args) in the SIP thread; from any thread, or a signal handler."""
        self._posted.put((function, *args))
        if self._posted.qsize() > 1:
            return  # the loop has not taken the one before, and looks again before it sleeps
        try:
            self.sock.sendto(b"", (self.config.reach_ip, self.port))  # wakes the loop
        except OSError as error:
            log.debug("the loop was not woken: %s", error)

    def drain(self):
        """Take no new calls; end the loop with the last call, or stop after DRAIN_SECONDS."""
        if not self.config.drain_seconds or not len(self.calls):
            self.stop()
            return
        self.stopping = True
        log.info("no new calls; %d up may go on for %d s", len(self.calls),
                 self.config.drain_seconds)
        self.after(self.config.drain_seconds, self.stop)

    def stop(self):
        """Send BYE to every call; the loop ends with the answers, or after STOP_SECONDS."""
        self.stopping = True
        log.info("stopping, %d calls up", len(self.calls))
        self.after(STOP_SECONDS, self._quit)
        # a refusal is resent until its ACK: the time for it is taken
        self._lingers = any(call.state == "proceeding" for call in self.calls)
        for call in self.calls:
            self.calls.hang_up(call, "the server stops", status=503)
        self.on_call_removed()

    def end(self):
        """Send BYE to every call and end the loop: no answer is waited for."""
        self.stop()
        self._quit()

    def on_call_removed(self):
        """End the loop with the last call, when that is what it waits for."""
        if self.stopping and not self._lingers and not len(self.calls):
            self._quit()

    def _quit(self):
        if self.running:
            self.running = False
            for call in self.calls:
                call.on("no ack")  # what waits for an ACK gets its BYE all the same
                call.on("bye done")

    def address_towards(self, ip):
        """Return the address a caller at ip is told to send to."""
        if self.config.advertised_ip or self.config.binds_one:
            return self.config.advertised_ip or self.config.bind_ip
        return local_address(ip)

    # Messages in and out

    def send(self, data, address):
        """Send a message to an (ip, port) over UDP, or a TCPHop."""
        log.debug("to %s %r", host_port(*address[:2]), data)
        if isinstance(address, TCPHop):
            self.tcp.send(data, address)
            return
        try:
            self.sock.sendto(data, address)
        except OSError as error:
            log.warning("nothing can be sent to %s: %s", host_port(*address), error)

    def reply(self, data, address):
        """Send an answer; over UDP to a stranger only a few times as much as came from it."""
        if isinstance(address, TCPHop) or self.admission.take_credit(address[0], len(data)):
            self.send(data, address)
        else:
            log.debug("not sent: %s has not sent enough for it", address[0])

    def receive(self, data, address, connection=None):
        """Take one message: drop it, or give it to whom it concerns, or answer it.

        Return False where it was not even looked at.
        """
        ping = address[0] == self.admission.own_ip and data.startswith(b"OPTIONS ") and PING in data
        if not ping and not self.admission.admits(address, len(data), connection is not None):
            return False
        if log.isEnabledFor(logging.DEBUG):
            log.debug("from %s %r", host_port(*address), hide_credentials(data))
        message = SIPMessage(data, address, connection)
        if not message.valid:
            log.debug("dropped: not SIP")
        elif message.is_response():
            if not self.requests.on_response(message):
                log.debug("dropped: a response to nothing we sent")
        else:
            self._receive_request(message)
        return True

    def _receive_request(self, request):
        try:
            request.check()
            if self.transactions.absorb(request):
                return
            # A re-INVITE needs no password: who knows both tags, 64 bits of ours, is of the call.
            # RFC 3261 26.3.2.4: a 401 is sent once and has no transaction, whoever it reaches
            if self.authenticator and request.method() == "INVITE" and not request.to_tag:
                self.authenticator.check(request)
                self.admission.verify(request.source)  # where the nonce went
            if request.method() != "ACK":
                self._begin(request)
            self._dispatch(request)
        except SIPError as error:
            self.refuse(request, error)
        except Exception:
            log.exception("a %s failed", request.method())
            self.refuse(request, SIPError(500, ""))

    def _begin(self, request):
        """Begin the transaction of a request, unless strangers have too many (RFC 3261 8.2.7)."""
        stranger = not self.admission.is_known(request.source[0])
        if not stranger or self.transactions.strangers < MAX_TRANSACTIONS:
            self.transactions.begin(request, stranger)
        elif request.method() == "INVITE":
            raise SIPError(486, "")

    def _dispatch(self, request):
        """Check in the order of RFC 3261 8.2, then call the method's function."""
        method = request.method()
        handler = METHODS.get(method)
        if handler is None:
            raise SIPError(405 if method in NOT_ALLOWED else 501, "", [("Allow", ALLOW)])
        if method not in ("ACK", "CANCEL"):  # RFC 3261 8.2.2.3 and 9.1
            if request.transaction and self.transactions.is_merged(request):
                raise SIPError(482, "")
            unsupported = [option for option in request.headers_all("Require")
                           if option.lower() not in UNDERSTOOD]
            if unsupported:
                raise SIPError(420, "", [("Unsupported", ", ".join(unsupported))])
            if self.stopping and method in ("INVITE", "OPTIONS") and not request.to_tag:
                raise SIPError(503, "", [("Retry-After", "10")])
        handler(self, request)

    def respond(self, request, code, reason="", headers=(), body=b"", to_tag=""):
        """Answer a request; return the SIPResponse."""
        response = SIPResponse(code, reason, request, to_tag, headers, body)
        if request.transaction:
            request.transaction.respond(code, bytes(response), response_address(request))
        else:  # RFC 3261 8.2.7: a request too bad to keep, or one too many
            self.reply(bytes(response), response_address(request))
        return response

    def refuse(self, request, error):
        """Answer with the status of a SIPError; an ACK is never answered."""
        if request.method() == "ACK":
            log.debug("bad ACK dropped: %s", error)
            return
        response = self.respond(request, error.status, error.reason, error.headers)
        # every call begins with a 401 where passwords are asked for; sip_auth logs what matters
        log.log(logging.DEBUG if error.status in (401, 403) else logging.INFO,
                "%.20r from %s refused: %d %s%.200s; From %a, Call-ID %a", request.method(),
                host_port(*request.source), error.status, response.reason,
                "".join(f"; {name}: {value!a}" for name, value in error.headers),
                *(request.header(name, "")[:100] for name in ("From", "Call-ID")))

    def request(self, call, method, branch, data, next_hop, on_final):
        """Send a request of ours to a URI; a name in it is looked up in a thread of its own.

        Before the call's first ACK it goes where the INVITE came from, whatever the URI.
        """
        def go(address):
            reliable = hop_transport(next_hop, call.transport) == "TCP"
            if reliable:
                kept = call.connection  # the one the caller uses, if it leads there
                address = TCPHop(*address, kept if kept and kept.address[0] == address[0] else None)
            self.requests.send(method, branch, data, address, on_final, reliable)

        def look_up(host, port):
            try:
                found = socket.getaddrinfo(host, port, self.sock.family, socket.SOCK_DGRAM)
                self.call_soon(go, found[0][4][:2])
            except (OSError, UnicodeError) as error:
                log.warning("%s can't be sent to %.99r: %s", method, host, error)
                self.call_soon(on_final, None)

        if not call.acked:
            self._request_unacked(call, method, branch, data, on_final)
            return
        try:
            host, port = hop_address(next_hop)
            if plain_ip(host):
                go((plain_ip(host), port))
                return
            name = f"look-up for {network(call.invite.source[0])}"
            if [thread.name for thread in threading.enumerate()].count(name) >= MAX_LOOKUPS:
                raise RuntimeError(f"{MAX_LOOKUPS} names are being looked up")
            threading.Thread(target=look_up, args=(host, port), daemon=True, name=name).start()
        except (ValueError, RuntimeError) as error:
            log.warning("%s can't be sent to %.99r: %s", method, next_hop, error)
            on_final(None)

    def _request_unacked(self, call, method, branch, data, on_final):
        """Send where the INVITE came from: it may be forged, and name anybody as its Contact."""
        address = response_address(call.invite)
        if self.admission.is_verified(address[0]):
            self.requests.send(method, branch, data, address, on_final, isinstance(address, TCPHop))
        else:  # once, and no more than was paid for
            self.reply(data, address)
            on_final(None)


def ping(settings):
    """Send OPTIONS to the server that runs with these settings; return whether it serves."""
    ip = settings.reach_ip
    uri, tag = f"sip:{host_port(ip, settings.sip_port)}", new_tag()
    try:
        with open_socket(ip, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect((ip, settings.sip_port))
            here = host_port(*sock.getsockname()[:2])
            for _ in range(3):
                sock.send(serialize(f"OPTIONS {uri} SIP/2.0", [
                    ("Via", f"SIP/2.0/UDP {here};branch={new_branch()};rport"),
                    ("Max-Forwards", "0"), ("From", f"<sip:ping@{here}>;tag={tag}"),
                    ("To", f"<{uri}>"), ("Call-ID", new_tag()), ("CSeq", "1 OPTIONS")]))
                try:
                    return SIPMessage(sock.recv(MAX_DATAGRAM)).status not in (0, 503)
                except socket.timeout:
                    continue
    except OSError as error:
        print(f"ping: {uri}: {error}", file=sys.stderr)
        return False
    print(f"ping: {uri} does not answer", file=sys.stderr)
    return False


def raise_file_limit():
    """Allow as many open files as may be: a call has two sockets."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            log.info("up to %d open files (ulimit -n was %d)", hard, soft)
        except (OSError, ValueError) as error:
            log.warning("no more than %d open files: %s", soft, error)


def warn_of_open_access(settings, here):
    """Say who is answered where everybody can send; here: our address as others see it."""
    if not ipaddress.ip_address(here).is_global:
        return
    if not settings.allowed_peers:
        log.warning("%s is a public address; only private networks are answered: name the others "
                    "in ALLOWED_PEERS", here)
    elif (any(not peers.prefixlen for peers in settings.allowed_peers)
          and not settings.sip_password_file):
        log.warning("%s is a public address, and ALLOWED_PEERS lets everybody call", here)


def wait_for_threads(seconds):
    """Give bots and recordings so long to come to their ends; then the process ends them."""
    end = time.monotonic() + seconds
    for name in ("bot-", recorder.NAME):
        for thread in threading.enumerate():
            if thread.name.startswith(name):
                thread.join(max(0.0, end - time.monotonic()))


def choose_bot(settings):
    """Return the function that serves calls, None for the plain echo. Raises ConfigError."""
    if settings.bot:
        return bot.load(settings.bot)
    return bot.echo if settings.record_dir else None  # the plain echo decodes nothing


def name_of(function):
    try:
        return f"{function.__module__}:{function.__name__}"
    except AttributeError:  # a partial, or an object that can be called
        return repr(function)


def obey_signals(server):
    """Let SIGTERM drain the server, SIGINT stop it and a second signal end it.

    Return the list of the signals that came, which grows.
    """
    came = []

    def on_signal(number, frame):
        came.append(number)
        if len(came) == 1:
            server.call_soon(server.drain if number == signal.SIGTERM else server.stop)
        elif len(came) == 2 and server.running:
            server.call_soon(server.end)
        else:
            sys.exit(1)  # only bots are waited for, or the loop is stuck

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return came


def main(function=None, argv=()):
    """Run the server with the settings of the environment until it is told to stop.

    function: serves each call in place of what BOT names, see bot.Call. argv: options.
    """
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Answer SIP calls and play their own voice back, or let a bot serve them.",
        epilog=config.help_text(), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ping", action="store_true",
                        help="send OPTIONS to the running server; exit 0 if it serves, else 1")
    arguments = parser.parse_args(argv)
    try:
        settings = config.Config.from_env(os.environ)
        function = bot.check(function) if function else choose_bot(settings)
    except config.ConfigError as error:
        parser.exit(2, f"server.py: {error}\n")
    if arguments.ping:
        sys.exit(0 if ping(settings) else 1)
    logging.basicConfig(level=settings.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.freeze()  # what is there now stays: it need not be looked at again and again
    gc.set_threshold(*GARBAGE)
    raise_file_limit()
    server = SIPServer(settings, function)
    for handler in logging.getLogger().handlers:
        handler.addFilter(server.log_throttle)
    try:
        server.open()
    except (OSError, RuntimeError) as error:
        parser.exit(1, f"server.py: SIP_PORT={settings.sip_port} on BIND_IP={settings.bind_ip}: "
                       f"{getattr(error, 'strerror', None) or error}\n")
    signals = obey_signals(server)
    # some other machine (RFC 5737, RFC 3849): the answer is our address in the LAN
    here = server.address_towards("2001:db8::1" if ":" in settings.bind_ip else "192.0.2.1")
    log.info("listening on UDP and TCP %s; call sip:echo@%s%s",
             host_port(settings.bind_ip, server.port), host_port(here, server.port),
             f"; served by {name_of(function)}" if function else "")
    warn_of_open_access(settings, here)
    server.serve_forever()
    if len(signals) > 1:
        sys.exit(1)
    wait_for_threads(STOP_SECONDS)
    log.info("stopped")


if __name__ == "__main__":
    main(argv=sys.argv[1:])
