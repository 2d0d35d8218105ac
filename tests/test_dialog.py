"""One call's dialog: its state table and the requests it builds."""

import unittest

from sip_message import SIPMessage
from siprtp.call_table import CallTable
from siprtp.sip.dialog import TRANSITIONS, Dialog, Unacked
from siprtp.sip.next_hop import hop_address

INVITE = ("INVITE sip:1000@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n"
          "From: \"A\" <sip:4711@192.0.2.10>;tag=them\r\nTo: <sip:1000@192.0.2.1>\r\n"
          "Call-ID: c@h\r\nCSeq: 101 INVITE\r\n{}\r\n")
CONTACT = "Contact: <sip:4711@10.0.0.5:5062;x=y>;isFocus\r\n"


class DialogCase(unittest.TestCase):
    def setUp(self):
        self.sent, self.timers, self.requests, self.released, self.removed = ([] for _ in "12345")

    def call(self, headers=CONTACT):
        invite = SIPMessage(INVITE.format(headers), ("192.0.2.10", 5060))
        return Dialog(invite, "192.0.2.1:5060",
                    lambda *args: self.sent.append(args), lambda *args: self.timers.append(args),
                    None,
                    lambda call, *args: self.requests.append(args), self.released.append,
                    self.removed.append)

    def answered(self):
        call = self.call()
        call.on("answer", Unacked(101, b"200", ("10.0.0.5", 5062), False))
        return call

    def confirmed(self):
        call = self.answered()
        call.take_unacked(101)
        call.on("ack")
        return call

    def request_of(self, call, method="BYE"):
        _, data, next_hop = call.build_request(method)
        return SIPMessage(data), next_hop


class States(DialogCase):
    def test_every_action_is_a_method_and_every_state_can_be_reached(self):
        states = {"proceeding"} | {state for state, _ in TRANSITIONS.values()}
        for (state, _), (_, action) in TRANSITIONS.items():
            self.assertIn(state, states)
            self.assertTrue(action is None or callable(action))

    def test_no_bye_before_the_ack(self):
        call = self.answered()
        call.on("hang up", why="test")
        self.assertEqual((call.state, self.requests), ("hanging up", []))
        call.take_unacked(101)
        call.on("ack")
        self.assertEqual((call.state, self.requests[0][0]), ("closing", "BYE"))

    def test_a_bye_of_ours_ends_with_any_answer_or_none(self):
        for answer in (None, SIPMessage("SIP/2.0 481 x\r\n\r\n")):
            call = self.confirmed()
            call.on("hang up", why="test")
            self.assertEqual(call.state, "closing")
            self.requests.pop()[-1](answer)
            self.assertEqual((call.state, call.why), ("ended", "test"))

    def test_a_bye_without_answer_is_logged_if_the_call_was_acked(self):
        with self.assertLogs("siprtp.sip.dialog", "INFO") as logged:
            for acked in (False, True):
                call = self.confirmed()
                call.acked = acked
                call.on("hang up", why="test")
                self.requests.pop()[-1](None)
        self.assertEqual([record.getMessage() for record in logged.records], [
            "call from '4711', Call-ID 'c@h': our BYE to "
            "'sip:4711@10.0.0.5:5062;x=y' got no answer"])

    def test_byes_that_cross_end_the_call_once(self):
        call = self.confirmed()
        call.on("hang up", why="ours")
        self.assertEqual((self.released, self.removed), ([call], []))  # media first, row later
        call.on("bye", why="theirs")
        self.assertEqual((call.state, call.why), ("ended", "ours"))
        self.requests[0][-1](None)
        self.assertEqual((self.released, self.removed), ([call], [call]))

    def test_an_event_without_a_row_changes_nothing(self):
        call = self.call()
        self.assertFalse(call.on("ack"))
        self.assertEqual(call.state, "proceeding")

    def test_only_the_ack_of_the_last_2xx_counts_and_only_once(self):
        call = self.answered()
        self.assertIsNone(call.take_unacked(100))
        self.assertEqual(call.take_unacked(101).cseq, 101)
        self.assertIsNone(call.take_unacked(101))


