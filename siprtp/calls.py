"""The calls: where the dialog of each meets its media and its bot, and nowhere else.

All of it runs in the SIP thread; a bot's thread and the RTP threads reach it by `call_soon`.
"""

import logging
import random
import threading
import time
import weakref

from bot import Call as BotCall
from sip_message import SIPError
from sip_utils import DIGITS
from siprtp.media import rtcp
from siprtp.media.session import open_rtp_session
from siprtp.media.thread import RTPThread
from siprtp.sip import sdp
from siprtp.sip.dialog import Call, CallTable
from siprtp.sip.methods import send_2xx, send_ringing
from siprtp.sip.session_timer import SessionTimer
from siprtp.sip.transaction import TIMEOUT
from siprtp.sockets import host_port, local_address

log = logging.getLogger(__name__)

MANY_CALLS = 400  # beyond that own threads cost more than they bring: they queue for the one core
TOGETHER = 0.05  # seconds: reports are sent on the beat, for to wake the SIP thread costs more
LINGER = 1.0  # seconds an RTP thread waits for the next call: where they are many it comes
WATCH = 10.0  # seconds between two looks whether RTP still comes
MAX_UNVERIFIED = 100  # calls of strangers at once that have no ACK
ROUND_TRIP = 1.0  # seconds: an honest stranger has sent its ACK by then
RING_SECONDS = 180.0  # how long a bot may ring where the INVITE names no time (RFC 3261 16.6)


