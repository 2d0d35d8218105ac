"""What the sockets share: options, and which address of ours faces another.

Imports: standard library only.
"""

import logging
import os
import socket
import struct

log = logging.getLogger(__name__)

DSCP_SIP, DSCP_RTP = 24, 46  # CS3, EF (RFC 4594)


def wake_every(sock, seconds):
    """Let a blocking recv raise BlockingIOError or socket.timeout when nothing came for so long.

    By the kernel where it can: settimeout costs a poll a packet, and makes send wait as well.
    """
    if os.name == "posix":
        whole, part = int(seconds), int(seconds % 1 * 1000000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))
    else:
        sock.settimeout(seconds)


def set_dscp(sock, dscp):
    """Mark what a socket sends with a DSCP (RFC 4594), where the system lets us."""
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    except OSError as error:
        log.debug("DSCP %d not set: %s", dscp, error)


def local_address(ip):
    """Return the address of this machine that faces ip; nothing is sent. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except OSError:
            return "127.0.0.1"  # no network but the loopback
        return probe.getsockname()[0]
