"""Ask a running server whether it serves: an OPTIONS from the same machine."""

import socket
import sys

from sip_message import SIPMessage
from sip_response import serialize
from sip_utils import new_branch, new_tag
from siprtp.sockets import host_port, open_socket

MARK = b"\r\nMax-Forwards: 0\r\n"
TRIES, SECONDS = 3, 1.0  # OPTIONS sent, and how long each waits for its answer


def is_ping(data, address, own_ip):
    """Return whether a message is a ping from our own address: no rate limit applies to it."""
    return address[0] == own_ip and data.startswith(b"OPTIONS ") and MARK in data


def ping(ip, port):
    """Send OPTIONS to the server at ip:port; return whether it serves, else say why on stderr."""
    uri, tag = f"sip:{host_port(ip, port)}", new_tag()
    try:
        with open_socket(ip, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect((ip, port))
            here = host_port(*sock.getsockname()[:2])
            for _ in range(TRIES):
                sock.send(serialize(f"OPTIONS {uri} SIP/2.0", [
                    ("Via", f"SIP/2.0/UDP {here};branch={new_branch()};rport"),
                    ("Max-Forwards", "0"), ("From", f"<sip:ping@{here}>;tag={tag}"),
                    ("To", f"<{uri}>"), ("Call-ID", new_tag()), ("CSeq", "1 OPTIONS")]))
                try:
                    return SIPMessage(sock.recv(65535)).status not in (0, 503)
                except socket.timeout:
                    continue
    except OSError as error:
        print(f"ping: {uri}: {error}", file=sys.stderr)
        return False
    print(f"ping: {uri} does not answer", file=sys.stderr)
    return False
