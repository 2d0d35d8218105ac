"""Softphones behind a NAT: calls, the server's hang-up, a change of network in mid-call."""

from contextlib import contextmanager

from tests.interop import test_softphones
from tests.interop.network import NETS, Network

TOOLS = ("ip", "nft")


class BehindNAT:
    """The phone is behind a NAT, the server on a public address."""

    settings = {"ALLOWED_PEERS": NETS}

    @staticmethod
    @contextmanager
    def hosts():
        with Network() as network:
            yield network.phone, network.server


class Baresip(BehindNAT, test_softphones.Baresip):
    """baresip calls the echo over UDP and hangs up."""

    tools = test_softphones.Baresip.tools + TOOLS


class Linphone(BehindNAT, test_softphones.Linphone):
    """linphonec calls the echo over UDP and hangs up."""

    tools = test_softphones.Linphone.tools + TOOLS
