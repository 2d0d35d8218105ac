"""Host names in the description of the media: looked up without making the SIP thread wait."""

import unittest

from tests.support import OFFER, Trunk, offer, statuses

NAMED = offer(ip="media.example.net")


class Lookups:
    """Stands for siprtp.sip.lookup.Lookups: a test says when the answer comes."""

    def __init__(self):
        self.started, self.full = [], False

    def start(self, source_ip, hosts, on_done, known):
        if self.full:
            raise RuntimeError("10 look-ups are running")
        self.started.append((source_ip, hosts, on_done))

    def answer(self, found):
        self.started.pop(0)[2](found)


class Named(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.server = self.trunk.server
        self.lookups = self.server.uas._lookups = Lookups()

    def answer(self, **found):
        """Let a look-up end; return what is sent then."""
        seen = len(self.server.sent)
        self.lookups.answer({name.replace("_", "."): ip for name, ip in found.items()})
        return self.trunk.answers(seen)

    def test_an_invite_is_answered_once_its_name_is_looked_up(self):
        self.assertEqual(self.trunk.say("INVITE", body=NAMED), [])
        self.assertEqual(self.lookups.started[0][:2], ("192.0.2.10", ["media.example.net"]))
        ok, = self.answer(media_example_net="192.0.2.30")
        self.assertEqual(ok.status, 200)
        self.assertEqual(self.server.media_made[0].flow.remote, ("192.0.2.30", 4000))

    def test_meanwhile_it_gets_100_and_its_repeats_start_nothing(self):
        invite = self.trunk.request("INVITE", body=NAMED)
        self.trunk.send(invite)
        self.assertEqual(statuses(m for _, m in self.trunk.advance(0.3)), [100])
        self.assertEqual(statuses(self.trunk.send(invite)), [100])
        self.assertEqual(len(self.lookups.started), 1)

    def test_a_name_that_is_not_found_gets_488_with_a_warning(self):
        self.trunk.say("INVITE", body=NAMED)
        refused, = self.answer()
        self.assertEqual(refused.status, 488)
        self.assertTrue(refused.header("Warning").startswith("301 "), refused.header("Warning"))
        self.assertEqual(len(self.server.calls), 0)

    def test_a_cancel_ends_the_wait(self):
        self.trunk.say("INVITE", body=NAMED, branch="z9hG4bKi")
        answers = self.trunk.say("CANCEL", branch="z9hG4bKi")
        self.assertEqual(statuses(answers), [200, 487])
        self.assertEqual(len({m.to_tag for m in answers}), 1)
        self.assertEqual(self.answer(media_example_net="192.0.2.30"), [])
        self.assertEqual((len(self.server.calls), self.server.uas._looked_up), (0, {}))

    def test_a_server_that_stops_meanwhile_takes_no_call(self):
        self.trunk.call()
        self.trunk.say("INVITE", body=NAMED, call_id="2")
        self.server.drain()
        self.assertEqual(statuses(self.answer(media_example_net="192.0.2.30")), [503])

    def test_a_server_that_stops_at_once_rejects_the_waiting_call(self):
        self.trunk.say("INVITE", body=NAMED)
        self.server.drain()
        self.assertEqual(self.trunk.last().status, 503)
        self.assertTrue(self.server.running)  # the rejection is sent until its ACK arrives
        self.assertEqual(self.answer(media_example_net="192.0.2.30"), [])
        self.trunk.advance(3)
        self.assertFalse(self.server.running)

    def test_an_invite_gets_488_if_no_look_up_can_start(self):
        self.lookups.full = True
        with self.assertLogs("siprtp.sip.uas", "WARNING"):
            self.assertEqual(statuses(self.trunk.say("INVITE", body=NAMED)), [488])

    def test_many_names_are_not_looked_up(self):
        body = NAMED + b"".join(b"c=IN IP4 h%d.example\r\n" % n for n in range(9))
        self.assertEqual(statuses(self.trunk.say("INVITE", body=body)), [488])
        self.assertEqual(self.lookups.started, [])

    def test_a_reinvite_and_an_update_move_the_media_to_a_name(self):
        call = self.trunk.call()
        for cseq, method in ((2, "INVITE"), (3, "UPDATE")):
            ip = f"192.0.2.3{cseq}"
            self.trunk.say(method, cseq, body=NAMED, to_tag=call.local_tag)
            self.assertEqual(statuses(self.answer(media_example_net=ip)), [200])
            self.assertEqual(call.media.flow.remote, (ip, 4000))
            self.trunk.say("ACK", cseq, to_tag=call.local_tag)

    def test_an_answer_in_an_ack_may_hold_a_name(self):
        ok = self.trunk.say("INVITE")[-1]
        self.trunk.say("ACK", to_tag=ok.to_tag, body=NAMED)
        self.answer(media_example_net="192.0.2.30")
        self.assertEqual(self.server.media_made[0].flow.remote, ("192.0.2.30", 4000))
        self.assertEqual(self.trunk.advance(40), [])

    def test_an_ack_that_comes_again_meanwhile_starts_nothing(self):
        ok = self.trunk.say("INVITE")[-1]
        for _ in range(3):
            self.trunk.say("ACK", to_tag=ok.to_tag, body=NAMED)
        self.assertEqual(len(self.lookups.started), 1)
        self.lookups.full = True
        self.trunk.say("ACK", to_tag=ok.to_tag, body=NAMED)
        self.answer(media_example_net="192.0.2.30")
        self.assertEqual([call.state for call in self.server.calls], ["confirmed"])
        self.assertEqual(self.server.uas._looked_up, {})

    def test_a_cancel_does_not_end_the_wait_of_an_update(self):
        call = self.trunk.call()
        self.trunk.say("UPDATE", 2, body=NAMED, to_tag=call.local_tag, branch="z9hG4bKu")
        answers = self.trunk.say("CANCEL", 2, to_tag=call.local_tag, branch="z9hG4bKu")
        self.assertEqual(statuses(answers), [200])
        self.assertEqual(statuses(self.answer(media_example_net="192.0.2.30")), [200])

    def test_a_request_outside_a_call_starts_no_look_up(self):
        for method in ("INVITE", "UPDATE", "ACK"):
            self.trunk.say(method, body=NAMED, to_tag="nobody")
        self.assertEqual(self.lookups.started, [])

    def test_a_name_in_one_part_of_a_multipart_is_found(self):
        part = NAMED.replace(b"\r\n", b"\n")
        body = b"--b\r\nContent-Type: application/sdp\r\n\r\n" + part + b"\r\n--b--\r\n"
        self.trunk.say("INVITE", body=body, headers=["Content-Type: multipart/mixed;boundary=b"])
        self.assertEqual(statuses(self.answer(media_example_net="192.0.2.30")), [200])

    def test_an_ip_address_is_not_looked_up(self):
        self.assertEqual(statuses(self.trunk.say("INVITE", body=OFFER)), [200])


if __name__ == "__main__":
    unittest.main()
