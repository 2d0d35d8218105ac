"""Calls through Kamailio, a proxy that record-routes: later requests follow the route set.

The proxy refuses what belongs to a dialog and has no Route, so each call that ends as it should
says that the 200 told the route set and that both sides sent by it.
"""

import os
import re
import signal
import socket
import subprocess
import time
from tempfile import TemporaryDirectory

from tests.interop.support import (
    ABORTED,
    PATH,
    SERVER_IP,
    SIPP_IP,
    InteropCase,
    Server,
    SIPp,
    end,
    undisturbed,
    wait_until,
)
from tests.support import free_port

PROXY_IP = "127.0.0.4"  # also in scenarios/proxied_bye.xml
CALLS, RATE = 5, 20
STOP_SECONDS = 2.0  # how long a stopping server waits for the responses to its BYEs
PACKETS = 40  # packets of audio that SIPp plays in a call
SIPP_TRANSPORT = {"udp": "u1", "tcp": "t1"}
LOGGED = re.compile(r"^ *\d+\(\d+\) [A-Z]+: .*", re.MULTILINE)
# debug=0: warnings and worse are logged. tm is first because sl looks for it.
CONFIG = """
debug=0
children=1
tcp_children=1
dns=no
rev_dns=no
auto_aliases=no
{listen}
tcp_source_ipv4={ip}
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
modparam("rr", "enable_double_rr", 1)

request_route {{
    if (!mf_process_maxfwd_header("70")) {{
        sl_send_reply("483", "Too Many Hops");
        exit;
    }}
    if (has_totag()) {{
        if (loose_route() || (is_method("ACK") && t_check_trans())) {{
            t_relay();
        }} else if (!is_method("ACK")) {{
            sl_send_reply("404", "Not Here");
        }}
        exit;
    }}
    if (is_method("CANCEL")) {{
        if (t_check_trans()) {{
            t_relay();
        }}
        exit;
    }}
    if (is_method("OPTIONS")) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    record_route();
    $du = "sip:{server_ip}:{server_port};transport={transport}";
    t_relay();
}}
"""


