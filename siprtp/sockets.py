"""What the sockets share: options, and which address of ours faces another."""

import ipaddress
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


def family_of(ip):
    """Return AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def open_socket(ip, kind):
    """Return an unbound socket of a kind (SOCK_DGRAM, SOCK_STREAM) for an IP. Raises OSError."""
    sock = socket.socket(family_of(ip), kind)
    if ":" in ip:  # where :: should take IPv4 as well, every address would have two forms
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def host_port(ip, port):
    """Return "ip:port" as SIP writes it, an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def plain_ip(text):
    """Return an IP address as the system spells it, a mapped IPv4 one as IPv4; "" for a name."""
    if not same_ip(text, text):
        return ""
    ip = ipaddress.ip_address(text)
    return str(getattr(ip, "ipv4_mapped", None) or ip)


def network(ip):
    """Return whom an IP stands for: itself, or its /64, any address of which one host can take."""
    if ":" not in ip:
        return ip
    return str(ipaddress.ip_network((ip.partition("%")[0], 64), strict=False))


def same_ip(one, other):
    """Say whether two texts are the same IP address, with or without brackets, in any spelling."""
    if "%" in one + other:
        return False  # a scope id is any text
    try:
        return ipaddress.ip_address(one.strip("[]")) == ipaddress.ip_address(other.strip("[]"))
    except ValueError:
        return False


def set_dscp(sock, dscp):
    """Mark what a socket sends with a DSCP (RFC 4594), where the system lets us."""
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, dscp << 2)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, dscp << 2)
    except OSError as error:
        log.debug("DSCP %d not set: %s", dscp, error)


def local_address(ip):
    """Return the address of this machine that faces ip; nothing is sent. Raises OSError."""
    with open_socket(ip, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, 9))
        except OSError:
            return "::1" if ":" in ip else "127.0.0.1"  # no network but the loopback
        return probe.getsockname()[0]
