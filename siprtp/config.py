"""Settings: read from the environment, checked once, then one frozen value."""

import ipaddress
import os
import re
from collections import namedtuple
from typing import Mapping

from siprtp import formats

LEVELS = ("debug", "info", "warning", "error")


class ConfigError(ValueError):
    """A setting that cannot be used; the text names it."""


class Passwords(dict):
    """{user: password}; its repr reveals neither."""

    def __repr__(self):
        return f"<{len(self)} passwords>"


# How the text of a setting is read: each raises a ValueError that says what would be right


def address(text):
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("must be an IP address, not a name") from None
    if ip.is_multicast:
        raise ValueError("must not be a multicast address")
    return str(ip)


def host_address(text):
    if not text:
        return ""
    ip = address(text)
    if ipaddress.ip_address(ip).is_unspecified:
        raise ValueError("must be an address that callers can send to")
    return ip


def number(low, high):
    def read(text):
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)
    return read


def one_of(*words):
    def read(text):
        if text.lower() not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text.lower()
    return read


def some_of(*words):
    def read(text):
        names = tuple(name.strip().upper() for name in text.split(","))
        if len(set(names)) < len(names) or not set(names) <= set(words):
            raise ValueError(f"must be one or more of {', '.join(words)}, each once, with commas")
        return names
    return read


def codecs(text):
    return tuple(formats.BY_NAME[name] for name in some_of(*formats.BY_NAME)(text))


def function(text):
    if text and not re.fullmatch(r"\w+(\.\w+)*:\w+", text):
        raise ValueError("must be module:function, such as my_bot:answer")
    return text


def networks(text):
    return tuple(network(part.strip()) for part in text.split(",") if part.strip())


def network(text):
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{error}; must be addresses or networks, such as "
                         "198.51.100.7,203.0.113.0/24") from None
    if "/" in text and str(found.network_address) != str(ipaddress.ip_address(text.split("/")[0])):
        raise ValueError(f"{text} has host bits set: write {found}")
    return found


def folder(text):
    if text and not (os.path.isdir(text) and os.access(text, os.W_OK | os.X_OK)):
        raise ValueError("must be a directory that this user can write to")
    return text


def passwords(path):
    """Read lines of user:password; no error text quotes the file."""
    found = Passwords()
    if not path:
        return found
    try:
        with open(path, encoding="utf-8-sig") as file:  # Notepad writes a BOM
            lines = [line.strip() for line in file]
    except OSError as error:
        raise ValueError(error.strerror or "cannot be read") from None
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        user, _, password = [part.strip() for part in line.partition(":")]
        if not user or not password:
            raise ValueError(f"line {number} is not user:password")
        if user in found:
            raise ValueError(f"line {number} repeats a user")
        found[user] = password
    if not found:
        raise ValueError("has no user:password line")
    return found


SETTINGS = (  # name, default, how its text is read, help text
    ("BIND_IP", "127.0.0.1", address,
     "address to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv6"),
    ("ADVERTISED_IP", "", host_address,
     "address that callers are told to send to, needed behind NAT and in Docker; unset: the local "
     "address that faces the caller"),
    ("SIP_PORT", "5060", number(0, 65535), "UDP and TCP port for SIP; 0 for any free one"),
    ("ALLOWED_PEERS", "", networks,
     "addresses and networks that get an answer, separated by commas; unset: loopback and private "
     "networks"),
    ("SIP_PASSWORD_FILE", "", passwords,
     "file of user:password lines; a caller must give a user name and password from it; unset: no "
     "password is needed"),
    ("SIP_DIGEST", "SHA-256,MD5", some_of("SHA-256", "MD5"),
     "digest algorithms to offer, best first; MD5 alone helps peers that give up at SHA-256"),
    ("SIP_RATE", "2000", number(0, 999999),
     "messages per second from one verified peer, fewer from others; 0 for no limit"),
    ("NAT", "auto", one_of("auto", "off"),
     "auto: requests to a caller that may be behind NAT go where its own requests come from; "
     "off: to its Contact"),
    ("RTP_PORT_START", "16384", number(1, 65535),
     "first UDP port for RTP; each call takes an even port, and the next one for RTCP"),
    ("RTP_PORT_END", "32767", number(1, 65535), "last UDP port for RTP"),
    ("RTP_THREADS", "64", number(0, 999),
     "echoed calls with an RTP thread of their own; further calls share one, and above 400 calls "
     "all do"),
    ("MAX_CALLS", "0", number(0, 999999),
     "calls at once, further calls get 486; 0 for as many as there are RTP ports"),
    ("RTP_TIMEOUT", "300", number(0, 999999),
     "seconds without RTP before a call is ended; a call on hold is checked with OPTIONS first; 0 "
     "for never"),
    ("DRAIN_SECONDS", "5", number(0, 999999),
     "seconds that calls may go on after SIGTERM, while new calls are rejected; 0 to stop at once"),
    ("BOT", "", function, "module:function that serves each call; unset: the echo"),
    ("CODECS", "PCMA,PCMU", codecs,
     "codecs to accept, best first; G722 can be added, at a cost (docs/bot.md)"),
    ("SILENCE", "on", one_of("on", "off"),
     "whether a bot sends packets of silence while it says nothing"),
    ("RECORD_DIR", "", folder,
     "directory where every call is recorded as a stereo WAV file; unset: no recording"),
    ("LOG_LEVEL", "info", one_of(*LEVELS),
     f"one of {', '.join(LEVELS)}; debug shows every message"),
)


class Config(namedtuple("Settings", [name.lower() for name, *_ in SETTINGS])):  # type: ignore[misc]
    """Every setting by its lower-case name, with the value that its row's function returned."""

    __slots__ = ()  # no other attributes

    @property
    def reach_ip(self) -> str:
        """The address at which this machine reaches its own server."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind_ip, self.bind_ip)

    @property
    def binds_one(self) -> bool:
        """True if the server listens on one address, not on all of them."""
        return self.bind_ip == self.reach_ip

    def describe(self) -> str:
        """Return every setting as NAME=value in one line; passwords are only counted."""
        return " ".join(f"{name}={as_text(value)}" for (name, *_), value in zip(SETTINGS, self))

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Read the settings from a mapping like os.environ. Raises ConfigError."""
        values = {}
        for name, default, read, _ in SETTINGS:
            text = environ.get(name, "").strip() or default
            try:
                values[name.lower()] = read(text)
            except ValueError as error:
                raise ConfigError(f"{name}={text!a}: {error}") from None
        config = cls(**values)
        if config.advertised_ip and (":" in config.advertised_ip) != (":" in config.bind_ip):
            raise ConfigError(f"ADVERTISED_IP={config.advertised_ip}: must have the IP version of "
                              f"BIND_IP={config.bind_ip}")
        first = config.rtp_port_start + config.rtp_port_start % 2
        if first > config.rtp_port_end:
            raise ConfigError(f"RTP_PORT_END={config.rtp_port_end}: must be at least {first}, the "
                              f"first even port from RTP_PORT_START={config.rtp_port_start} on")
        return config


def as_text(value):
    """Return a value as its setting would be written; of passwords only their number."""
    if isinstance(value, Passwords):
        return f"(users: {len(value)})" if value else ""
    if isinstance(value, tuple):
        return ",".join(getattr(item, "name", None) or str(item) for item in value)
    return str(value)


def help_text() -> str:
    """Return the table of settings, for --help."""
    rows = [f"  {name:17} {about} (default: {default or 'unset'})"
            for name, default, _, about in SETTINGS]
    return "settings, from the environment:\n" + "\n".join(rows)
