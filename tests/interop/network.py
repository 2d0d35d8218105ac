"""A network of the test's own: a phone behind two NAT routers, and a server with a public address.

It is made of network namespaces, so it needs Linux and root. No process of the test itself enters
them: a command starts in a namespace if it begins with the `enter` of a Host there.
"""

import os
import subprocess
import unittest

from tests.interop.support import PATH, PATIENCE, Host, skip

SERVER, PHONE = "203.0.113.10", "192.168.77.2"
ROUTERS = {"wifi": ("192.168.77.253", "203.0.113.11"),
           "lte": ("192.168.77.254", "203.0.113.20")}  # their private and public addresses
NETS = "203.0.113.0/24"  # where the server sees its peers
# A router sends from other ports than those in Contact and SDP, and lets packets in only from
# addresses to which the phone has sent some.
NAT = """
table ip nat {
  chain leaving {
    type nat hook postrouting priority 100
    oifname "public" meta l4proto { tcp, udp } masquerade to :20000-29999 random
  }
  chain forwarding {
    type filter hook forward priority 0; policy drop
    ct state invalid drop
    ct state established,related accept
    iifname "private" accept
  }
}
"""
# In the public network packets to a private address vanish without an error.
VOID = """
route add default via 203.0.113.254
neigh add 203.0.113.254 lladdr 02:00:00:00:00:01 dev bridge nud permanent
"""


class Namespace:
    """A network namespace. It lasts until `close`, or else until the test's process ends."""

    def __init__(self):
        # cat ends when the pipe closes, also if the test's process is killed
        self._keeper = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo made; exec cat"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT)
        said = self._keeper.stdout.readline()
        if said != b"made\n":
            self.close()
            raise unittest.SkipTest(f"no network namespace: {said.decode().strip()}")
        self.enter = ["nsenter", f"--target={self._keeper.pid}", "--net",
                      "setpriv", "--pdeathsig", "KILL"]  # so do the programs there
        self.pid = self._keeper.pid

    def close(self):
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait(PATIENCE)

    def run(self, *command, told=""):
        """Run a command with the text `told` as its input."""
        subprocess.run([*self.enter, *command], env=dict(os.environ, PATH=PATH), check=True,
                       input=told.encode(), timeout=PATIENCE,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ip(self, commands):
        """Run commands of the program ip, one a line."""
        self.run("ip", "-batch", "-", told=commands)


class Network:
    """The network, while its `with` lasts. phone, server: a Host each. It begins at "wifi"."""

    def __enter__(self):
        self._made = []
        try:
            self._build()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, subprocess.CalledProcessError):
                skip(f"no NAT here: {error}: {error.output.decode()}")  # of the kernel
            raise
        return self

    def __exit__(self, *exception):
        for namespace in self._made:
            namespace.close()

    def _build(self):
        public, self._private = self._bridge(SERVER), self._bridge(PHONE)
        public.ip(VOID)
        for name, addresses in ROUTERS.items():
            self._router(name, addresses, public)
        self.server = Host(SERVER, tuple(public.enter))
        self.phone = Host(PHONE, tuple(self._private.enter))
        self.move("wifi")

    def _namespace(self):
        self._made.append(Namespace())
        return self._made[-1]

    def _bridge(self, ip):
        """Return a namespace with an address on a bridge, for routers to join."""
        namespace = self._namespace()
        namespace.ip("link set lo up\n"
                     "link add name bridge type bridge\n"
                     f"addr add {ip}/24 dev bridge\n"
                     "link set bridge up\n")
        return namespace

    def _router(self, name, addresses, public):
        """Join the private and the public bridge by a router with NAT."""
        router = self._namespace()
        for side, bridge, ip in zip(("private", "public"), (self._private, public), addresses):
            router.ip(f"link add name {side} type veth peer name {name} netns {bridge.pid}\n"
                      f"addr add {ip}/24 dev {side}\n"
                      f"link set {side} up\n")
            bridge.ip(f"link set {name} master bridge up\n")
        router.run("nft", "-f", "-", told=NAT)
        router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def move(self, name):
        """Route the phone's packets by a router; only its public address changes."""
        self._private.ip(f"route replace default via {ROUTERS[name][0]}\n")
