"""Session descriptions: parse them, and negotiate our side of a session (RFC 8866, RFC 3264)."""

import ipaddress
import re
import secrets
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple, Union

from siprtp.agreement import NOTHING, Agreement
from siprtp.formats import DEFAULT, EVENT, FORMATS

DIRECTIONS = {  # attribute: (it sends, it receives)
    "sendrecv": (True, True), "sendonly": (True, False),
    "recvonly": (False, True), "inactive": (False, False),
}
# Limits far above what any trunk sends: lines, m= lines, formats of an m= line
MAX_LINES, MAX_MEDIA, MAX_FORMATS = 300, 16, 128
MAX_NAMED = 6  # formats that an error text names
UNSAFE = re.compile(r"[^\w/.+ -]", re.ASCII)  # characters that an error text does not repeat
PORT = re.compile("[0-9]{1,5}")
PAYLOAD_TYPE = re.compile("[0-9]|[1-9][0-9]|1[01][0-9]|12[0-7]")  # 7 bits, RFC 3550 5.1
NAMED = re.compile(rb"^(c=IN[ \t]+IP[46][ \t]+)([A-Za-z0-9.\-]{1,253})(?=[ \t\r]*$)", re.MULTILINE)
# What resolvers take for an IPv4 address, in octal, hexadecimal or with parts left out
NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
STATIC = {str(codec.payload_type): codec for codec in FORMATS}


class SDPError(ValueError):
    """A malformed description, or an unusable one (with a warning code, RFC 3261 20.43)."""

    def __init__(self, reason, warning=0):
        super().__init__(reason[:200])  # it may quote the description, and goes into the response
        self.warning = warning


class MediaLine:
    """One m= line of a description with the attributes that apply to it."""

    def __init__(self, value, address, direction):
        words = value.split(None, 3 + MAX_FORMATS)
        if len(words) > 3 + MAX_FORMATS:
            raise SDPError("too many formats in an m= line")
        port = words[1].partition("/")[0] if len(words) > 2 else ""
        # lenient: in a line with port 0, some peers leave the formats out
        if not PORT.fullmatch(port) or int(port) > 65535 or (len(words) == 3 and int(port)):
            raise SDPError("malformed m= line")
        self.kind, self.port, self.proto, self.formats = words[0], int(port), words[2], words[3:]
        self.address = address  # the words of its c= line
        self.direction = direction
        self.rtcp = ""  # the value of a=rtcp (RFC 3605)
        self.rtpmap = {}  # payload type (str): "PCMA/8000", in upper case

    def find(self, codec):
        """Return [(payload type, codec)] for the first format that means codec, or []."""
        name = f"{codec.name.upper()}/{codec.rate}"
        wanted = {pt for pt, encoding in self.rtpmap.items() if encoding in (name, f"{name}/1")}
        if STATIC.get(str(codec.payload_type)) is codec:
            wanted |= {str(codec.payload_type)} - set(self.rtpmap)
        for pt in self.formats:
            if pt in wanted and PAYLOAD_TYPE.fullmatch(pt):
                return [(int(pt), codec)]
        return []

    def offered(self):
        """Return the names of the first formats, for an error text."""
        static = {number: f"{codec.name}/{codec.rate}" for number, codec in STATIC.items()}
        names = [self.rtpmap.get(pt) or static.get(pt) or f"type {pt:.3}"
                 for pt in self.formats[:MAX_NAMED]]
        return ", ".join(UNSAFE.sub("?", name[:20]) for name in names)

    def remote(self, like):
        """Return the (ip, port) to send to, or None if nothing may be sent.

        like: an address of the IP version that we can reach. Raises SDPError.
        """
        if len(self.address) < 3:
            raise SDPError("no c= line")
        try:
            ip = read_ip(self.address[2].partition("/")[0], like)
        except ValueError as error:
            raise SDPError(f"connection address: {error}", 301) from None
        return (str(ip), self.port) if sendable(ip) and self.port else None

    def remote_rtcp(self, remote):
        """Return the (ip, port) for RTCP to the peer whose RTP goes to remote, or None."""
        port, *address = self.rtcp.split() or [str(self.port + 1)]
        if remote is None or not PORT.fullmatch(port) or not 0 < int(port) < 65536:
            return None
        try:
            ip = read_ip(address[2] if len(address) > 2 else remote[0], remote[0])
        except ValueError:
            return None
        return (str(ip), int(port)) if sendable(ip) else None

    def refused(self):
        """Return the m= line that rejects this one; it has one format at least (RFC 3264 6)."""
        some = "0" if self.proto.upper().startswith("RTP/") else "*"
        return f"m={self.kind} 0 {self.proto} {self.formats[0] if self.formats else some}"


