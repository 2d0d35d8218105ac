"""Parse SIP messages: SIPMessage(raw); and SIPError, a rejection with its status.

The constructor accepts any bytes and never raises. `.valid` says whether they are SIP at all, and
`check()` raises the SIPError that answers a defective request. Bytes on the wire, str inside:
bytes that are not UTF-8 survive as surrogate escapes.
"""

import re
from collections.abc import Mapping
from typing import List, Optional, Tuple

from sip_utils import (
    DIGITS,
    TOKEN,
    PortError,
    Via,
    parse_address,
    parse_cseq,
    parse_params,
    parse_uri,
    parse_via,
    split_list,
    split_outside,
)

COMPACT = {  # RFC 3261 7.3.3, RFC 4028, 6665, 3515, 3892, 3841
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition",
    "e": "content-encoding", "f": "from", "i": "call-id", "j": "reject-contact",
    "k": "supported", "l": "content-length", "m": "contact", "o": "event", "r": "refer-to",
    "s": "subject", "t": "to", "u": "allow-events", "v": "via", "x": "session-expires",
}
LISTS = frozenset("""
    accept accept-encoding accept-language alert-info allow allow-events call-info contact
    content-encoding content-language diversion history-info in-reply-to p-asserted-identity
    proxy-require reason record-route remote-party-id require route supported unsupported via
    warning
""".split())  # headers in which a comma separates values (RFC 3261 7.3.1)
SINGLE = ("from", "to", "call-id", "cseq", "content-length", "content-type")
TARGETS = ("INVITE", "UPDATE")  # methods whose Contact is where our requests go
REQUIRED = ("Via", "From", "To", "Call-ID", "CSeq")  # Cisco's BYE may lack Max-Forwards
# Limits far above what any trunk sends: more would only cost time
MAX_VALUES = 150  # header lines, and values of lists; a long INVITE has 80
MAX_MARKS = 600  # of parameters, quotes, brackets, escapes; a long INVITE has 150
MAX_URI = 1024  # characters of the Request-URI
MAX_BODIES = 8  # parts of a multipart body; trunks send four
MAX_BODY_HEADERS = 20  # lines and values of one of them
MAX_BOUNDARY = 70  # characters, RFC 2046 5.1.1
BLANK_LINE = re.compile(rb"\r?\n\r?\n")  # as in siprtp.sip.tcp, which cuts the stream there
# A line that is no header, but that another parser may take for a Content-Length or for two lines.
# Over TCP it could hide where a message ends, so the server rejects the request. It also rejects
# lines and folds beyond the limits, because it has not read what they hold.
FRAMING = re.compile(r"content\W*length|^\W*l\W*(?::|$)|[\r\n\0]|^[ \t]", re.IGNORECASE)
FOLD = re.compile(r"\n[ \t]+")
# Bodies that trunks send beside SDP or instead of it, and that a call does not need
IGNORABLE = frozenset(("application/gtd", "application/isup", "application/qsig", "text/plain",
                       "application/x-q931", "application/x-cisco-cpa", "application/rs-metadata"))


class SIPError(Exception):
    """A request is rejected: status, reason ("" for the usual phrase), headers of the response."""

    def __init__(self, status, reason, headers=()):
        super().__init__(status, reason)
        self.status, self.reason, self.headers = status, reason, list(headers)


class Headers(Mapping):
    """The first line of each header, by name: in any case, long or compact."""

    def __init__(self, fields):
        self._fields = fields

    def __getitem__(self, name):
        return self._fields[long_name(name)][0]

    def __iter__(self):
        return iter(self._fields)

    def __len__(self):
        return len(self._fields)