class Kamailio:
    """A proxy in front of a server, with a transport ("udp", "tcp") towards either side.

    It listens on no other, so nothing can take the wrong one and get there all the same.
    """

    def __init__(self, path, server_port, caller, called):
        self.address, self._before = (PROXY_IP, free_port(PROXY_IP)), 0
        self._probe = socket.SOCK_STREAM if "tcp" in (caller, called) else socket.SOCK_DGRAM
        listen = [f"listen={transport}:{PROXY_IP}:{self.address[1]}"
                  for transport in sorted({caller, called})]
        self._log = os.path.join(path, "kamailio.log")
        config = os.path.join(path, "kamailio.cfg")
        with open(config, "w") as file:
            file.write(CONFIG.format(ip=PROXY_IP, listen="\n".join(listen), server_ip=SERVER_IP,
                                     server_port=server_port, transport=called))
        with open(self._log, "wb") as log:
            # -DD: in the foreground, -E: log to stderr, -m and -M: MB of memory, -Y: run-time files
            self._process = subprocess.Popen(
                ["kamailio", "-DD", "-E", "-f", config, "-w", path, "-Y", path,
                 "-m", "16", "-M", "4"], cwd=path, env=dict(os.environ, PATH=PATH),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        if not wait_until(self._answers):
            self.end()
            raise AssertionError(f"Kamailio did not start: {self._text()}")
        self._before = len(self.complaints())  # other releases may dislike our configuration

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end()

    def end(self):
        """Stop it, which closes its connections with the server; return its exit code."""
        code = end(self._process)
        if code != 0:  # its children did not get the signal
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return code

    def complaints(self):
        """Return the lines it has logged since it started, all warnings or worse."""
        return LOGGED.findall(self._text())[self._before:]

    def _text(self):
        with open(self._log, errors="replace") as log:
            return log.read()

    def _answers(self):
        """Return whether it answers, over TCP if it can: its processes for that start last."""
        with socket.socket(socket.AF_INET, self._probe) as sock:
            sock.settimeout(1)
            try:
                sock.connect(self.address)
                here, there = ("{}:{}".format(*at) for at in (sock.getsockname(), self.address))
                transport = "UDP" if self._probe == socket.SOCK_DGRAM else "TCP"
                sock.sendall("\r\n".join([
                    f"OPTIONS sip:{there} SIP/2.0",
                    f"Via: SIP/2.0/{transport} {here};branch=z9hG4bK-1",
                    "Max-Forwards: 70", f"From: <sip:{here}>;tag=1", f"To: <sip:{there}>",
                    "Call-ID: ready", "CSeq: 1 OPTIONS", "Content-Length: 0", "", ""]).encode())
                return sock.recv(65535).startswith(b"SIP/2.0 200 ")
            except OSError:
                return False


class Proxied(InteropCase):
    """caller: the transport between SIPp and the proxy; called: between it and the server."""

    tools = ("kamailio", "sipp")

    def run_scenario(self, scenario, caller, called, stop=False):
        """Run it through the proxy; stop the server during the calls, if asked to.

        Return what the server says of the calls, and what may come of a machine that stood still.
        """
        # by default SIPp takes TCP port 5060, which another daemon may use
        options = ["-t", SIPP_TRANSPORT[caller], "-p", str(free_port(SIPP_IP))]
        with TemporaryDirectory() as path, Server(path) as server:
            with Kamailio(path, server.port, caller, called) as proxy, \
                    SIPp(path, scenario, proxy.address, CALLS, RATE, options, 20) as sipp:
                seconds = self.stop(server) if stop else 0
                code = sipp.wait()
                if code == ABORTED:  # its ACK was late
                    return [], {"SIPp": code}
                self.assertEqual(code, 0, sipp.errors())
                signs = sipp.retransmissions()
                if seconds > STOP_SECONDS:
                    signs["stop"] = seconds  # the server did not get the answers to its BYEs
                self.assertEqual(proxy.complaints(), [])
                self.assertEqual(proxy.end(), 0)
            if not stop:
                self.assertTrue(server.is_idle_again(),
                                f"{server.idle} before, {server.usage()} after")
            self.assertEqual(server.complaints(), [])
            log = server.log()
            self.assertEqual(log.count(f"began: SIP/{called.upper()} {PROXY_IP}:"), CALLS)
            # the BYEs use the proxy's connection, or none over UDP
            self.assertNotIn(": opening", log)
            return server.ended(), signs

    def stop(self, server):
        """Stop the server once all calls are up; return how many seconds that took."""
        self.assertTrue(wait_until(lambda: len(server.began()) == CALLS), server.log())
        since = time.monotonic()
        self.assertEqual(end(server.process), 0)
        return time.monotonic() - since

    def assert_held_and_resumed(self, caller, called):
        def run():
            ended, signs = self.run_scenario("proxied_hold", caller, called)
            # SIPp hangs up in time, though it may not have started all calls yet
            return ended, signs or [call for call in ended if call[2:] != (PACKETS, PACKETS)]

        ended = undisturbed(run)
        self.assertEqual([call.why for call in ended], ["the caller hung up"] * CALLS)

    def assert_hung_up(self, caller, called):
        ended = undisturbed(lambda: self.run_scenario("proxied_bye", caller, called, stop=True))
        self.assertEqual([call.why for call in ended], ["the server stops"] * CALLS)

    def test_calls_over_udp_are_held_and_resumed(self):
        self.assert_held_and_resumed("udp", "udp")

    def test_calls_over_tcp_are_held_and_resumed(self):
        self.assert_held_and_resumed("tcp", "tcp")

    def test_calls_over_tcp_to_the_proxy_and_udp_to_the_server_are_too(self):
        self.assert_held_and_resumed("tcp", "udp")

    def test_server_hangs_up_over_udp(self):
        self.assert_hung_up("udp", "udp")

    def test_server_hangs_up_over_tcp(self):
        self.assert_hung_up("tcp", "tcp")

    def test_server_hangs_up_over_udp_if_the_caller_uses_tcp(self):
        self.assert_hung_up("tcp", "udp")