def sendable(ip):
    """Return whether an address is one host's: not 0.0.0.0 or :: (hold), multicast or broadcast."""
    return not (ip.is_unspecified or ip.is_multicast or ip == ipaddress.IPv4Address(0xFFFFFFFF))


def read_ip(text, like):
    """Return an ip_address of the same version as another one. Raises ValueError."""
    if len(text) > 45:  # the longest address; parsing more costs time
        raise ValueError("too long")
    if "%" in text:
        raise ValueError("an address with a scope ID means nothing to other hosts")
    ip, version = ipaddress.ip_address(text), ipaddress.ip_address(like).version
    if ip.version != version or getattr(ip, "ipv4_mapped", None):
        raise ValueError(f"this server uses IPv{version}")
    return ip


def parse(body: Union[str, bytes]) -> Tuple[str, List[MediaLine]]:
    """Return (value of the t= line, [MediaLine]) of a description, str or bytes. Raises SDPError.

    Lenient: LF line ends, unknown lines and attributes, and any order below an m= line.
    """
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    lines = text.split("\n", MAX_LINES)
    if len(lines) > MAX_LINES:
        raise SDPError("too many lines")
    time = "0 0"
    media: List[MediaLine] = []
    here: Any = SimpleNamespace(address=[], direction="sendrecv", rtpmap={})
    session = here
    for line in lines:
        kind, _, value = line.strip().partition("=")
        name, _, argument = value.partition(":")
        if kind == "m":
            if len(media) == MAX_MEDIA:
                raise SDPError("too many m= lines")
            here = MediaLine(value, session.address, session.direction)
            media.append(here)
        elif kind == "t" and here is session:
            time = " ".join(value.split()[:2])  # our answer repeats it, and it may hold a bare CR
        elif kind == "c":
            here.address = value.split()
        elif kind == "a" and value in DIRECTIONS:
            here.direction = value
        elif kind == "a" and name == "rtcp":
            here.rtcp = argument
        elif kind == "a" and name == "rtpmap":
            payload_type, _, encoding = argument.strip().partition(" ")
            here.rtpmap[payload_type] = encoding.strip().upper()
    if not media:
        raise SDPError("no audio offered: there is no m= line", 304)
    return time, media


def host_names(body: bytes) -> List[str]:
    """Return the host names in the c= lines of a body, each once."""
    names = [match.group(2).decode() for match in NAMED.finditer(body)]
    return [name for name in dict.fromkeys(names) if not NUMERIC.fullmatch(name)]


def with_addresses(body: bytes, found: Dict[str, str]) -> bytes:
    """Return a body with IP addresses in place of the host names of its c= lines."""
    def replace(match):
        name = match.group(2).decode()
        return match.group(1) + found.get(name, name).encode()

    return NAMED.sub(replace, body)


