"""The SIP server: one loop for datagrams, timers and posted calls; and main.

All SIP state lives in the thread that runs `serve_forever`; other threads reach it by `call_soon`
alone. A request goes from `receive` to siprtp.sip.uas, on to its function in siprtp.sip.methods,
and a new call from there to siprtp.calls.
"""

import argparse
import logging
import os
import queue
import sched
import socket
import sys
import time

import bot
from sip_message import SIPMessage
from sip_response import TCPHop
from siprtp import __version__, config, process
from siprtp.bots import loader, service
from siprtp.calls import Calls
from siprtp.logs import MINUTE, LogThrottle
from siprtp.sip import ping
from siprtp.sip.admission import Admission, remember, warn_of_open_access
from siprtp.sip.auth import Authenticator, hide_credentials
from siprtp.sip.lookup import Lookups
from siprtp.sip.next_hop import RequestSender
from siprtp.sip.tcp import TCPTransport
from siprtp.sip.transaction import ClientTransactions, ServerTransactions
from siprtp.sip.uas import UAS
from siprtp.sockets import DSCP_SIP, family_of, host_port, local_address, open_socket, set_dscp

log = logging.getLogger("server")

MAX_DATAGRAM = 65535  # bytes
RECEIVE_BUFFER = 4 << 20  # bytes: what a burst of messages needs
STOP_SECONDS = 2.0  # how long a stop waits for the answers to our BYEs
# The longest sleep of the loop: Python runs a signal's handler when recvfrom returns, and a signal
# that arrives just before recvfrom, or in another thread, does not interrupt it. A posted
# call waits as long if its wake-up datagram cannot be sent.
NAP_SECONDS = 1.0


