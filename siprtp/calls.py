"""The calls: the only place where a dialog meets its media and its bot.

All of it runs in the SIP thread; a bot's thread and the RTP threads reach it by `call_soon`.
"""

import logging
import threading

import bot
from sip_message import SIPError
from sip_utils import DIGITS
from siprtp.bots.actions import BotActions
from siprtp.bots.service import Service
from siprtp.call_table import CallTable
from siprtp.logs import call_id
from siprtp.media.session import open_rtp_session
from siprtp.media.thread import RTPThread
from siprtp.sip import sdp
from siprtp.sip.answers import ALLOW, send_2xx
from siprtp.sip.dialog import Dialog
from siprtp.sip.next_hop import leads_to
from siprtp.sip.session_timer import SessionTimer
from siprtp.sip.transaction import TIMEOUT
from siprtp.sockets import host_port, local_address
from siprtp.upkeep import Upkeep

log = logging.getLogger(__name__)

MANY_CALLS = 400  # above it threads of their own cost more than they gain: they queue for the lock
LINGER = 1.0  # seconds an RTP thread without calls waits for the next one
MAX_UNVERIFIED = 100  # calls of unverified peers that wait for their ACK
ROUND_TRIP = 1.0  # seconds in which an honest peer's ACK arrives
HOLDS = {  # (we send, we receive): how the log says it
    (True, True): "resumed", (False, False): "on hold",
    (True, False): "on hold, audio only to the caller",
    (False, True): "on hold, audio only from the caller",
}
RING_SECONDS = 180.0  # how long a bot may ring if the INVITE names no time (RFC 3261 16.6)