class Calls(CallTable):
    """The call table, and what is done with a call as a whole.

    server: the SIPServer. bot: the function that serves each call, or None for the echo.
    """

    def __init__(self, server, bot=None):
        super().__init__()
        self._server, self._config, self._bot = server, server.config, bot
        self._own = []  # an RTPThread each for the first calls
        # for echoes beyond, and for all bots
        self._shared, self._bots = RTPThread(linger=LINGER), RTPThread(linger=LINGER)
        self._next_rtp_port = None
        self._ports = set()  # of the calls' RTP sockets
        config = self._config
        even_ports = config.rtp_port_end // 2 - (config.rtp_port_start + 1) // 2 + 1
        self._limit = min(config.max_calls or even_ports, even_ports)
        self._strangers = {}  # the calls of strangers that have no ACK, the oldest first: None

    # Setting up

    def take(self, request):
        """Take the INVITE of a new call: answer it, or let its bot. Raises SIPError."""
        stranger = not self._server.admission.is_known(request.source[0])
        too_many = len(self._strangers) >= min(MAX_UNVERIFIED, self._limit // 2 + 1)
        if (self.is_full() or (stranger and too_many)) and not self._make_room():
            raise SIPError(486, "")
        call, body = self.create(request)
        call.media.mute = True  # until the ACK: whose INVITE it is may be forged, and what it says
        if stranger:
            self._strangers[call] = None
        request.transaction.call, request.transaction.tag = call, call.local_tag
        self.add(call)
        self._ports.add(call.media.port)
        try:
            if self._bot:
                self._offer_to_bot(call, body)
            else:
                self.answer(call, body)
        except Exception as error:
            call.on("hang up", why="it could not be answered")  # leaves no row, thread or port
            if not isinstance(error, (RuntimeError, OSError)):
                raise
            log.warning("no thread: %s", error)
            raise SIPError(486, "") from None

    def _make_room(self):
        """End the oldest call of a stranger that should have its ACK; say whether there was one."""
        now = self._server.clock()
        for call in self._strangers:
            if call.began is not None and now - call.began >= ROUND_TRIP:
                log.warning("too many calls: the oldest of a stranger without ACK is ended")
                return call.on("no ack", why="no ACK, and others wait", cause=102)
        log.info("no more calls: %d are up of the %d that MAX_CALLS and the RTP ports allow, %d of "
                 "strangers wait for their ACK", len(self._ports), self._limit,
                 len(self._strangers))
        return False

    def create(self, request):
        """Return (Call, our description as bytes), with an RTP port bound and the offer agreed."""
        server, offer, peer_ip, media = self._server, request.sdp(), request.source[0], None
        try:
            ip = server.address_towards(peer_ip)
            media = self.open_media(peer_ip)
            call = Call(request, host_port(ip, server.port), server.reply, server.after,
                        server.request, self.release, self.drop)
            media.on_key = lambda key: self._post(self.on_key, call, key, "RTP")
            call.media = media
            call.timer = SessionTimer(call, server.after, self.hang_up)
            call.session = sdp.LocalSession(
                ip, media.port, lambda address: self.is_own(address, media.port),
                self._config.codecs)
            return call, self.negotiate(call, offer)
        except Exception as error:
            if media:
                media.stop()
            if not isinstance(error, OSError):
                raise
            log.warning("no RTP port: %s", error)
            # not 503: CUBE would take the whole trunk out of service for it
            raise SIPError(486, "") from None

    def _post(self, function, call, *args):
        """Call function(call, *args) in the SIP thread, as the doing of who calls; from any."""
        self._server.call_soon(self._act, function, call, *args)

    def _act(self, function, call, *args):
        self._server.log_throttle.begin(call.invite.source[0])
        function(call, *args)

    def open_media(self, peer_ip):
        """Return an RTPSession on a free port. Raises OSError where there is none."""
        config = self._config
        session = open_rtp_session(config.bind_ip, config.rtp_port_start, config.rtp_port_end,
                                       self._next_rtp_port, peer_ip)
        self._next_rtp_port = session.port + 2  # late packets of an old call find nobody
        return session

    def answer(self, call, body, tick=None):
        """Answer a new call with 200, its media served by tick() every 20 ms, or by the echo.

        Raises RuntimeError or OSError where there is no thread for them.
        """
        if tick:
            call.media.start(self._bots, tick)
        else:
            call.media.start(self._thread())
        server = self._server
        call.began = server.clock()
        source, flow = call.invite.source, call.media.flow
        log.info("call from %r to %r began: SIP/%s %s, RTP port %d, theirs %s%s", call.caller,
                 call.called, call.transport, host_port(*source), call.media.port,
                 f"{host_port(*flow.remote)}, {flow.codec}" if flow.remote else "not known yet",
                 "".join(f", {name} {value!a}" for name, value in (
                     ("name", call.identity.name), ("diverted by", call.identity.diverted_by),
                     ("private", call.identity.private), ("Call-ID", call.call_id[:100]))
                     if value))
        send_2xx(server, call, call.invite, body, offered=not flow.formats)
        if self._config.rtp_timeout:
            self.watch(call, None, 0)
        self.report_later(call)

    def _thread(self):
        """Return the RTPThread of a new echo: one of its own, or beyond RTP_THREADS the shared.

        Where there are very many calls, all share it.
        """
        if len(self) > max(self._config.rtp_threads, MANY_CALLS):
            for thread in self._own:
                if len(thread):
                    thread.hand_over(self._shared)
            return self._shared
        for thread in self._own:
            if not len(thread):
                return thread
        if len(self._own) == self._config.rtp_threads:
            return self._shared
        self._own.append(RTPThread(linger=LINGER))
        return self._own[-1]

    # A bot's call. What the bot asks for comes by `call_soon`, maybe too late

    def _offer_to_bot(self, call, body):
        def act(name, *args):
            self._post(getattr(self, f"bot_{name}"), call, *args)

        call.bot = BotCall(call.caller, call.called, call.identity.name, call.invite.headers,
                           call.media, act, self._config)
        call.body = body
        expires = call.invite.header("Expires", "")
        if DIGITS.fullmatch(expires) and int(expires) <= RING_SECONDS:
            self.later(int(expires), self._expire, call, 487)  # RFC 3261 13.3.1
        else:
            self.later(RING_SECONDS, self._expire, call, 480)
        self.start_bot(call)

    def start_bot(self, call):
        """Run the bot in the call's own thread. Raises RuntimeError if none can be had."""
        threading.Thread(target=call.bot.run, args=(self._bot,), daemon=True,
                         name=f"bot-{call.media.port}").start()

    def _expire(self, call, status):
        if call.state == "proceeding":
            self.refuse(call, status, "its bot did not answer in time")

    def bot_ring(self, call):
        if call.state == "proceeding" and not call.ringing:
            call.ringing = True
            send_ringing(self._server, call)

    def bot_accept(self, call):
        if call.state != "proceeding":
            return
        try:
            self.answer(call, call.body, call.bot.tick)
        except (RuntimeError, OSError) as error:
            log.warning("no RTP thread: %s", error)
            self.refuse(call, 486, "no thread")

    def bot_refuse(self, call, status):
        if call.state == "proceeding":
            self.refuse(call, status, "its bot refused")

    def bot_finish(self, call, status, why):
        self.hang_up(call, why, 41 if status == 500 else 16, status)  # 41: temporary failure

    def bot_transfer(self, call, uri, tell):
        if call.over:
            return

        def on_news(status, reason):
            if status >= 200:
                log.info("%s: transfer to %r: %d %.99r", call, uri, status, reason)
            tell(status, reason)

        call.refer(uri, on_news)

    # While it is up

    def report_later(self, call):
        """Send RTCP about every 5 s, never at the same moment for all calls (RFC 3550 6.2)."""
        seconds = rtcp.INTERVAL * (0.5 + random.random())
        seconds -= (self._server.clock() + seconds) % TOGETHER
        self.later(seconds, self._report, call)

    def _report(self, call):
        self.report_later(call)
        call.media.report(time.time())

    def later(self, seconds, function, call, *args):
        """Call function(call, *args) later, if the call is up then; one that ended is not kept."""
        reference = weakref.ref(call)

        def run():
            call = reference()
            if call and not call.over:
                function(call, *args)

        self._server.after(seconds, run)

    def negotiate(self, call, offer):
        """Return our answer to an offer, applied to the media; our own offer for None.

        Raises SIPError 488, or 400 for a malformed offer; nothing has changed then.
        """
        if offer is None:
            return call.session.offer()
        try:
            body, agreement = call.session.answer(offer)
        except sdp.SDPError as error:
            raise refusal(error, call.host) from None
        call.media.update(agreement)
        return body

    def on_ack(self, call, ack):
        """Take the ACK of a 2xx: our tag, which it repeats, went where the INVITE came from."""
        self._strangers.pop(call, None)
        call.acked, call.media.mute = True, False
        self._server.admission.verify(call.invite.source)
        if ack.source[0] == call.invite.source[0]:
            self._server.admission.verify(ack.source)  # another port, as gateways have them

    def take_answer(self, call, ack):
        """Apply the answer an ACK carries; without one the caller has 64*T1 to say BYE."""
        try:
            answer = ack.sdp()
            if answer is not None:
                call.media.update(call.session.on_answer(answer))
        except (SIPError, ValueError) as error:
            log.warning("%s: the answer in the ACK can't be used: %s", call, error)
            self.hang_up(call, "unusable SDP answer", 47)
            return
        if not call.media.flow.formats:
            log.info("%s: no audio agreed in the ACK", call)
            self.later(TIMEOUT, self._check_agreed, call)

    def _check_agreed(self, call):
        if not call.media.flow.formats:
            self.hang_up(call, "no audio agreed", 47)

    def is_full(self):
        return len(self._ports) >= self._limit

    def hang_up(self, call, why, cause=16, status=480):
        """End a call from our side: BYE, now or once its 200 is ACKed, or status in its place.

        cause: of ITU-T Q.850, for the BYE.
        """
        if call.state == "proceeding":
            self.refuse(call, status, why)
        else:
            call.on("hang up", why=why, cause=cause)

    def refuse(self, call, status, why):
        """Refuse a call that was not answered."""
        headers = [("Retry-After", "10")] if status == 503 else []
        self._server.respond(call.invite, status, "", headers, to_tag=call.local_tag)
        call.on("hang up", why=f"{why}: {status}")

    def on_key(self, call, key, way):
        """Take a key the caller pressed; way: what told it."""
        if not call.keys.is_new(key, way, self._server.clock()):
            log.debug("%s: the same key again (%s)", call, way)
            return
        # what is told to a bot may be a PIN
        log.info("%s: key %s (%s)", call, "pressed" if call.bot else key, way)
        if call.bot:
            call.bot.on_key(key)

    def release(self, call):
        """End a call's media, and with them what its user calls the call."""
        media = call.media
        media.stop()
        self._ports.discard(media.port)
        self._strangers.pop(call, None)
        seconds = self._server.clock() - call.began if call.began is not None else 0.0
        call.statistics = statistics(media, seconds)
        log.info("call from %r to %r ended after %.1f s: %s; RTP packets %d in, %d out, %d lost, "
                 "jitter %.1f ms%s; Call-ID %a", call.caller, call.called, seconds, call.why,
                 media.packets_in, media.packets_out, media.received.lost,
                 media.received.jitter / 8, "" if media.round_trip is None
                 else f", round trip {media.round_trip * 1000:.0f} ms", call.call_id[:100])
        if call.bot:
            call.bot.on_end(call.why)

    def drop(self, call):
        """Take out the row of a call whose dialog has ended."""
        self.remove(call)
        call.timer.stop()
        call.media.on_key = None  # nothing is to hold the call now
        self._server.on_call_removed()

    def watch(self, call, seen, silent):
        """End a call that has sent no RTP for RTP_TIMEOUT seconds; ask first where it is held.

        silent: seconds, the sum of the waits: a machine that was stopped has heard nobody.
        """
        flow, timeout = call.media.flow, self._config.rtp_timeout
        held = not (flow.sending and flow.receiving)
        now = call.media.packets_in, held
        if now != seen or not call.acked:  # without an ACK it ends for that
            seen, silent = now, 0
        if silent >= timeout:
            if not held:
                self.hang_up(call, f"no RTP for {silent:.0f} s", 41)
                return
            silent = 0
            call.send_request("OPTIONS", [], lambda answer: self._on_life_sign(call, answer))
        wait = min(WATCH, timeout / 4)
        self.later(wait, self.watch, call, seen, silent + wait)

    def _on_life_sign(self, call, answer):
        if answer is None or answer.status in (408, 481):  # RFC 3261 12.2.1.2
            self.hang_up(call, "its caller is gone while on hold", 41)

    def is_own(self, address, rtp_port):
        """Say whether an (ip, port) is our SIP socket or the RTP socket of this or another call."""
        ip, port = address
        config = self._config
        if port not in (self._server.port, rtp_port) and port not in self._ports:
            return False
        if config.binds_one:  # whoever has another address may have the same port
            return ip in (config.bind_ip, config.advertised_ip)
        return ip.startswith("127.") or ip in (config.advertised_ip, local_address(ip))


def statistics(media, seconds):
    """Return the value of P-RTP-Stat, which CUCM copies into its call records; integers only."""
    values = (("PS", media.packets_out), ("OS", media.octets_out),
              ("PR", media.packets_in), ("OR", media.received.octets), ("PL", media.received.lost),
              ("JI", media.received.jitter / 8), ("LA", (media.round_trip or 0) * 500),  # ms
              ("DU", seconds))
    return ",".join(f"{name}={max(0, min(int(value), 0xFFFFFFFF))}" for name, value in values)


def refusal(error, agent):
    """Return the SIPError for an SDPError: 488 with its Warning, or 400 for a malformed one."""
    if not error.warning:
        return SIPError(400, f"Malformed SDP: {error}")
    text = str(error).replace("\\", "/").replace('"', "'")
    return SIPError(488, "", [("Warning", f'{error.warning} {agent} "{text}"')])


