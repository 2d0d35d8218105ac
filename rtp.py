"""RTP: packets, the socket of a call, and a plain echo of one call (RFC 3550)."""

import errno
import itertools
import secrets
import socket
import struct
import threading
from collections import deque
from typing import Deque, NamedTuple, Optional, Tuple, Union

from siprtp.sip import sdp
from siprtp.sockets import DSCP_RTP, open_socket, set_dscp

HEADER = struct.Struct("!BBHII")  # V P X CC, M PT, sequence, timestamp, SSRC
MAX_PACKET = 2048  # bytes


class RTPPacket(NamedTuple):
    """An RTP packet. CSRCs, extension and padding are skipped on reading and never sent."""

    payload_type: int
    sequence: int  # 16 bits
    timestamp: int  # 32 bits, 8000 Hz for G.711
    ssrc: int
    payload: bytes
    marker: bool = False

    @classmethod
    def parse(cls, data: Union[bytes, memoryview]) -> "RTPPacket":
        """Return the packet in data. Raises ValueError saying what is wrong (RFC 3550 5.1)."""
        if len(data) < HEADER.size:
            raise ValueError("shorter than an RTP header")
        first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
        if first >> 6 != 2:
            raise ValueError("RTP version is not 2")
        start, end = HEADER.size + 4 * (first & 15), len(data)
        if first & 0x10:
            if end < start + 4:
                raise ValueError("header extension cut short")
            start += 4 + 4 * int.from_bytes(data[start + 2:start + 4], "big")
        if first & 0x20:
            if not 0 < data[-1] <= end - start:
                raise ValueError("padding longer than the payload")
            end -= data[-1]
        if start > end:
            raise ValueError("header longer than the packet")
        return cls(second & 127, sequence, timestamp, ssrc, bytes(data[start:end]), second > 127)

    def serialize(self) -> bytes:
        """Return the packet as bytes."""
        second = self.payload_type | (128 if self.marker else 0)
        return HEADER.pack(128, second, self.sequence, self.timestamp, self.ssrc) + self.payload


def open_rtp_socket(ip: str, start: int, end: Optional[int] = None,
                    first: Optional[int] = None) -> socket.socket:
    """Return a UDP socket bound to a free even port from start to end.

    first: the port to try first. Without end, the port is `start`, odd or even. Raises OSError,
    with errno EADDRINUSE if every port is in use.
    """
    ports = range(start, start + 1) if end is None else range(start + start % 2, end + 1, 2)
    skip = ports.index(first) if first is not None and first in ports else 0
    sock = open_socket(ip, socket.SOCK_DGRAM)
    try:
        for port in itertools.chain(ports[skip:], ports[:skip]):
            try:
                sock.bind((ip, port))
                sock.setblocking(False)
                set_dscp(sock, DSCP_RTP)
                return sock
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise OSError(errno.EADDRINUSE, f"no free port in {ports.start}-{ports.stop - 1}")
    except BaseException:
        sock.close()
        raise


def rtp_echo_server(server_ip: str, rtp_port: int, remote_sdp: Union[str, bytes],
                    stop_event: threading.Event) -> None:
    """Echo one call's RTP at server_ip:rtp_port, without SIP, until stop_event is set.

    remote_sdp: the other side's session description. Returns within a second of the event, with
    the port free again. Raises SDPError (a ValueError) or OSError.
    siprtp.media.echo, the echo of the server, does the same for many calls at once.
    """
    agreement = sdp.Negotiation(server_ip, rtp_port).answer(remote_sdp)[1]
    remote = agreement.remote or ("", 0)  # ("", 0) on hold: then nothing is echoed
    ssrc, sequence = secrets.randbits(32), secrets.randbits(16)
    # identities of the packets echoed last: a repeat is not echoed, but a counter may start again
    recent: Deque[Tuple[int, int, int]] = deque(maxlen=100)
    echoes = agreement.sending and agreement.receiving
    with open_rtp_socket(server_ip, rtp_port) as sock:
        sock.settimeout(0.5)  # seconds between two checks of the event
        while not stop_event.is_set():
            try:
                data, source = sock.recvfrom(MAX_PACKET)
                packet = RTPPacket.parse(data)
            except (socket.timeout, ConnectionError, ValueError):
                continue  # no packet, an ICMP error of an earlier one, or not RTP
            payload_type = agreement.formats.get(packet.payload_type)
            identity = packet.ssrc, packet.sequence, packet.timestamp
            if (not echoes or payload_type is None or len(data) == MAX_PACKET
                    or source[0] != remote[0] or identity in recent):
                continue
            # RFC 3550 8.2: a mirrored SSRC would look like a loop
            echo = packet._replace(payload_type=payload_type, sequence=sequence, ssrc=ssrc)
            try:
                sock.sendto(echo.serialize(), remote)
            except OSError:
                continue  # an ICMP error of an earlier packet, or no route: the next one may pass
            sequence = sequence + 1 & 0xFFFF
            recent.append(identity)