class SIPMessage:
    """A request or response.

    raw: str or bytes, one datagram. source: (ip, port) it came from, or None. connection: the TCP
    connection it came by, or None for UDP.
    Fields: `uri` (Request-URI), `status`, `reason`, `body` (bytes), `start_line`.
    """

    def __init__(self, raw, source=None, connection=None):
        if isinstance(raw, str):
            raw = raw.encode("utf-8", "surrogatepass")
        self.source, self.connection = source, connection
        self.transaction = None  # the server transaction, once there is one
        self.valid, self.uri, self.status, self.reason, self.version = False, "", 0, "", ""
        self._method, self._defect = "", ""
        head, self.body = split_head(bytes(raw).lstrip(b"\r\n"))
        self.start_line, _, fields = head.partition("\n")
        self.start_line = self.start_line.rstrip("\r")
        self._read_start_line()
        self._fields, defect = parse_fields(fields)
        self._defect = self._defect or defect
        self._cut_body()

    def is_request(self) -> bool:
        return self.valid and not self.status

    def is_response(self) -> bool:
        return self.valid and self.status > 0

    def method(self) -> str:
        """Return the request's method, or the one a response's CSeq names; "" for none."""
        if self._method or not self.valid:
            return self._method
        return (self.header("CSeq", "").split() + ["", ""])[1]

    @property
    def headers(self) -> Headers:
        return Headers(self._fields)

    def header(self, name, default=None):
        """Return the value of the first line of that name (any case, long or compact)."""
        return self._fields.get(long_name(name), [default])[0]

    def headers_all(self, name: str) -> List[str]:
        """Return every value of that name in order; comma-separated values count singly."""
        return list(self._values(long_name(name)))

    def _values(self, name):
        for line in self._fields.get(name, ()):
            yield from split_list(line) if name in LISTS else (line,)

    def _read_start_line(self):
        words = self.start_line.split(" ", 2)
        if words[0].upper().startswith("SIP/"):
            if len(words) > 1 and re.fullmatch("[1-6][0-9][0-9]", words[1]):
                self.valid, self.version, self.status = True, words[0].upper(), int(words[1])
                self.reason = " ".join(words[2:])
            return
        words = self.start_line.split()
        if len(words) < 3 or not words[-1].upper().startswith("SIP/"):
            return
        if not TOKEN.fullmatch(words[0]):
            return
        self.valid, self._method, self.version = True, words[0], words[-1].upper()
        self.uri = " ".join(words[1:-1])
        if self.start_line != f"{words[0]} {words[1]} {words[-1]}":
            self._defect = "Malformed request line"  # RFC 3261 7.1: single spaces, none in the URI

    def _cut_body(self):
        """RFC 3261 18.3: Content-Length delimits the body; bytes behind it are ignored."""
        length = self.header("Content-Length")
        if length is None:
            return
        if not DIGITS.fullmatch(length):
            self._defect = self._defect or "Malformed Content-Length"
        elif int(length) > len(self.body):
            self._defect = self._defect or "Content-Length exceeds the datagram"
            self.valid = self.valid and not self.status  # such a response is discarded
        elif self.connection and int(length) < len(self.body):
            # siprtp.sip.tcp has cut the stream elsewhere: it has read another Content-Length
            self._defect = self._defect or "Conflicting Content-Length"
        else:
            self.body = self.body[:int(length)]

    # Header values that a request must have, parsed on demand. ValueError: missing or malformed

    @property
    def via(self) -> Via:
        return parse_via(next(self._values("via"), ""))

    @property
    def cseq(self) -> Tuple[int, str]:
        return parse_cseq(self.header("CSeq", ""))

    @property
    def from_tag(self) -> str:
        return parse_address(self.header("From", "")).tag

    @property
    def to_tag(self) -> str:
        return parse_address(self.header("To", "")).tag

    def check(self) -> None:
        """Raise the SIPError that answers a defective request: 400 (names it), 505, 414 or 416."""
        if self.version != "SIP/2.0":
            raise SIPError(505, "")
        if len(self.uri) > MAX_URI:
            raise SIPError(414, "")
        defect = self._defect or self._find_defect()
        if defect:
            raise SIPError(400, defect)
        if not self.uri.lower().startswith(("sip:", "sips:", "tel:")):
            raise SIPError(416, "")

    def _find_defect(self):
        for name in REQUIRED:
            if not any(self._values(name.lower())):
                return f"Missing {name} header"
        for name in SINGLE:
            if len(set(self._fields.get(name, ()))) > 1:
                return f"Conflicting {name} headers"
        where = "Via"
        try:
            first, *others = self.headers_all("Via")
            parse_via(first)
            # RFC 3261 8.2.2: the server only copies the others, but each must at least be a Via
            if not all(via.upper().startswith("SIP") for via in others):
                raise ValueError("stray separators")
            for where in ("From", "To"):
                if parse_address(self.header(where)).params.get("tag", "some") == "":
                    raise ValueError("empty tag")
            for where in ("Contact", "Record-Route") if self._method in TARGETS else ():
                for value in self.headers_all(where)[:1]:  # our requests will go there
                    if not has_host(parse_address(value).uri):
                        raise ValueError("not a SIP URI")
            where = "CSeq"
            if self.cseq[1] != self._method:
                return "CSeq method does not match the request"
            where = "Request-URI"
            if parse_uri(self.uri).headers:
                return "Headers in the Request-URI"  # RFC 3261 19.1.1
        except ValueError as error:
            return f"Malformed {where}: {error}"
        if self.connection and self.header("Content-Length") is None:
            return "Missing Content-Length header"  # RFC 3261 18.3: over TCP it is mandatory
        return ""

    def sdp(self) -> Optional[bytes]:
        """Return the session description as bytes, or None if the message has none.

        Raises SIPError(415) for an encoded body, or one we must understand but do not.
        """
        return find_sdp(self._fields, self.body)

    def body_is_optional(self) -> bool:
        """Return whether a body that is no session description may be ignored (RFC 3261 20.11).

        Many phones send each peer an INFO with XML that asks for a video key frame.
        """
        try:
            return "Content-Type" in self.headers and self.sdp() is None
        except SIPError:
            return False