class Negotiation:
    """Our side of a call's offers and answers.

    ip, port: where our RTP socket is reached. is_own((ip, port)) says whether an address is one of
    this server's sockets, where no audio may go. codecs: as we prefer them; an answer names one,
    an offer all. The version in o= rises only when what we say changes (RFC 3264 8).
    """

    def __init__(self, ip, port, is_own=lambda address: False, codecs=DEFAULT):
        self.ip, self.port, self._is_own, self._codecs = ip, port, is_own, codecs
        self._time = "0 0"
        self._id, self._version, self._said = secrets.randbits(31), 0, None
        self._slots = [None]  # the m= lines so far: the rejection of each, None for our audio
        self._types = {}  # codec: its agreed payload type, which stays (RFC 3264 8.3.2)
        self._formats = []  # (payload type, codec) that we described last
        self._body = b""  # our last description

    def answer(self, offer: Union[str, bytes]) -> Tuple[bytes, Agreement]:
        """Take an offer; return (answer as bytes, Agreement). An SDPError leaves no trace of it."""
        time, media = parse(offer)
        if self._said and not any(line.port for line in media):
            return self._switch_off(time, media)
        chosen, formats = self._choose(media)
        agreement = self._agree(media[chosen], formats, formats)
        self._time, self._slots = time, [m.refused() for m in media]
        self._slots[chosen] = None
        agreed = {codec: pt for pt, codec in formats}
        self._types = {codec: pt for codec, pt in self._types.items() if pt not in agreed.values()}
        self._types.update(agreed)
        return self._describe(formats, agreement.sending, agreement.receiving), agreement

    def _switch_off(self, time, media):
        """Answer an offer that ends every stream: the call goes on without audio (RFC 3264 8.2)."""
        ours = self._slots.index(None)
        if ours >= len(media) or media[ours].kind != "audio":
            raise SDPError("the audio line is missing", 399)
        self._time, self._slots = time, [line.refused() for line in media]
        answer = self._describe([], False, False)
        self._slots[ours] = None  # our next offer may use the line again
        return answer, NOTHING

    def offer(self) -> bytes:
        """Return our full offer: all formats, sendrecv, even during a hold (RFC 6337 5.3)."""
        for codec in (*self._codecs, EVENT):
            taken = set(self._types.values())
            free = [pt for pt in (codec.payload_type, *range(96, 128)) if pt not in taken]
            self._types.setdefault(codec, free[0])
        return self._describe(self._offered(), True, True)

    def repeat(self) -> bytes:
        """Return our last description as an offer that changes nothing, for a session refresh."""
        return self._body

    def on_answer(self, answer: Union[str, bytes]) -> Agreement:
        """Take the answer to our offer; return the Agreement. Raises SDPError."""
        media, at = parse(answer)[1], self._slots.index(None)
        if at >= len(media) or not media[at].port or not self._formats:
            return NOTHING  # also if a peer answers our port 0 with a port
        self._usable(media[at])
        # RFC 3264 7: any format of the answer may arrive; the first is the one to send
        ours, line = self._formats, media[at]
        theirs = sorted((pair for _, codec in ours for pair in line.find(codec)),
                        key=lambda pair: (pair[1] is EVENT, line.formats.index(str(pair[0]))))
        if not theirs or theirs[0][1] is EVENT:
            raise SDPError(f"no codec of our offer in the answer: {line.offered()}", 305)
        return self._agree(line, ours, theirs)

    def _choose(self, media):
        """Return (index, formats) of the first usable m= line. Raises SDPError."""
        rejection = SDPError("no audio offered", 304)
        for index, line in enumerate(media):
            if line.kind == "audio" and line.port:
                try:
                    return index, self._usable(line)
                except SDPError as error:
                    rejection = error
        raise rejection

    def _usable(self, line):
        """Return [(payload type, codec), (payload type, EVENT) if offered] of an audio line.

        Raises SDPError where it can't be taken.
        """
        if line.proto.upper() != "RTP/AVP":
            raise SDPError(f"audio over {line.proto!r} is not supported, only RTP/AVP", 302)
        remote = line.remote(self.ip)
        if remote and self._is_own(remote):
            raise SDPError("the audio would go to an address of this server", 399)
        for codec in self._codecs:
            formats = line.find(codec)
            if formats:
                return formats + line.find(EVENT)
        names = ", ".join(f"{codec.name}/{codec.rate}" for codec in self._codecs)
        raise SDPError(f"no common codec; supported: {names}; offered: {line.offered()}", 305)

    def _agree(self, line, ours, theirs):
        """Return the Agreement with the other side's m= line (RFC 3264 6.1, 8.4).

        ours, theirs: [(payload type, codec)], what each side wants to receive.
        """
        they_send, they_receive = DIRECTIONS[line.direction]
        remote = line.remote(self.ip)
        types = {codec: pt for pt, codec in ours}
        formats = {types[codec]: pt for pt, codec in theirs}
        others = {types[codec]: codec.name for _, codec in theirs[1:] if codec is not EVENT}
        return Agreement(remote, formats, they_receive and remote is not None, they_send,
                         theirs[0][1].name, line.remote_rtcp(remote),
                         types[EVENT] if EVENT in (codec for _, codec in theirs) else None, others)

    def _offered(self):
        return [(self._types[codec], codec) for codec in (*self._codecs, EVENT)]

    def _describe(self, formats, sending, receiving):
        direction = {v: k for k, v in DIRECTIONS.items()}[sending, receiving]
        lines = [line for slot in self._slots
                 for line in ([slot] if slot else self._audio(formats, direction))]
        if (self._time, lines) != self._said:
            self._said, self._version = (self._time, lines), self._version + 1
        here = f"IN {'IP6' if ':' in self.ip else 'IP4'} {self.ip}"
        head = ["v=0", f"o=- {self._id} {self._version} {here}", "s=-", f"c={here}",
                f"t={self._time}"]
        self._formats, self._body = formats, ("\r\n".join(head + lines) + "\r\n").encode()
        return self._body

    def _audio(self, formats, direction):
        types = " ".join(str(pt) for pt, _ in formats)
        lines = [f"m=audio {self.port} RTP/AVP {types}"]
        lines += [f"a=rtpmap:{pt} {c.name}/{c.rate}" for pt, c in formats]
        lines += [f"a=fmtp:{pt} 0-15" for pt, c in formats if c is EVENT]
        return lines + ["a=ptime:20", f"a={direction}"]
