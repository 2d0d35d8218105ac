"""The parts of SIP headers: lists, parameters, addresses, URIs, Via; tags, branches, numbers.

Everything here is a function of strings. Malformed input raises a ValueError that names the
defect; every function takes linear time. Results are cached, because the same message is asked for
the same values again and again, so do not modify them.
"""

import functools
import hashlib
import re
import secrets
from typing import Dict, Iterable, List, NamedTuple, Tuple
from urllib.parse import unquote

MAGIC_COOKIE = "z9hG4bK"  # a branch that starts so is unique (RFC 3261 8.1.1.7)
TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")  # RFC 3261 25.1
DIGITS = re.compile(r"[0-9]{1,10}")  # int() alone takes "1_0", " 1" and a million digits
HOST_PORT = re.compile(r"([A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
VIA = re.compile(r"SIP\s*/\s*2\.0\s*/\s*([^\s/;]+)\s+(\S.*)", re.I)
QUOTED = r'"(?:[^"\\]+|\\.?)*("?)'  # to the end where it is not closed; never tried twice
STRING = re.compile(QUOTED, re.DOTALL)
ELEMENT = {separator: re.compile(rf'(?:[^"<{separator}]+|{QUOTED}|<[^>]*>?)*', re.DOTALL)
           for separator in ",;"}
FEW = 10  # values read of a header that may name the caller: trunks send two
LONGEST_USER = 256  # characters; unescaping more costs more than a call is worth
LONGEST_NAME = 256  # characters; the name is written to the log
remembered = functools.lru_cache(64)  # values; a message has few
SECRET = secrets.token_bytes(16)


class PortError(ValueError):
    """A port that cannot be used, such as 0."""


class Address(NamedTuple):
    """A name-addr or addr-spec with the header parameters behind it (RFC 3261 20.10)."""

    display: str
    uri: str
    params: Dict[str, str]

    @property
    def tag(self) -> str:
        return self.params.get("tag", "")


class URI(NamedTuple):
    """A parsed URI. `host` keeps IPv6 brackets; `port` is 0 if the URI has none."""

    scheme: str
    user: str
    host: str
    port: int
    params: Dict[str, str]
    headers: str


class Via(NamedTuple):
    """One Via value. `port` is 0 if it has none."""

    transport: str
    host: str
    port: int
    params: Dict[str, str]

    @property
    def branch(self) -> str:
        return self.params.get("branch", "")


def split_outside(text: str, separator: str) -> List[str]:
    """Split at separator, "," or ";", but not inside "quoted strings" or <angle brackets>."""
    if '"' not in text and "<" not in text:
        return text.split(separator)
    parts, start, element = [], 0, ELEMENT[separator]
    while start <= len(text):
        end = element.match(text, start).end()  # type: ignore[union-attr]  # it matches "" too
        parts.append(text[start:end])
        start = end + 1
    return parts


@remembered
def split_list(value: str) -> List[str]:
    """Return the elements of a comma-separated header value, without the empty ones."""
    return [part for part in (p.strip(" \t") for p in split_outside(value, ",")) if part]


def parse_params(parts: Iterable[str]) -> Dict[str, str]:
    """Return {lower-case name: value} of ["a=1", "lr", ...]; the first of a repeated name."""
    params: Dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        name, value = name.strip(" \t").lower(), value.strip(" \t")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if name:
            params.setdefault(name, value)
    return params


@remembered
def parse_address(value: str) -> Address:
    """Parse `"Bob" <sip:bob@host>;tag=1` or `sip:bob@host;tag=1`. Raises ValueError."""
    before, *params = split_outside(value, ";")
    before = before.strip(" \t")
    display, bracket, rest = _split_display(before)
    if not bracket:  # RFC 3261 20.10: without <> every parameter belongs to the header
        uri, display = before, ""
    else:
        uri, closing, tail = rest.partition(">")
        if not closing or tail.strip(" \t"):
            raise ValueError("unbalanced angle brackets")
        uri = uri.strip(" \t")
    if not uri or any(char in uri for char in ' \t"<>'):
        raise ValueError("no URI")
    return Address(display, uri, parse_params(params))


def _split_display(text):
    """Return (display name, "<" or "", the rest). Raises ValueError."""
    if not text.startswith('"'):
        display, bracket, rest = text.partition("<")
        return display.strip(" \t"), bracket, rest
    string = STRING.match(text)
    if not string.group(1):
        raise ValueError("unbalanced quotes")
    middle, bracket, rest = text[string.end():].partition("<")
    if middle.strip(" \t") or not bracket:
        raise ValueError("no < after the display name")
    pieces = string.group()[1:-1].split("\\\\")
    return "\\".join(piece.replace("\\", "") for piece in pieces), bracket, rest


@remembered
def parse_uri(text: str) -> URI:
    """Parse a URI; of schemes other than sip and sips only scheme and user. Raises ValueError."""
    scheme, colon, rest = text.partition(":")
    if not colon or not SCHEME.fullmatch(scheme) or any(c in rest for c in " \t<>\""):
        raise ValueError("no scheme and address")
    scheme = scheme.lower()
    if scheme not in ("sip", "sips"):
        return URI(scheme, rest.partition(";")[0], "", 0, {}, "")
    userinfo, _, hostpart = rest.rpartition("@")  # the user part may hold ; and ? itself
    hostpart, _, headers = hostpart.partition("?")
    hostport, *params = hostpart.split(";")
    host, port = split_host_port(hostport)
    return URI(scheme, userinfo.partition(":")[0], host, port, parse_params(params), headers)


def request_uri(uri: str) -> str:
    """Return a URI without the parts that a Request-URI may not have (RFC 3261 19.1.1)."""
    user, at, rest = uri.rpartition("@")
    rest, *params = rest.partition("?")[0].split(";")
    return ";".join([user + at + rest]
                    + [param for param in params if not param.lower().startswith("method=")])


def split_host_port(text: str) -> Tuple[str, int]:
    """Return (host, port) of `host:5060` or `[::1]`; port 0 if none.

    Raises ValueError; PortError if only the port is wrong.
    """
    match = HOST_PORT.fullmatch(text)
    if not match:
        raise ValueError("bad host or port")
    port = int(match.group(2) or 0)
    if match.group(2) and not 0 < port < 65536:
        raise PortError("port out of range")
    return match.group(1), port


@remembered
def parse_via(value: str) -> Via:
    """Parse one Via value; spaces are allowed around / : ; and =. Raises ValueError."""
    protocol, *params = split_outside(value, ";")
    match = VIA.fullmatch(protocol.strip(" \t"))
    if not match:
        raise ValueError("no SIP/2.0, transport and host")
    host, port = split_host_port(":".join(p.strip() for p in match.group(2).rsplit(":", 1)))
    return Via(match.group(1).upper(), host, port, parse_params(params))


@remembered
def parse_cseq(value: str) -> Tuple[int, str]:
    """Return (number, method). Raises ValueError unless the number is below 2**31."""
    number, method = (value.split() + ["", ""])[:2]
    if not DIGITS.fullmatch(number) or int(number) >= 2 ** 31 or not TOKEN.fullmatch(method):
        raise ValueError("no number below 2**31 and method")
    return int(number), method


def new_tag() -> str:
    """Return a random tag of 64 bits (RFC 3261 19.3)."""
    return secrets.token_hex(8)


def new_branch() -> str:
    """Return a random branch with the magic cookie."""
    return MAGIC_COOKIE + secrets.token_hex(8)


def stable_tag(*parts: str) -> str:
    """Return the same tag for the same parts, for stateless responses (RFC 3261 8.2.7)."""
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.blake2s(text, key=SECRET, digest_size=8).hexdigest()


def q850_cause(message) -> int:
    """Return the ITU-T Q.850 cause in the Reason of a BYE or CANCEL (RFC 3326), 0 for none."""
    for value in message.headers_all("Reason"):
        protocol, *params = split_outside(value, ";")
        cause = parse_params(params).get("cause", "")
        if protocol.strip().upper() == "Q.850" and DIGITS.fullmatch(cause):
            return int(cause)
    return 0


class Identity(NamedTuple):
    """The caller beyond the number: P-Asserted-Identity, Remote-Party-ID, Diversion, History-Info.

    name: the display name, or "". diverted_by: the number that forwarded the call, or "".
    private: the caller asks not to be shown (RFC 3323, RFC 3325).
    """

    name: str
    diverted_by: str
    private: bool


def get_identity(message) -> Identity:
    """Return the Identity that a request gives."""
    remote_party = _calling_parties(message)
    names = [address.display for address in _addresses(
        _first(message, "P-Asserted-Identity") + remote_party + _first(message, "From"))]
    history = message.headers_all("History-Info")[-2::-1][:FEW]  # RFC 7044: the last is our own
    diverted_by = _first_user(_first(message, "Diversion") + history)
    wishes = message.header("Privacy", "").lower().replace(",", ";").split(";")
    hidden = {wish.strip() for wish in wishes} & {"id", "header", "user", "session"}
    shielded = any(address.params.get("privacy", "off").lower() != "off"
                   for address in _addresses(remote_party))
    anonymous = _first_user(_first(message, "From")).lower() == "anonymous"
    private = bool(hidden) or shielded or anonymous
    name = next((name for name in names if 0 < len(name) <= LONGEST_NAME), "")
    return Identity(name, diverted_by, private)


def _first(message, name):
    return message.headers_all(name)[:FEW]


def _calling_parties(message):
    """Return the Remote-Party-IDs that describe the caller, as IOS sends them."""
    return [value for value in _first(message, "Remote-Party-ID")
            if "party=called" not in value.lower().replace(" ", "")]


def _addresses(values):
    for value in values:
        try:
            yield parse_address(value)
        except ValueError:
            continue


def get_caller_number(message) -> str:
    """Return the caller's user part: of P-Asserted-Identity, or else of From, or else "".

    If that is empty or "anonymous", Remote-Party-ID may have the number. The From of a response is
    our own.
    """
    sender = [] if message.is_response() else _first(message, "From")
    told = _first_user(_first(message, "P-Asserted-Identity") + sender)
    if told.lower() in ("", "anonymous"):
        return _first_user(_calling_parties(message)) or told
    return told


def get_called_number(message) -> str:
    """Return the called user: the first of Request-URI, P-Called-Party-ID, To, Diversion."""
    values = [value for name in ("P-Called-Party-ID", "To", "Diversion")
              for value in _first(message, name)]
    return _first_user([f"<{message.uri}>", *values])  # a response has no URI


def _first_user(values):
    for address in _addresses(values):
        try:
            user = parse_uri(address.uri).user
        except ValueError:
            continue
        if 0 < len(user) <= LONGEST_USER:
            return unquote(user.partition(";")[0])
    return ""