class SIPServer:
    """A SIP server on one port, UDP and TCP.

    config: a Config. bot: a function called with the bot.Call of each call, in a thread of its
    own; None for the echo. clock: seconds, monotonic.
    """

    def __init__(self, config, bot=None, clock=time.monotonic):
        self.config, self.clock = config, clock
        self.sock, self.port = None, config.sip_port
        self.running, self._await_acks = True, False
        self._posted = queue.SimpleQueue()
        self._timers = sched.scheduler(clock, lambda seconds: None)
        self._unreachable = {}  # address: when sending to it failed last
        self.log_throttle = LogThrottle(clock, config.sip_rate,
                                        lambda ip: self.admission.is_verified(ip))
        self.admission = Admission(config.allowed_peers, config.reach_ip, config.sip_rate, clock,
                                   self.log_throttle.begin)
        self.authenticator = None
        if config.sip_password_file:
            self.authenticator = Authenticator(config.sip_password_file, clock, self.after,
                                               config.sip_digest)
        self.transactions = ServerTransactions(self.reply, self.after)
        self.client_transactions = ClientTransactions(self.send, self.after)
        lookups = Lookups(self.call_soon, family_of(config.bind_ip), self.log_throttle.begin)
        self.request_sender = RequestSender(self.client_transactions, self.admission, self.reply,
                                            lookups)
        self.tcp = TCPTransport(self.call_soon, self.receive, self.admission)
        self.uas = UAS(self.transactions, self.admission, self.reply, self.after, lookups,
                       self.authenticator)
        self.calls = self.uas.calls = Calls(self, bot)

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
                    raise  # SIP_PORT=0: the next random port may be free for both UDP and TCP

    def _bind(self):
        self.sock = open_socket(self.config.bind_ip, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        set_dscp(self.sock, DSCP_SIP)
        self.sock.bind((self.config.bind_ip, self.config.sip_port))
        self.port = self.sock.getsockname()[1]
        self.tcp.listen(self.config.bind_ip, self.port)

    def serve_forever(self):
        """Serve until `drain`, `stop` or `stop_now` is done; then close everything."""
        try:
            while True:
                seconds = self.run_due()
                if not self.running:
                    break
                nap = NAP_SECONDS if seconds is None else min(seconds, NAP_SECONDS)
                self._receive_one(nap if self._posted.empty() else 0)
        finally:
            for dialog in self.calls:
                dialog.media.stop()
            self.tcp.close()
            self.sock.close()

    def run_due(self):
        """Run posted calls and due timers; return the seconds to the next timer, or None."""
        for _ in range(self._posted.qsize()):  # calls posted meanwhile wait for a datagram
            self.guard(*self._posted.get())
        return self._timers.run(blocking=False)

    def _receive_one(self, seconds):
        self.sock.settimeout(seconds)
        try:
            data, address = self.sock.recvfrom(MAX_DATAGRAM)
        except (socket.timeout, BlockingIOError):
            return
        except OSError as error:
            log.warning("the SIP socket received nothing: %s", error)
            return
        if data.strip(b"\r\n\0"):
            self.guard(self.receive, data, address[:2])

    def guard(self, function, *args):
        """Call function; log an exception instead of ending the loop."""
        try:
            function(*args)
        except Exception:
            log.exception("%s failed", getattr(function, "__name__", function))
        finally:
            self.log_throttle.end()

    def after(self, seconds, function, *args):
        """Call function(*args) in the SIP thread after so many seconds."""
        self._timers.enter(seconds, 0, self.guard, (function,) + args)

    def call_soon(self, function, *args):
        """Call function(*args) in the SIP thread; from any thread, or a signal handler."""
        self._posted.put((function, *args))
        if self._posted.qsize() > 1:
            return  # the loop has not taken the previous one, and looks again before it sleeps
        try:
            self.sock.sendto(b"", (self.config.reach_ip, self.port))  # wakes the loop
        except OSError as error:
            log.debug("cannot wake the loop: %s", error)

    # Stopping

    def drain(self):
        """Take no new calls; end the loop with the last call, or stop after DRAIN_SECONDS."""
        if not self.config.drain_seconds or not len(self.calls):
            self.stop()
            return
        self.uas.stopping = True
        log.info("draining: no new calls, calls in progress: %d, at most for %d s (DRAIN_SECONDS)",
                 len(self.calls), self.config.drain_seconds)
        self.after(self.config.drain_seconds, self.stop)

    def stop(self):
        """Send BYE to every call; the loop ends with the answers, or after STOP_SECONDS."""
        self.uas.stopping = True
        log.info("stopping, calls in progress: %d", len(self.calls))
        self.after(STOP_SECONDS, self._quit)
        # a rejection is resent until its ACK arrives: STOP_SECONDS leave time for that
        self._await_acks = self.uas.reject_waiting() or any(
            dialog.state == "proceeding" for dialog in self.calls)
        for dialog in self.calls:
            dialog.hang_up("the server stops", status=503)
        self.on_call_removed()

    def stop_now(self):
        """Send BYE to every call and end the loop without waiting for the answers."""
        self.stop()
        self._quit()

    def on_call_removed(self):
        """End the loop with the last call if the server is stopping."""
        if self.uas.stopping and not self._await_acks and not len(self.calls):
            self._quit()

    def _quit(self):
        if self.running:
            self.running = False
            for dialog in self.calls:
                dialog.on("no ack")  # a call that waits for its ACK gets its BYE all the same
                dialog.on("bye done")

    # Messages in and out

    def receive(self, data, address, connection=None):
        """Take one message: drop it, or pass it to its transaction or to the UAS.

        Return False if the message was dropped unread.
        """
        if (not ping.is_ping(data, address, self.admission.own_ip)
                and not self.admission.admits(address, len(data), connection is not None)):
            return False
        if log.isEnabledFor(logging.DEBUG):
            log.debug("from %s %r", host_port(*address), hide_credentials(data))
        message = SIPMessage(data, address, connection)
        if not message.valid:
            log.debug("dropped: not SIP")
        elif not message.is_response():
            self.uas.receive(message)
        elif not self.client_transactions.on_response(message):
            log.debug("dropped: a response to no request of ours")
        return True

    def send(self, data, address):
        """Send a message to an (ip, port) over UDP, or to a TCPHop."""
        log.debug("to %s %r", host_port(*address[:2]), data)
        if isinstance(address, TCPHop):
            self.tcp.send(data, address)
            return
        try:
            self.sock.sendto(data, address)
        except OSError as error:
            now, last = self.clock(), self._unreachable.pop(address, -MINUTE)
            remember(self._unreachable, address, now)
            log.log(logging.WARNING if now - last >= MINUTE else logging.DEBUG,
                    "%s, from the peer's Contact, Record-Route or Via, is unreachable: %s",
                    host_port(*address), error)

    def reply(self, data, address):
        """Send a response; over UDP an unverified peer gets a few times the bytes it sent."""
        if isinstance(address, TCPHop) or self.admission.take_credit(address[0], len(data)):
            self.send(data, address)
        else:
            log.debug("not sent: unverified peer %s has not sent enough for it", address[0])

    def address_towards(self, ip):
        """Return our address as we tell it to a caller at ip."""
        if self.config.advertised_ip or self.config.binds_one:
            return self.config.advertised_ip or self.config.bind_ip
        return local_address(ip)


def choose_bot(settings):
    """Return the function that serves calls, None for the plain echo. Raises ConfigError."""
    if settings.bot:
        return loader.load(settings.bot)
    return bot.echo if settings.record_dir else None  # the plain echo decodes nothing


def name_of(function):
    try:
        return f"{function.__module__}:{function.__name__}"
    except AttributeError:  # a partial, or a callable object
        return repr(function)


def parse_arguments(parser, argv):
    parser.add_argument("--ping", action="store_true",
                        help="send OPTIONS to the running server; exit 0 if it answers and is not "
                             "draining, also at MAX_CALLS; else 1")
    parser.add_argument("--version", action="version", version=f"sip-rtp-server {__version__}")
    return parser.parse_args(argv)


def main(function=None, argv=()):
    """Run the server with the settings of the environment until a signal stops it.

    function: serves each call in place of the bot that BOT names, see bot.Call. argv: options.
    """
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="Answer SIP calls and play the callers' own voice back, or run a bot.",
        epilog=config.help_text(), formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = parse_arguments(parser, argv)
    try:
        settings = config.Config.from_env(os.environ)
        function = loader.check(function) if function else choose_bot(settings)
    except config.ConfigError as error:
        parser.exit(2, f"server.py: {error}\n")
    if arguments.ping:
        sys.exit(0 if ping.ping(settings.reach_ip, settings.sip_port) else 1)
    logging.basicConfig(level=settings.log_level.upper(),
                        format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    process.tune()
    service.quiet_helper_threads()
    server = SIPServer(settings, function)
    for handler in logging.getLogger().handlers:
        handler.addFilter(server.log_throttle)
    try:
        server.open()
    except (OSError, RuntimeError) as error:
        parser.exit(1, f"server.py: SIP_PORT={settings.sip_port} on BIND_IP={settings.bind_ip}: "
                       f"{getattr(error, 'strerror', None) or error}\n")
    signals = process.obey_signals(server)
    log_start(server, function)
    server.serve_forever()
    if len(signals) > 1:
        sys.exit(1)
    process.wait_for_threads(STOP_SECONDS)
    log.info("stopped")


def log_start(server, function):
    """Log where the server listens, what serves the calls, and the settings."""
    settings = server.config
    # an address of another machine (RFC 5737, RFC 3849): the answer is our address in the LAN
    here = server.address_towards("2001:db8::1" if ":" in settings.bind_ip else "192.0.2.1")
    log.info("listening on UDP and TCP %s; call sip:echo@%s%s",
             host_port(settings.bind_ip, server.port), host_port(here, server.port),
             f"; served by {name_of(function)}" if function else "")
    log.info("version %s, settings: %s", __version__, settings.describe())
    warn_of_open_access(settings.allowed_peers, settings.sip_password_file, here)


if __name__ == "__main__":
    main(argv=sys.argv[1:])