class Calls(CallTable):
    """The call table, and the operations on a whole call.

    server: the SIPServer. function: the bot that serves each call, or None for the echo.
    """

    def __init__(self, server, function=None):
        super().__init__()
        self._server, self._config, self._bot_function = server, server.config, function
        self._echo_threads = []  # an RTPThread each for the first calls
        # for the echoes beyond those, and for all bots
        self._shared_echo_thread = RTPThread(linger=LINGER)
        self._bot_thread = RTPThread(linger=LINGER)
        self._next_rtp_port = None
        self._ports = set()  # of the calls' RTP sockets
        config = self._config
        even_ports = config.rtp_port_end // 2 - (config.rtp_port_start + 1) // 2 + 1
        self._limit = min(config.max_calls or even_ports, even_ports)
        self._unverified = {}  # dialogs of unverified peers without an ACK, oldest first: None
        self._upkeep = Upkeep(server.clock, config.rtp_timeout)

    # Setting up

    def take(self, request):
        """Take the INVITE of a new call: answer it, or start its bot. Raises SIPError."""
        unverified = not self._server.admission.is_known(request.source[0])
        too_many = len(self._unverified) >= min(MAX_UNVERIFIED, self._limit // 2 + 1)
        if (self.is_full() or (unverified and too_many)) and not self._make_room(request):
            raise SIPError(486, "")
        dialog, body = self.create(request)
        dialog.media.mute = True  # until the ACK: the INVITE and the address in it may be forged
        if unverified:
            self._unverified[dialog] = None
        request.transaction.dialog, request.transaction.tag = dialog, dialog.local_tag
        self.add(dialog)
        self._ports.add(dialog.media.port)
        try:
            if self._bot_function:
                self._offer_to_bot(dialog, body)
            else:
                self.answer(dialog, body)
        except Exception as error:
            # frees its row, thread and port
            dialog.on("hang up", why="the server could not answer it")
            if not isinstance(error, (RuntimeError, OSError)):
                raise
            log.warning("%s rejected with 486: no thread: %s", dialog, error)
            raise SIPError(486, "") from None

    def _make_room(self, request):
        """End the oldest unverified call whose ACK is overdue; return whether there was one."""
        now = self._server.clock()
        for dialog in self._unverified:
            if dialog.began is not None and now - dialog.began >= ROUND_TRIP:
                log.warning("%s: ended without its ACK, other calls wait", dialog)
                return dialog.on("no ack", why="no ACK, and other calls wait", cause=102)
        log.info("call rejected: %d of %d calls in use (MAX_CALLS or RTP ports), %d waiting for an "
                 "ACK; Call-ID %a", len(self._ports), self._limit, len(self._unverified),
                 call_id(request))
        return False

    def create(self, request):
        """Return (Dialog, our SDP as bytes), with an RTP port bound and the offer agreed."""
        server, offer, peer_ip, media = self._server, request.sdp(), request.source[0], None
        try:
            ip = server.address_towards(peer_ip)
            media = self.open_media(peer_ip)
            dialog = Dialog(request, host_port(ip, server.port), server.reply, server.after,
                            server.uas.respond, server.request_sender.send, self.end_media,
                            self.remove_ended, self._config.nat == "auto")
            media.on_key = lambda key: self._post(self.on_key, dialog, key, "RTP")
            dialog.media, media.name = media, str(dialog)
            dialog.timer = SessionTimer(dialog, server.after, self.refresh_by_invite)
            dialog.negotiation = sdp.Negotiation(
                ip, media.port, lambda address: self.is_own(address, media.port),
                self._config.codecs)
            return dialog, self.negotiate(dialog, offer)
        except Exception as error:
            if media:
                media.stop()
            if not isinstance(error, OSError):
                raise
            log.warning("call rejected with 486: no RTP port: %s; Call-ID %a", error,
                        call_id(request))
            # not 503: CUBE would take the whole trunk out of service for it
            raise SIPError(486, "") from None

    def _post(self, function, dialog, *args):
        """Call function(dialog, *args) in the SIP thread, its log lines counted for the caller."""
        self._server.call_soon(self._run_for, function, dialog, *args)

    def _run_for(self, function, dialog, *args):
        self._server.log_throttle.begin(dialog.invite.source[0])
        function(dialog, *args)

    def open_media(self, peer_ip):
        """Return an RTPSession on a free port. Raises OSError if there is none."""
        config = self._config
        session = open_rtp_session(config.bind_ip, config.rtp_port_start, config.rtp_port_end,
                                   self._next_rtp_port, peer_ip)
        self._next_rtp_port = session.port + 2  # late packets of an ended call reach no other
        return session

    def answer(self, dialog, body, tick=None):
        """Answer a new call with 200, its media served by tick() every 20 ms, or by the echo.

        Raises RuntimeError or OSError if no thread can serve them.
        """
        if tick:
            dialog.media.start(self._bot_thread, tick)
        else:
            dialog.media.start(self._thread())
        dialog.began = self._server.clock()
        log_began(dialog)
        send_2xx(dialog, dialog.invite, body, offered=not dialog.media.flow.formats)
        self._upkeep.start(dialog)

    def _thread(self):
        """Return the RTPThread of a new echo: its own, or the shared one beyond RTP_THREADS.

        Above MANY_CALLS all echoes share it.
        """
        if len(self) > max(self._config.rtp_threads, MANY_CALLS):
            for thread in self._echo_threads:
                if len(thread):
                    thread.hand_over(self._shared_echo_thread)
            return self._shared_echo_thread
        for thread in self._echo_threads:
            if not len(thread):
                return thread
        if len(self._echo_threads) == self._config.rtp_threads:
            return self._shared_echo_thread
        self._echo_threads.append(RTPThread(linger=LINGER))
        return self._echo_threads[-1]

    def _offer_to_bot(self, dialog, body):
        """Start the bot of a new call; reject the call if the bot does not answer in time."""
        call = bot.Call(dialog.caller, dialog.called, dialog.identity.name, dialog.invite.headers,
                        dialog.media, BotActions(dialog, self._post, self.answer), self._config,
                        dialog.invite.source)
        dialog.bot, dialog.answer_sdp = Service(call), body
        expires = dialog.invite.header("Expires", "")
        if DIGITS.fullmatch(expires) and int(expires) <= RING_SECONDS:
            dialog.later(int(expires), reject_overdue, 487)  # RFC 3261 13.3.1
        else:
            dialog.later(RING_SECONDS, reject_overdue, 480)
        self.start_bot(dialog)

    def start_bot(self, dialog):
        """Run the bot in a new thread. Raises RuntimeError if none can be started."""
        threading.Thread(target=dialog.bot.run, args=(self._bot_function,), daemon=True,
                         name=f"bot-{dialog.media.port}").start()

    # While a call is up

    def negotiate(self, dialog, offer):
        """Return our answer to an offer, applied to the media; our own offer for None.

        Raises SIPError 488, or 400 for a malformed offer; then nothing has changed.
        """
        if offer is None:
            return dialog.negotiation.offer()
        try:
            body, agreement = dialog.negotiation.answer(offer)
        except sdp.SDPError as error:
            raise rejection(error, dialog.host) from None
        self._apply(dialog, agreement)
        return body

    def _apply(self, dialog, agreement):
        """Let the media follow an agreement, and log what it changes."""
        before = dialog.media.flow
        dialog.media.update(agreement)
        if dialog.has_had_audio and not dialog.over:
            log_change(dialog, before)
        dialog.has_had_audio = dialog.has_had_audio or bool(agreement.formats)

    def refresh_by_invite(self, dialog, headers, on_final):
        """Send a re-INVITE that repeats our last description; its answer may move the media."""
        def on_response(response):
            on_final(response)
            if response is not None and response.status < 300 and not dialog.over:
                self.take_answer(dialog, response)

        dialog.reinvite(dialog.negotiation.repeat(), [("Allow", ALLOW), *headers], on_response)

    def verify_caller(self, dialog, ack):
        """Take the ACK of a 2xx: it repeats our tag, so the source of the INVITE is verified."""
        self._unverified.pop(dialog, None)
        dialog.acked, dialog.media.mute = True, False
        self._server.admission.verify(dialog.invite.source)
        if ack.source[0] == dialog.invite.source[0]:
            self._server.admission.verify(ack.source)  # gateways may send it from another port

    def follow_peer(self, dialog, request):
        """Let our requests and the media follow a peer whose authentic request shows where it is.

        That does not verify its new address: nothing that the request repeats was sent there.
        """
        before, now = dialog.media.peer_ip, request.source[0]
        dialog.follow(request)
        if before != now:
            dialog.media.peer_ip = now
            log.info("%s: the caller moved from %s to %s", dialog, before, now)

    def take_answer(self, dialog, message):
        """Apply the answer that an ACK, or the 2xx to our re-INVITE, carries.

        Without one in the first ACK, the caller has 64*T1 to say BYE.
        """
        is_first = not dialog.has_had_audio
        try:
            answer = message.sdp()
            if answer is not None:
                self._apply(dialog, dialog.negotiation.on_answer(answer))
        except (SIPError, ValueError) as error:
            log.warning("%s: unusable SDP answer: %s", dialog, error)
            dialog.hang_up("unusable SDP answer", 47)
            return
        flow = dialog.media.flow
        if not is_first:
            return  # log_change reports it
        if not flow.formats:
            log.info("%s: the ACK agrees on no audio", dialog)
            dialog.later(TIMEOUT, self._check_agreed)
        else:
            log.info("%s: the ACK agrees on %s, remote media %s", dialog, flow.codec,
                     remote_media(flow))

    def _check_agreed(self, dialog):
        if not dialog.media.flow.formats:
            dialog.hang_up("no audio agreed", 47)

    def is_full(self):
        return len(self._ports) >= self._limit

    def on_key(self, dialog, key, source):
        """Take a key that the caller pressed. source: "RTP", "INFO" or "NOTIFY"."""
        if not dialog.keys.is_new(key, source, self._server.clock()):
            log.debug("%s: the same key press again, by %s", dialog, source)
            return
        # the keys that a bot gets may be a PIN
        log.info("%s: key %s (%s)", dialog, "pressed" if dialog.bot else key, source)
        if dialog.bot:
            dialog.bot.on_key(key)

    def end_media(self, dialog):
        """End the media of a call and give back its RTP port; its bot learns of the end."""
        media = dialog.media
        media.stop()
        self._ports.discard(media.port)
        self._unverified.pop(dialog, None)
        seconds = self._server.clock() - dialog.began if dialog.began is not None else 0.0
        dialog.p_rtp_stat = p_rtp_stat(media, seconds)
        log_ended(dialog, seconds)
        if dialog.bot:
            dialog.bot.on_end(dialog.why)

    def remove_ended(self, dialog):
        """Remove a dialog that has ended from the table."""
        self.remove(dialog)
        dialog.timer.stop()
        dialog.media.on_key = None  # it would keep the dialog in memory
        self._server.on_call_removed()

    def is_own(self, address, rtp_port):
        """Return whether an (ip, port) is our SIP socket or the RTP socket of any call."""
        ip, port = address
        config = self._config
        if port not in (self._server.port, rtp_port) and port not in self._ports:
            return False
        if config.binds_one:  # the same port at another address is not ours
            return ip in (config.bind_ip, config.advertised_ip)
        return ip.startswith("127.") or ip in (config.advertised_ip, local_address(ip))


def reject_overdue(dialog, status):
    if dialog.state == "proceeding":
        dialog.reject(status, "its bot did not answer in time")


def log_began(dialog):
    """Log the start of a call with what helps to find it in the peer's logs."""
    media, identity = dialog.media, dialog.identity
    remote = "unknown until the ACK (delayed offer)"
    if media.flow.formats:
        remote = f"{remote_media(media.flow)}, {media.flow.codec}"
    details = (("name", identity.name), ("diverted by", identity.diverted_by),
               ("private", identity.private), ("Call-ID", dialog.call_id[:100]))
    hop = dialog.source_hop
    if hop and not leads_to(dialog.target, hop):
        remote += f", requests go to {host_port(*hop[:2])}, not to the Contact (NAT)"
    log.info("call from %r to %r began: SIP/%s %s, RTP port %d, remote media %s%s", dialog.caller,
             dialog.called, dialog.transport, host_port(*dialog.invite.source), media.port, remote,
             "".join(f", {name} {value!a}" for name, value in details if value))


def log_change(dialog, before):
    """Log what a new agreement changed; a hold would look like one-way audio otherwise."""
    flow = dialog.media.flow
    if not flow.formats:
        if before.formats:
            log.info("%s: the caller switched the audio off", dialog)
        return
    if (before.sending, before.receiving) != (flow.sending, flow.receiving):
        log.info("%s: %s", dialog, HOLDS[flow.sending, flow.receiving])
    if before.codec != flow.codec or (flow.remote and before.remote != flow.remote):
        log.info("%s: now %s, remote media %s", dialog, flow.codec, remote_media(flow))


def remote_media(flow):
    """Return where the audio of a Flow goes, for the log."""
    return host_port(*flow.remote) if flow.remote else "none"


def log_ended(dialog, seconds):
    """Log the end of a call, why it ended and what its media counted."""
    media = dialog.media
    round_trip = ("" if media.round_trip is None
                  else f", round trip {media.round_trip * 1000:.0f} ms")
    log.info("call from %r to %r ended after %.1f s: %s; RTP packets %d in, %d out, %d lost, "
             "jitter %.1f ms%s; Call-ID %a", dialog.caller, dialog.called, seconds, dialog.why,
             media.packets_in, media.packets_out, media.received.lost, media.received.jitter_ms,
             round_trip, dialog.call_id[:100])


def p_rtp_stat(media, seconds):
    """Return the value of P-RTP-Stat, which CUCM copies into its call records; integers only."""
    values = (("PS", media.packets_out), ("OS", media.bytes_out),
              ("PR", media.packets_in), ("OR", media.received.bytes), ("PL", media.received.lost),
              ("JI", media.received.jitter_ms), ("LA", (media.round_trip or 0) * 500),  # ms
              ("DU", seconds))
    return ",".join(f"{name}={max(0, min(int(value), 0xFFFFFFFF))}" for name, value in values)


def rejection(error, agent):
    """Return the SIPError for an SDPError: 488 with its Warning, or 400 for a malformed one."""
    if not error.warning:
        return SIPError(400, f"Malformed SDP: {error}")
    text = str(error).replace("\\", "/").replace('"', "'")
    return SIPError(488, "", [("Warning", f'{error.warning} {agent} "{text}"')])


