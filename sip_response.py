"""Build SIP messages: SIPResponse, where a response goes, and the one serializer."""

from typing import Any, Iterable, List, NamedTuple, Tuple

from sip_utils import split_outside, stable_tag
from siprtp.sockets import same_ip

SERVER = "sip-rtp-server"
SIP_PORT = 5060  # where a Via or URI names no port
REASONS = {
    100: "Trying", 180: "Ringing", 200: "OK", 400: "Bad Request", 401: "Unauthorized",
    402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 410: "Gone", 413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type", 416: "Unsupported URI Scheme", 420: "Bad Extension",
    422: "Session Interval Too Small", 469: "Bad Info Package", 480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops",
    484: "Address Incomplete", 485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated",
    488: "Not Acceptable Here", 489: "Bad Event", 491: "Request Pending",
    500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Server Time-out", 505: "Version Not Supported",
    600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}


class SIPResponse:
    """A response to request (a SIPMessage): bytes(SIPResponse(200, "OK", request)).

    reason: "" takes the usual phrase. to_tag: the dialog's; without it every response but 100
    gets a tag derived from the request, so that retransmissions carry the same one (RFC 3261
    8.2.6.2, 8.2.7). headers: (name, value) pairs added to the copied ones. body: SDP as bytes.
    """

    def __init__(self, code, reason, request, to_tag="", headers=(), body=b""):
        self.code = code
        self.reason = reason or REASONS.get(code, "Unknown")
        self.headers = copied_headers(request, code, to_tag) + list(headers)
        self.headers.append(("Server", SERVER))
        self.body = body

    def __bytes__(self):
        return serialize(f"SIP/2.0 {self.code} {self.reason}", self.headers, self.body)

    def __str__(self):
        return bytes(self).decode("utf-8", "replace")


def serialize(start_line: str, headers: Iterable[Tuple[str, str]], body: bytes = b"") -> bytes:
    """Return the bytes of a message; Content-Type (for a body) and Content-Length are added."""
    lines = [start_line] + [f"{name}: {value}" for name, value in headers]
    if body:
        lines.append("Content-Type: application/sdp")
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def copied_headers(request, code: int, to_tag: str = "") -> List[Tuple[str, str]]:
    """Return the headers that a response copies from its request (RFC 3261 8.2.6.2, 12.1.1)."""
    headers = [("Via", via) for via in stamped_vias(request)]
    if code > 100 and code < 300 and request.method() == "INVITE":
        headers += [("Record-Route", value) for value in request.headers_all("Record-Route")]
    for name in ("From", "To", "Call-ID", "CSeq", "Timestamp"):
        value = request.header(name)
        if name == "To" and code > 100 and value is not None and not has_tag(value):
            value += f";tag={to_tag or own_tag(request)}"
        if value is not None:
            headers.append((name, value))
    return headers


def own_tag(request) -> str:
    """Return the To tag of responses outside a dialog: the same for each retransmission."""
    number = request.header("CSeq", "").partition(" ")[0]  # a CANCEL's tag is its INVITE's
    return stable_tag(number, *(request.header(name, "") for name in ("From", "To", "Call-ID")))


def has_tag(value: str) -> bool:
    """Return whether a From or To value, however malformed, has a tag."""
    params = split_outside(value, ";")[1:]
    return any(param.partition("=")[0].strip(" \t").lower() == "tag" for param in params)


def stamped_vias(request) -> List[str]:
    """Return all Via values in order, the first with received and rport filled in.

    RFC 3261 18.2.1: received is added if the source differs from sent-by. RFC 3581 4: with rport,
    received and the source port are always added.
    """
    vias = request.headers_all("Via")
    if not vias or not request.source:
        return vias
    try:
        via = request.via
    except ValueError:
        return vias
    ip, port = request.source[:2]
    first, *params = split_outside(vias[0], ";")
    kept = []
    for param in params:
        name = param.partition("=")[0].strip(" \t").lower()
        if name == "rport":
            kept.append(f"rport={port}")
        elif name != "received":  # the sender's own received is dropped
            kept.append(param)
    if "rport" in via.params or not same_ip(via.host, ip):
        kept.append(f"received={ip}")
    return [";".join([first] + kept)] + vias[1:]


class TCPHop(NamedTuple):
    """A destination over TCP: a connection, or (ip, port) once that is gone."""

    ip: str
    port: int
    connection: Any = None


def response_address(request):
    """Return where a response goes (RFC 3261 18.2.2, RFC 3581 4): (ip, port), or a TCPHop.

    Over UDP that is the source IP with the port of the Via, not the source port: IOS and CUBE send
    from ephemeral ports on which they do not listen. Only rport asks for the source port.
    """
    ip, port = request.source[:2]
    try:
        via = request.via
        if "rport" not in via.params or request.connection:
            port = via.port or SIP_PORT
    except ValueError:
        pass  # without a usable Via: back to the source
    return TCPHop(ip, port, request.connection) if request.connection else (ip, port)
