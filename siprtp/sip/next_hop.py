"""Choose the next hop of our own requests, and send them there (RFC 3261 8.1.2, 12.2.1.1).

All of it runs in the SIP thread.
"""

import ipaddress
import logging
from typing import Any, Callable, NamedTuple, Tuple, Union

from sip_response import SIP_PORT, TCPHop, response_address
from sip_utils import parse_uri
from siprtp.sip.sdp import NUMERIC, sendable
from siprtp.sockets import plain_ip, same_ip

log = logging.getLogger(__name__)


class OwnRequest(NamedTuple):
    """A request of ours. on_final(response) gets None if no final response comes."""

    dialog: Any
    method: str
    branch: str
    data: bytes
    next_hop: Union[str, tuple]  # a URI; or the (ip, port) or TCPHop of the peer's source
    on_final: Callable


class Source(NamedTuple):
    """Where the peer is, as its last authentic request shows."""

    address: Tuple  # (ip, port) of our responses, or the TCPHop of its connection
    preferred: bool  # whether requests go here even if the target can be reached

    @classmethod
    def of(cls, request) -> "Source":
        """Return the Source of a request with a valid Via.

        It is preferred over TCP (as in RFC 5923); and over UDP if the request asks for rport, or
        came through NAT: its source IP is not the one in its Via. The port tells nothing, because
        IOS sends from ports on which it does not listen. With several Vias the source is a proxy,
        and one without a Record-Route does not want our requests.
        """
        via, (ip, port) = request.via, request.source[:2]
        from_proxy = len(request.headers_all("Via")) > 1
        if request.connection:
            return cls(TCPHop(ip, port, request.connection), not from_proxy)
        host = plain_ip(via.host.strip("[]"))
        translated = host != "" and not same_ip(host, ip)
        return cls(response_address(request),
                   (translated or "rport" in via.params) and not from_proxy)

    def replaces(self, target: str) -> bool:
        """Return whether requests go to this source instead of the peer's target, a URI."""
        if isinstance(self.address, TCPHop) and not self.address.connection.open:
            return False
        try:
            host = plain_ip(hop_address(target)[0])
        except ValueError:
            return True  # nothing can be sent to the target
        if host and (":" in host) != (":" in self.address[0]):
            return True  # nor from an IPv4 socket to an IPv6 address
        unreachable = host != "" and is_global(self.address[0]) and not is_global(host)
        return self.preferred or unreachable


class RequestSender:
    """Sends requests in dialogs.

    transactions: the ClientTransactions. admission: knows which peers are verified. reply(data,
    address): sends within the credit of an unverified peer. lookups: the Lookups.
    """

    def __init__(self, transactions, admission, reply, lookups):
        self._transactions, self._admission = transactions, admission
        self._reply, self._lookups = reply, lookups

    def send(self, dialog, method, branch, data, next_hop, on_final):
        """Send a request of ours to its next hop; if that is a name, look it up first.

        Before the first ACK of the dialog the request goes to the source of the INVITE instead.
        """
        request = OwnRequest(dialog, method, branch, data, next_hop, on_final)
        if not dialog.acked:
            self._send_to_source(request)
            return
        if not isinstance(next_hop, str):
            self._transactions.send(method, branch, data, next_hop, on_final,
                                    isinstance(next_hop, TCPHop))
            return
        try:
            host, port = hop_address(next_hop)
            if plain_ip(host):
                self._send_to(request, (plain_ip(host), port))
            else:
                self._start_lookup(request, host, port)
        except (ValueError, RuntimeError) as error:
            log.warning("%s: %s cannot be sent to %.99r: %s", dialog, method, next_hop, error)
            on_final(None)

    def _send_to_source(self, request):
        """Send to the source of an INVITE: it may be forged, and its Contact may name any host."""
        address = response_address(request.dialog.invite)
        if self._admission.needs_no_credit(address[0]):
            self._transactions.send(request.method, request.branch, request.data, address,
                                    request.on_final, isinstance(address, TCPHop))
        else:  # once, within what the peer has sent
            self._reply(request.data, address)
            request.on_final(None)

    def _send_to(self, request, address):
        dialog = request.dialog
        reliable = hop_transport(request.next_hop, dialog.transport) == "TCP"
        if reliable:
            source = dialog.source.address  # the caller's own connection may lead to the next hop
            same = isinstance(source, TCPHop) and source.ip == address[0]
            address = TCPHop(*address, source.connection if same else None)
        self._transactions.send(request.method, request.branch, request.data, address,
                                request.on_final, reliable)

    def _start_lookup(self, request, host, port):
        """Look a name up, then send. Raises RuntimeError if no look-up can start."""
        def on_done(found):
            if host in found and sendable(ipaddress.ip_address(found[host].partition("%")[0])):
                self._send_to(request, (found[host], port))
                return
            log.warning("%s: %s cannot be sent, no usable address for %.99r", request.dialog,
                        request.method, host)
            request.on_final(None)

        self._lookups.start(request.dialog.invite.source[0], [host], on_done)


def leads_to(uri, address):
    """Return whether a URI names an (ip, port); of a TCPHop only the IP counts."""
    try:
        host, port = hop_address(uri)
    except ValueError:
        return False
    return same_ip(host, address[0]) and (isinstance(address, TCPHop) or port == address[1])


def is_loose(uri):
    """Return whether a route's URI is a loose router's (RFC 3261 19.1.1)."""
    try:
        return "lr" in parse_uri(uri).params
    except ValueError:
        return True


def is_global(ip):
    """Return whether an IP address is one of the internet's, not a private one."""
    return ipaddress.ip_address(ip.partition("%")[0]).is_global


def hop_transport(next_hop, default):
    """Return "UDP" or "TCP": what a next hop asks for, or else the transport of the call."""
    if not isinstance(next_hop, str):
        return "TCP" if isinstance(next_hop, TCPHop) else "UDP"
    uri = next_hop
    try:
        wanted = parse_uri(uri).params.get("transport", default).upper()
    except ValueError:
        wanted = default
    return "TCP" if wanted == "TCP" else "UDP"


def hop_address(uri):
    """Return the (host, port) of a SIP URI: maddr before host, 5060 if it names no port.

    Raises ValueError if it is no SIP URI, or one that names no single host: 0.0.0.0, which some
    clients put into their Contact, a multicast address, an address in an unusual spelling, port 0.
    """
    parsed = parse_uri(uri)
    host = (parsed.params.get("maddr") or parsed.host).strip("[]")
    ip = plain_ip(host)
    usable = sendable(ipaddress.ip_address(ip)) if ip else not NUMERIC.fullmatch(host)
    if not 0 < len(host) < 256 or not usable:
        raise ValueError("the URI has no usable host")
    return host, parsed.port or SIP_PORT