def has_host(uri: str) -> bool:
    """Return whether a URI is a SIP URI with a host. Raises ValueError if it is malformed."""
    try:
        return bool(parse_uri(uri).host)
    except PortError:
        return True  # lenient: some clients write port 0, and then we send to their source


def long_name(name: str) -> str:
    name = name.lower()
    return COMPACT.get(name, name)


def split_head(data: bytes) -> Tuple[str, bytes]:
    """Return (head as str without folds, body as bytes)."""
    match = BLANK_LINE.search(data)  # RFC 3261 7 wants CRLF; hand-made tests send LF
    head, body = (data[:match.start()], data[match.end():]) if match else (data, b"")
    text = head.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
    return FOLD.sub(" ", text, count=MAX_VALUES), body


def parse_fields(text, limit=MAX_VALUES):
    """Return ({long lower-case name: [values in order]}, the first defect or "").

    Lines that are no headers are left out, because RFC 3261 8.2.2 says to ignore what is not
    needed. So are lines beyond the limit of values.
    """
    fields, defect, values, marks = {}, "", limit, MAX_MARKS
    for line in text.split("\n", limit):
        name, colon, value = line.partition(":")
        name = name.strip(" \t\r")
        here, marked = 1 + line.count(","), sum(map(line.count, ';"<\\'))
        if not colon or not TOKEN.fullmatch(name):
            if FRAMING.search(line):
                defect = defect or "Malformed header line"
        elif here > values or marked > marks or "\n" in line or line[0] in " \t":
            defect = defect or f"Too many values, at {name:.40}"
        else:
            values, marks = values - here, marks - marked
            # a bare CR copied into a response would end a line for some parsers
            fields.setdefault(long_name(name), []).append(value.strip(" \t\r").replace("\r", " "))
    return fields, defect


def find_sdp(fields, body, depth=0):
    """Return the first application/sdp body, looking into multiparts, or None (RFC 5621)."""
    if not body.strip():
        return None
    content_type, *params = split_outside(fields.get("content-type", [""])[0], ";")
    content_type = content_type.strip().lower()
    disposition = fields.get("content-disposition", [""])[0].lower().replace(" ", "")
    if fields.get("content-encoding", ["identity"])[0].lower() != "identity":
        if "handling=optional" in disposition:
            return None
        raise SIPError(415, "", [("Accept-Encoding", "identity")])
    if content_type == "application/sdp":
        # RFC 3959: for the time before the answer, in which we send no audio
        return None if disposition.startswith("early-session") else body
    if not content_type:  # some UPDATEs of IOS carry SDP without a Content-Type
        return body if body.lstrip().startswith(b"v=0") else None
    if content_type.startswith("multipart/") and depth < 2:
        found = None
        for part in split_multipart(parse_params(params).get("boundary"), body):
            head, part_body = split_head(part)
            part_fields, _ = parse_fields(head, MAX_BODY_HEADERS)
            # a part without a disposition is one of Cisco's extras
            part_fields.setdefault("content-disposition", ["handling=optional"])
            inner = find_sdp(part_fields, part_body, depth + 1)
            found = inner if found is None else found
        return found
    ignorable = content_type in IGNORABLE or content_type.endswith("+xml")
    if "handling=optional" in disposition or (ignorable and "handling=required" not in disposition):
        return None
    raise SIPError(415, "", [("Accept", "application/sdp")])


def split_multipart(boundary, body):
    """Return the parts of a multipart body (RFC 2046 5.1.1); [] without a boundary.

    Raises SIPError(400) if there are too many.
    """
    if not boundary or len(boundary) > MAX_BOUNDARY:
        return []
    mark = re.escape(boundary.encode("utf-8", "surrogateescape"))
    pieces = re.split(rb"\n--" + mark + rb"(?:--)?[ \t]*(?=\r|\n|\Z)", b"\n" + body,
                      maxsplit=MAX_BODIES + 2)
    if len(pieces) > MAX_BODIES + 2:  # what is before the first and behind the last is no part
        raise SIPError(400, "Too many parts in the body")
    parts = [piece.lstrip(b"\r\n") for piece in pieces[1:]]
    return [part[:-1] if part.endswith(b"\r") else part for part in parts]
