"""SIPp's view of offers and answers, of CANCEL and of OPTIONS; the scenarios check the replies."""

from tempfile import TemporaryDirectory

from tests.interop.support import SERVER_IP, InteropCase, Server, SIPp, undisturbed

CALLS = 20


class Scenarios(InteropCase):
    """Each test runs one scenario in which SIPp fails a call with a wrong response."""

    tools = ("sipp",)

    def run_scenario(self, scenario, calls, options=()):
        """Run it against a server of its own; return what the server logs about the calls."""
        ended = undisturbed(lambda: self.run_once(scenario, options))
        self.assertEqual([call.why for call in ended], ["the caller hung up"] * calls)
        return ended

    def run_once(self, scenario, options):
        with TemporaryDirectory() as path, Server(path) as server:
            with SIPp(path, scenario, (SERVER_IP, server.port), CALLS, 20, options) as sipp:
                self.assertEqual(sipp.wait(), 0, sipp.errors())
                repeated = sipp.retransmissions()
            self.assertTrue(server.is_idle_again(), f"{server.idle} before, {server.usage()} after")
            self.assertEqual(server.complaints(), [])
            return server.ended(), repeated

    def test_delayed_offer_is_answered_in_the_ack_and_rtp_flows(self):
        for call in self.run_scenario("delayed_offer", CALLS):
            self.assertGreater(call.packets_in, 0)
            self.assertEqual(call.packets_out, call.packets_in)

    def test_calls_over_one_tcp_connection_are_like_those_over_udp(self):
        for scenario in ("call", "delayed_offer"):
            for call in self.run_scenario(scenario, CALLS, ["-t", "t1"]):
                self.assertGreater(call.packets_in, 0)
                self.assertEqual(call.packets_out, call.packets_in)

    def test_calls_over_a_tcp_connection_each_are_like_those_over_udp(self):
        self.run_scenario("call", CALLS, ["-t", "tn", "-max_socket", "100"])

    def test_hold_and_resume_are_answered_recvonly_and_sendrecv(self):
        self.run_scenario("hold", CALLS)

    def test_reinvite_without_offer_gets_a_sendrecv_offer(self):
        self.run_scenario("offerless_reinvite", CALLS)

    def test_cancel_of_an_unknown_invite_gets_481(self):
        self.run_scenario("cancel_unknown", 0)

    def test_options_with_no_hops_left_gets_200_with_allow(self):
        self.run_scenario("options", 0)