class Requests(DialogCase):
    def test_a_request_has_the_tags_swapped_and_a_cseq_of_its_own(self):
        call = self.call()
        first, next_hop = self.request_of(call)
        second, _ = self.request_of(call)
        self.assertEqual(first.header("From"), f"<sip:1000@192.0.2.1>;tag={call.local_tag}")
        self.assertEqual(first.header("To"), '"A" <sip:4711@192.0.2.10>;tag=them')
        self.assertEqual([m.header("CSeq") for m in (first, second)], ["1 BYE", "2 BYE"])
        self.assertEqual(first.header("Max-Forwards"), "70")
        self.assertEqual((first.uri, next_hop), ("sip:4711@10.0.0.5:5062;x=y",) * 2)
        self.assertEqual((first.via.host, first.via.port), ("192.0.2.1", 5060))
        self.assertNotEqual(first.via.branch, second.via.branch)
        first.check()

    def test_the_route_set_is_the_record_route_in_order(self):
        call = self.call("Record-Route: <sip:p1.example;lr;x=$a>, <sip:p2;lr>\r\n"
                         "Record-Route: <sip:p3;lr>\r\n" + CONTACT)
        bye, next_hop = self.request_of(call)
        self.assertEqual(bye.headers_all("Route"),
                         ["<sip:p1.example;lr;x=$a>", "<sip:p2;lr>", "<sip:p3;lr>"])
        self.assertEqual((bye.uri, next_hop),
                         ("sip:4711@10.0.0.5:5062;x=y", "sip:p1.example;lr;x=$a"))

    def test_a_strict_router_becomes_the_request_uri(self):
        call = self.call("Record-Route: <sip:s1:5070;maddr=10.0.0.9>,<sip:p2;lr>\r\n" + CONTACT)
        bye, next_hop = self.request_of(call)
        self.assertEqual(bye.uri, "sip:s1:5070;maddr=10.0.0.9")
        self.assertEqual(bye.headers_all("Route"), ["<sip:p2;lr>", "<sip:4711@10.0.0.5:5062;x=y>"])
        self.assertEqual(hop_address(next_hop), ("10.0.0.9", 5070))

    def test_without_a_contact_the_target_is_from(self):
        self.assertEqual(self.request_of(self.call(""))[0].uri, "sip:4711@192.0.2.10")

    def test_a_new_contact_moves_the_target(self):
        call = self.call()
        call.update_peer(SIPMessage("UPDATE sip:a@b SIP/2.0\r\n"
                                "m: <sip:new@10.0.0.7;method=INVITE?Subject=x>\r\n\r\n"))
        self.assertEqual(self.request_of(call)[1], "sip:new@10.0.0.7")

    def test_the_next_hop_is_the_host_or_maddr_with_5060_as_default(self):
        self.assertEqual(hop_address("sip:a@10.0.0.1"), ("10.0.0.1", 5060))
        self.assertEqual(hop_address("sip:pbx.example:5070"), ("pbx.example", 5070))
        for uri in ("tel:123", "nonsense", "", "sip:a@0", "sip:a@10.1", "sip:a@0x0A000001"):
            with self.assertRaises(ValueError):
                hop_address(uri)


class Table(DialogCase):
    def test_calls_are_told_apart_by_all_three_parts(self):
        table, one, two = CallTable(), self.call(), self.call()
        table.add(one)
        table.add(two)  # the same Call-ID and From tag, another To tag
        in_dialog = SIPMessage("BYE sip:a@b SIP/2.0\r\nCall-ID: c@h\r\nFrom: <sip:x@y>;tag=them\r\n"
                               f"To: <sip:x@y>;tag={two.local_tag}\r\n\r\n")
        self.assertIs(table.find(in_dialog), two)
        self.assertEqual((len(table), set(table)), (2, {one, two}))
        table.remove(two)
        table.remove(two)
        self.assertIsNone(table.find(in_dialog))


if __name__ == "__main__":
    unittest.main()
