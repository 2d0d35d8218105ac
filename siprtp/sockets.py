"""Sockets: their options, addresses as text, and which address of ours faces a peer."""

import ipaddress
import logging
import os
import socket
import struct

log = logging.getLogger(__name__)

DSCP_SIP, DSCP_RTP = 24, 46  # CS3, EF (RFC 4594)


def wake_every(sock: socket.socket, seconds: float) -> None:
    """Let a blocking recv raise BlockingIOError or socket.timeout after so many idle seconds.

    The kernel does it on POSIX: settimeout costs one poll per packet, and makes send wait too.
    """
    if os.name == "posix":
        whole, part = int(seconds), int(seconds % 1 * 1000000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", whole, part))
    else:
        sock.settimeout(seconds)


def family_of(ip: str) -> socket.AddressFamily:
    """Return AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def open_socket(ip: str, kind: int) -> socket.socket:
    """Return an unbound socket of a kind (SOCK_DGRAM, SOCK_STREAM) for an IP. Raises OSError."""
    sock = socket.socket(family_of(ip), kind)
    if ":" in ip:  # if :: took IPv4 as well, every address would have two forms
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def host_port(ip: str, port: int) -> str:
    """Return "ip:port" as SIP writes it, an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def plain_ip(text: str) -> str:
    """Return an IP address in its usual spelling, a mapped IPv4 one as IPv4; "" for a name."""
    if not same_ip(text, text):
        return ""
    ip = ipaddress.ip_address(text)
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def network(ip: str) -> str:
    """Return the IP, or its /64 for IPv6, because one host can take any address of a /64."""
    if ":" not in ip:
        return ip
    return str(ipaddress.ip_network((ip.partition("%")[0], 64), strict=False))


def same_ip(one: str, other: str) -> bool:
    """Return whether two texts are the same IP address, in any spelling, with or without []."""
    if "%" in one + other:
        return False  # a scope ID may be any text
    try:
        return ipaddress.ip_address(one.strip("[]")) == ipaddress.ip_address(other.strip("[]"))
    except ValueError:
        return False


def set_dscp(sock: socket.socket, dscp: int) -> None:
    """Mark the packets that a socket sends with a DSCP (RFC 4594), if the system allows it."""
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    except OSError as error:
        log.debug("DSCP %d not set: %s", dscp, error)


def local_address(ip: str) -> str:
    """Return the address of this machine that faces ip, without sending. Raises OSError."""
    with open_socket(ip, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except OSError:
            return "::1" if ":" in ip else "127.0.0.1"  # there is no network but the loopback
        return probe.getsockname()[0]
