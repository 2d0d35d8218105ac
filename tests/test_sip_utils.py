"""Header parts: lists, parameters, addresses, URIs, Via, numbers."""

import unittest

from sip_message import SIPMessage
from sip_utils import (
    get_called_number,
    get_caller_number,
    get_identity,
    new_branch,
    new_tag,
    parse_address,
    parse_cseq,
    parse_uri,
    parse_via,
    q850_cause,
    request_uri,
    split_list,
    stable_tag,
)


class Lists(unittest.TestCase):
    def test_commas_in_quotes_and_brackets_do_not_split(self):
        value = '"Smith, \\"J\\"" <sip:a,b@h>, <sip:c@h>;x="1,2" ,, '
        self.assertEqual(split_list(value),
                         ['"Smith, \\"J\\"" <sip:a,b@h>', '<sip:c@h>;x="1,2"'])

    def test_an_unclosed_quote_swallows_the_rest_and_raises_nothing(self):
        self.assertEqual(split_list('a, "b, c'), ["a", '"b, c'])

    def test_an_escaped_quote_ends_no_string_and_an_open_bracket_swallows_the_rest(self):
        self.assertEqual(split_list(r'"a\",b\\", c, "\"d, e'), [r'"a\",b\\"', "c", r'"\"d, e'])
        self.assertEqual(split_list('<a", b>, "<", <c, d'), ['<a", b>', '"<"', "<c, d"])
        self.assertEqual(split_list(r'a\"b, c'), [r'a\"b, c'])


class Addresses(unittest.TestCase):
    def test_display_name_uri_and_parameters_come_apart(self):
        address = parse_address('"Bob \\"B\\"; x" <sip:bob@h;user=phone> ;Tag=a1 ; y = "z;z" ;lr')
        self.assertEqual(address.display, 'Bob "B"; x')
        self.assertEqual(address.uri, "sip:bob@h;user=phone")
        self.assertEqual(address.params, {"tag": "a1", "y": "z;z", "lr": ""})
        self.assertEqual(address.tag, "a1")

    def test_without_brackets_parameters_belong_to_the_header(self):
        address = parse_address("sip:bob@h;tag=1")
        self.assertEqual((address.uri, address.tag), ("sip:bob@h", "1"))

    def test_unquoted_display_names_of_gateways_are_taken(self):
        self.assertEqual(parse_address("+4930123 <sip:+4930123@h>").display, "+4930123")

    def test_malformed_addresses_raise_value_error(self):
        for value in ('"Bob <sip:b@h>', "<sip:b@h", '"Bob" sip:b@h', "", "<>", "<sip:a b@h>x"):
            with self.subTest(value), self.assertRaises(ValueError):
                parse_address(value)


