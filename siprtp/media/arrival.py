"""When a datagram arrived: the kernel's time stamp, which does not depend on when we read it."""

import socket
import struct
import sys
from typing import Optional

SO_TIMESTAMP, TIMEVAL = 29, struct.Struct("@ll")  # of Linux; Python has no name for them


def enable_timestamps(sock: socket.socket) -> None:
    """Let the kernel stamp each datagram of a socket, on Linux."""
    if sys.platform == "linux":
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMP, 1)


def arrival_of(ancillary) -> Optional[float]:
    """Return when a datagram arrived, by the kernel's clock in seconds since 1970, or None."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMP and len(data) == TIMEVAL.size:
            seconds, microseconds = TIMEVAL.unpack(data)
            return seconds + microseconds / 1e6
    return None