class URIs(unittest.TestCase):
    def test_a_sip_uri_comes_apart(self):
        uri = parse_uri("SIP:user;par=u%40h:pw@[2001:db8::1]:5070;lr;maddr=10.0.0.1?h=v")
        self.assertEqual((uri.scheme, uri.user, uri.host, uri.port),
                         ("sip", "user;par=u%40h", "[2001:db8::1]", 5070))
        self.assertEqual(uri.params, {"lr": "", "maddr": "10.0.0.1"})
        self.assertEqual(uri.headers, "h=v")

    def test_an_ipv6_address_in_brackets_has_no_port_of_its_own(self):
        self.assertEqual(parse_uri("sip:[2001:db8::10:5070]").port, 0)

    def test_a_tel_uri_has_only_a_user(self):
        self.assertEqual(parse_uri("tel:+49301;ext=2").user, "+49301")

    def test_headers_and_method_are_left_out_of_a_request_uri(self):
        self.assertEqual(request_uri("sip:a?b;method=x@h:5070;lr;METHOD=INVITE;x=y?Subject=z"),
                         "sip:a?b;method=x@h:5070;lr;x=y")
        self.assertEqual(request_uri("sip:10.0.0.1"), "sip:10.0.0.1")

    def test_malformed_uris_raise_value_error(self):
        for text in ("", "sip", "sip:", "sip:a@", "sip:2001:db8::10", "sip:a@h:x", "sip:a@h:0",
                     "sip:a@h:70000", "sip:a b@h", "<sip:a@h>", "1sip:a@h"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_uri(text)


class Vias(unittest.TestCase):
    def test_spaces_may_stand_around_every_separator(self):
        via = parse_via("sip / 2.0 / udp   first.example : 4000 ;ttl=16 ; branch = z9hG4bKa")
        self.assertEqual((via.transport, via.host, via.port, via.branch),
                         ("UDP", "first.example", 4000, "z9hG4bKa"))

    def test_quoted_parameters_before_the_branch_are_read_over(self):
        via = parse_via('SIP/2.0/UDP 10.0.0.1;x-route-tag="cid:a@10.0.0.1; branch=no";branch=yes')
        self.assertEqual(via.branch, "yes")

    def test_malformed_vias_raise_value_error(self):
        for value in ("", ";", "SIP/2.0/UDP", "SIP/3.0/UDP h", "SIP/2.0/UDP h:99999",
                      "SIP/2.0/UDP h:", "SIP/2.0/UDP 2001:db8::1", "HTTP/1.1/UDP h"):
            with self.subTest(value), self.assertRaises(ValueError):
                parse_via(value)


class Numbers(unittest.TestCase):
    def test_cseq_is_a_number_below_2_to_the_31_and_a_method(self):
        self.assertEqual(parse_cseq("0009  INVITE"), (9, "INVITE"))
        for value in ("INVITE", "1", "-1 INVITE", "2147483648 INVITE", "1_0 INVITE", "\u0661 BYE",
                      "36893488147419103232 OPTIONS"):
            with self.subTest(value), self.assertRaises(ValueError):
                parse_cseq(value)

    def test_tags_and_branches_are_random_and_stable_tags_are_not(self):
        self.assertNotEqual(new_tag(), new_tag())
        self.assertTrue(new_branch().startswith("z9hG4bK"))
        self.assertEqual(stable_tag("a", "b"), stable_tag("a", "b"))
        self.assertNotEqual(stable_tag("a", "b"), stable_tag("ab", ""))

    def message(self, *lines, uri="sip:1000@10.0.0.1"):
        return SIPMessage("\r\n".join((f"INVITE {uri} SIP/2.0",) + lines) + "\r\n\r\n")

    def test_the_caller_is_the_asserted_identity_before_from(self):
        message = self.message('P-Asserted-Identity: "A, B" <sip:+493012@h>, <tel:+493013>',
                               "From: <sip:99@h>;tag=1")
        self.assertEqual(get_caller_number(message), "+493012")

    def test_the_caller_is_from_where_no_identity_has_a_user(self):
        message = self.message("P-Asserted-Identity: <sip:10.0.0.1>", "f: <sip:9%2B9;x=1@h>;tag=1")
        self.assertEqual(get_caller_number(message), "9+9")

    def test_where_from_is_anonymous_remote_party_id_may_know_the_caller(self):
        rpid = "Remote-Party-ID: <sip:4711@h>;party=calling;privacy=off"
        called = 'Remote-Party-ID: "C" <sip:9@h>;party=called'
        for lines, number in (([rpid, "From: <sip:anonymous@anonymous.invalid>"], "4711"),
                              ([called, rpid, "From: <sip:10.0.0.1>"], "4711"),
                              ([rpid, "From: <sip:1@h>"], "1"),
                              ([called, "From: <sip:anonymous@h>"], "anonymous")):
            self.assertEqual(get_caller_number(self.message(*lines)), number)
        self.assertEqual(get_identity(self.message(called, "From: <sip:1@h>")).name, "")

    def test_the_cause_is_that_of_q850(self):
        for reason, cause in (('Q.850;cause=16;text="a, b"', 16),
                              ("SIP;cause=200, q.850 ; cause=47", 47),
                              ("SIP;cause=600", 0), ("Q.850", 0), ("Q.850;cause=x", 0), ("", 0)):
            self.assertEqual(q850_cause(self.message(f"Reason: {reason}")), cause, reason)

    def test_the_identity_is_read_from_any_header_that_has_it(self):
        for lines, identity in (
                (["From: <sip:1@h>;tag=1"], ("", "", False)),
                (['P-Asserted-Identity: "Doe, J" <sip:1@h>', 'From: "x" <sip:1@h>'],
                 ("Doe, J", "", False)),
                (['Remote-Party-ID: "Jo" <sip:1@h>;party=calling;screen=yes;privacy=off',
                  "From: <sip:1@h>"], ("Jo", "", False)),
                (["Remote-Party-ID: <sip:1@h>;party=calling;privacy=full"], ("", "", True)),
                (['From: "Anonymous" <sip:anonymous@anonymous.invalid>'], ("Anonymous", "", True)),
                (["Privacy: none", "From: <sip:1@h>"], ("", "", False)),
                (["Privacy: id;critical"], ("", "", True)),
                (['Diversion: "a, b" <sip:55@h>;reason=user-busy, <sip:66@h>'], ("", "55", False)),
                (["History-Info: <sip:77@h?Reason=SIP%3Bcause%3D302>;index=1, <sip:1000@h>;index=2",
                  "From: <sip:\\u95>"], ("", "77", False)),
                (["History-Info: <sip:1000@h>;index=1"], ("", "", False))):
            self.assertEqual(get_identity(self.message(*lines)), identity, lines)

    def test_the_first_values_of_a_header_name_the_caller(self):
        for number, caller in ((9, "7"), (10, "4711")):
            message = self.message("P-Asserted-Identity: " + "<sip:h>," * number + "<sip:7@h>",
                                   "From: <sip:4711@h>")
            self.assertEqual(get_caller_number(message), caller)

    def test_the_last_values_of_the_history_name_the_diverting_party(self):
        for number, diverted_by in ((9, "7"), (10, "")):
            message = self.message("History-Info: <sip:7@h>," + "<sip:h>," * number + "<sip:1@h>")
            self.assertEqual(get_identity(message).diverted_by, diverted_by)

    def test_a_user_too_long_to_unescape_is_read_over(self):
        lines = [f"P-Asserted-Identity: <sip:{'%41' * 86}@h>", f"From: <sip:{'%41' * 85}@h>"]
        self.assertEqual(get_caller_number(self.message(*lines)), "A" * 85)

    def test_a_caller_without_number_is_empty(self):
        self.assertEqual(get_caller_number(self.message("From: <sip:10.0.0.1>;tag=1")), "")
        self.assertEqual(get_caller_number(self.message("From: <sip:\\u95>")), "")
        self.assertEqual(get_caller_number(self.message()), "")

    def test_the_called_number_is_looked_for_in_order(self):
        lines = ["Diversion: <sip:4@h>;reason=unconditional", "To: <sip:3@h>",
                 "P-Called-Party-ID: <sip:2@h>"]
        self.assertEqual(get_called_number(self.message(*lines, uri="sip:1@h")), "1")
        for number in ("2", "3", "4"):
            self.assertEqual(get_called_number(self.message(*lines, uri="sip:10.0.0.1")), number)
            lines.pop()
        self.assertEqual(get_called_number(self.message(uri="sip:10.0.0.1")), "")


if __name__ == "__main__":
    unittest.main()
