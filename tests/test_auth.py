"""Digest authentication: who may call, what others learn, and what the log must not say."""

import hashlib
import logging
import os
import re
import tempfile
import unittest
from types import SimpleNamespace

from sip_message import SIPError
from siprtp.config import Config, ConfigError
from siprtp.sip import auth
from siprtp.sip.auth import ALGORITHMS, Authenticator, digest, get_response, hide_credentials
from tests.support import OFFER, PEER, Clock, Trunk, statuses

PASSWORDS = "# who may call\n\nalice:wonder:land\n  bob : builder \nj\u00f6rg:gr\u00fcn\n"


def write(test, text):
    """Return the path of a password file."""
    handle, path = tempfile.mkstemp()
    test.addCleanup(os.unlink, path)
    with os.fdopen(handle, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


def challenges(response):
    """Return the parameters of each challenge, as a caller reads them."""
    return [dict(re.findall(r'(\w+)="?([^",]+)', value.partition(" ")[2]))
            for value in response.headers_all("WWW-Authenticate")]


def authorize(challenge, user="alice", password="wonder:land", count=1, **other):
    """Return the Authorization line that answers a challenge; other replaces parameters."""
    name = other.get("algorithm", challenge["algorithm"])
    hash_ = {"SHA-256": hashlib.sha256}.get(name.upper(), hashlib.md5)
    uri = other.get("uri", "sip:1000@192.0.2.1")
    nc, qop = other.get("nc", f"{count:08x}"), other.get("qop", "auth")

    def h(text):
        return hash_(text.encode()).hexdigest()

    response = h(":".join([h(f"{user}:{challenge['realm']}:{password}"), challenge["nonce"],
                           nc or "", "c0ffee", qop or "", h(f"INVITE:{uri}")]))
    params = {"username": f'"{user}"', "realm": f'"{challenge["realm"]}"',
              "nonce": f'"{challenge["nonce"]}"', "uri": f'"{uri}"', "response": f'"{response}"',
              "algorithm": name, "cnonce": '"c0ffee"', "qop": qop, "nc": nc}
    params.update((key, value) for key, value in other.items() if key != "uri")
    return "Authorization: Digest " + ", ".join(
        f"{key}={value}" for key, value in params.items() if value is not None)


class AuthCase(unittest.TestCase):
    """A trunk before a server that asks for passwords."""

    def setUp(self):
        self.trunk = Trunk(SIP_PASSWORD_FILE=write(self, PASSWORDS))
        self.server = self.trunk.server
        self.cseq = 0
        logging.disable(logging.WARNING)
        self.addCleanup(logging.disable, logging.NOTSET)

    def invite(self, *headers, source=PEER):
        """Send the caller's next INVITE; return the last message that came back."""
        self.cseq += 1
        return self.trunk.send(self.trunk.request("INVITE", self.cseq, OFFER, headers), source)[-1]

    def challenge(self, algorithm="SHA-256", source=PEER):
        return {c["algorithm"]: c for c in challenges(self.invite(source=source))}[algorithm]

    def attempt(self, *args, **params):
        """Return the answer to credentials for a new challenge."""
        return self.invite(authorize(self.challenge(), *args, **params))

    def guess(self, times, source=PEER):
        for _ in range(times):
            wrong = authorize(self.challenge(source=source), "alice", "wrong")
            self.assertEqual(self.invite(wrong, source=source).status, 401)


class Known(unittest.TestCase):
    def test_the_responses_of_rfc_7616_3_9_1(self):
        credentials = {
            "uri": "/dir/index.html", "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
            "nc": "00000001", "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            "qop": "auth"}
        for name, right in (
                ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
                ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1")):
            algorithm = ALGORITHMS[name]
            ha1 = digest(algorithm, "Mufasa", "http-auth@example.org", "Circle of Life")
            self.assertEqual(get_response(algorithm, ha1, "GET", credentials), right)


class Challenged(AuthCase):
    def test_an_invite_without_credentials_gets_401_with_sha_256_before_md5(self):
        refused = self.invite()
        self.assertEqual((refused.status, refused.reason), (401, "Unauthorized"))
        self.assertEqual([(c["algorithm"], c["realm"], c["qop"]) for c in challenges(refused)],
                         [("SHA-256", "sip-rtp-server", "auth"), ("MD5", "sip-rtp-server", "auth")])
        for value in refused.headers_all("WWW-Authenticate"):
            self.assertRegex(value, r'^Digest realm="[^"]+", qop="auth", nonce="[0-9a-f.-]+", '
                                    r"algorithm=[A-Z0-9-]+$")

    def test_a_peer_that_sha_256_confuses_may_be_asked_by_md5_alone(self):
        trunk = Trunk(SIP_PASSWORD_FILE=write(self, "alice:wonder:land"), SIP_DIGEST="MD5")
        challenge, = challenges(trunk.say("INVITE", body=OFFER)[-1])
        self.assertEqual(challenge["algorithm"], "MD5")
        for algorithm, status in (("SHA-256", 401), ("MD5", 200)):
            line = authorize(challenge, algorithm=algorithm)
            self.assertEqual(trunk.say("INVITE", 2, OFFER, [line])[-1].status, status)

    def test_nothing_is_set_up_before_the_password_is_right(self):
        self.invite()
        self.attempt("alice", "wrong")
        self.assertEqual((len(self.server.calls), self.server.media_made), (0, []))
        self.assertNotIn(100, statuses(self.trunk.answers()))

    def test_nothing_else_about_the_invite_is_judged_before(self):
        for headers in (["Require: siprec"], ["Accept: text/plain"], ["Session-Expires: 1",
                        "Supported: timer"], ["Content-Type: x/y"]):
            self.assertEqual(self.invite(*headers).status, 401, headers)
        self.assertEqual(Trunk(SIP_PASSWORD_FILE=write(self, "a:b"), MAX_CALLS="1").say(
            "INVITE", body=b"no sdp")[-1].status, 401)
        self.server.uas.stopping = True
        self.assertEqual(self.invite().status, 401)

    def test_every_challenge_has_a_nonce_of_its_own(self):
        nonces = {c["nonce"] for c in challenges(self.invite()) + challenges(self.invite())}
        self.assertEqual(len(nonces), 2)  # that of a 401 serves both algorithms

    def test_a_nonce_does_not_tell_the_servers_clock(self):
        self.assertNotIn("1000.000", challenges(self.invite())[0]["nonce"])

    def test_everything_but_a_new_invite_goes_without_a_password(self):
        self.assertEqual(self.trunk.say("OPTIONS")[-1].status, 200)
        self.assertEqual(self.trunk.say("BYE", to_tag="none")[-1].status, 481)
        self.assertEqual(self.trunk.say("INVITE", to_tag="none")[-1].status, 481)

    def test_without_a_password_file_no_caller_is_challenged(self):
        self.assertEqual(Trunk().say("INVITE", body=OFFER)[-1].status, 200)


class Accepted(AuthCase):
    def test_the_right_password_makes_a_call_by_either_algorithm(self):
        for name in ALGORITHMS:
            self.setUp()
            ok = self.invite(authorize(self.challenge(name)))
            self.assertEqual(ok.status, 200, name)
            self.assertEqual(len(self.server.calls), 1)

    def test_an_algorithm_is_read_in_any_case_quoted_and_none_is_md5(self):
        for written in ("sha-256", '"SHA-256"', "md5", None):
            self.setUp()
            line = authorize(self.challenge(), algorithm=(written or "MD5").strip('"'))
            line = re.sub("algorithm=[^,]*,", f"algorithm={written}," if written else "", line)
            self.assertEqual(self.invite(line).status, 200, line)

    def test_the_repeated_invite_with_credentials_is_absorbed(self):
        line = authorize(self.challenge())
        invite = self.trunk.request("INVITE", 2, OFFER, [line])
        ok = self.trunk.send(invite)[-1]
        self.assertEqual((ok.status, self.trunk.send(invite)), (200, []))

    def test_a_reinvite_needs_no_password(self):
        ok = self.attempt()
        self.trunk.say("ACK", self.cseq, to_tag=ok.to_tag)
        again = self.trunk.say("INVITE", 9, OFFER, to_tag=ok.to_tag)
        self.assertEqual(again[-1].status, 200)

    def test_commas_escapes_spaces_and_folds_in_the_header_are_read(self):
        trunk = Trunk(SIP_PASSWORD_FILE=write(self, 'a, "b" \\c=d:secret'))
        challenge = challenges(trunk.say("INVITE", body=OFFER)[-1])[0]
        line = authorize(challenge, 'a, "b" \\c=d', "secret",
                         username='"a, \\"b\\" \\\\c=d"').replace(", nonce=", ",\r\n\tnonce = ")
        line = line.replace("Digest ", "dIGEST\t")
        self.assertEqual(trunk.say("INVITE", 2, OFFER, [line])[-1].status, 200)

    def test_a_user_name_and_password_may_be_any_utf_8(self):
        self.assertEqual(self.attempt("j\u00f6rg", "gr\u00fcn").status, 200)

    def test_spaces_around_user_and_password_in_the_file_do_not_count(self):
        self.assertEqual(self.attempt("bob", "builder").status, 200)

    def test_of_several_credentials_those_of_our_realm_are_taken(self):
        line = authorize(self.challenge())
        elsewhere = line.replace("sip-rtp-server", "elsewhere").replace("alice", "eve")
        self.assertEqual(self.invite(elsewhere, "Authorization: Basic YTpi", "Authorization:",
                                     line).status, 200)

    def test_a_uri_other_than_the_request_uri_is_no_fault(self):
        self.assertEqual(self.attempt(uri="sip:+49301000@pbx.example;user=phone").status, 200)

    def test_a_nonce_serves_again_with_a_higher_count(self):
        challenge = self.challenge()
        for count in (1, 2, 7):
            self.trunk.advance(count)
            line = authorize(challenge, count=count)
            self.assertEqual(self.trunk.say("INVITE", count, OFFER, [line],
                                            call_id=f"call-{count}")[-1].status, 200)


class Refused(AuthCase):
    def test_unknown_user_wrong_password_and_malformed_credentials_get_the_same_401(self):
        first = self.invite()
        names = sorted(first.headers)
        for user, password, other in (
                ("alice", "wrong", {}), ("nobody", "wonder:land", {}), ("", "", {}),
                ("alice", "wonder:land", {"response": None}),
                ("alice", "wonder:land", {"response": '""'}),
                ("alice", "wonder:land", {"response": '"\u00fc"'}),
                ("alice", "wonder:land", {"username": None}),
                ("alice", "wonder:land", {"nc": None}),
                ("alice", "wonder:land", {"nc": "-0000001"}),
                ("alice", "wonder:land", {"qop": None}),
                ("alice", "wonder:land", {"qop": "auth-int"}),
                ("alice", "wonder:land", {"algorithm": "MD5-sess"}),
                ("alice", "wonder:land", {"algorithm": "SHA-1"})):
            self.trunk.advance(10)  # too few a minute to be refused for their number
            with self.subTest(user=user, password=password, other=other):
                refused = self.attempt(user, password, **other)
                self.assertEqual((refused.status, sorted(refused.headers)), (401, names))
                self.assertNotIn("stale", str(challenges(refused)))
        self.assertEqual(len(self.server.calls), 0)

    def test_a_response_without_qop_is_refused_even_if_it_is_right(self):
        challenge = self.challenge("MD5")

        def h(text):
            return hashlib.md5(text.encode()).hexdigest()

        old = h(":".join([h("alice:sip-rtp-server:wonder:land"), challenge["nonce"],
                          h("INVITE:sip:1000@192.0.2.1")]))
        line = authorize(challenge, qop=None, nc=None, cnonce=None, response=f'"{old}"')
        logging.disable(logging.NOTSET)
        with self.assertLogs("siprtp.sip.auth", "INFO") as logged:
            self.assertEqual(self.invite(line).status, 401)
        self.assertIn("user 'alice'; qop=auth is missing", logged.output[0])

    def test_an_expired_nonce_is_stale_if_the_response_is_right(self):
        line = authorize(self.challenge())
        self.trunk.advance(60)
        refused = self.invite(line)
        self.assertEqual([c.get("stale") for c in challenges(refused)], ["true", "true"])
        self.assertEqual(self.invite(authorize(challenges(refused)[0])).status, 200)

    def test_an_expired_nonce_with_a_wrong_response_is_not_stale(self):
        line = authorize(self.challenge(), "alice", "wrong")
        self.trunk.advance(60)
        self.assertNotIn("stale", challenges(self.invite(line))[0])

    def test_a_nonce_is_good_for_60_seconds(self):
        line = authorize(self.challenge())
        self.trunk.advance(59.9)
        self.assertEqual(self.invite(line).status, 200)

    def test_a_nonce_that_is_not_ours_is_not_stale(self):
        challenge = self.challenge()
        nonce = challenge["nonce"]
        for forged in ("", "x", nonce[:-1], nonce + "0", "9" + nonce, nonce.replace("-", "", 1),
                       "\u00fc-\u00fc", challenges(Trunk(SIP_PASSWORD_FILE=write(self, "a:b")).say(
                           "INVITE", body=OFFER)[-1])[0]["nonce"]):
            with self.subTest(nonce=forged):
                refused = self.invite(authorize(dict(challenge, nonce=forged)))
                self.assertEqual(refused.status, 401)
                self.assertNotIn("stale", challenges(refused)[0])

    def test_a_nonce_is_for_the_source_that_got_it(self):
        refused = self.invite(authorize(self.challenge()), source=("192.0.2.66", 5060))
        self.assertEqual(refused.status, 401)
        self.assertNotIn("stale", challenges(refused)[0])

    def test_replayed_credentials_are_stale(self):
        line = authorize(self.challenge(), count=2)
        self.assertEqual(self.invite(line).status, 200)
        for count in (2, 1):
            again = line if count == 2 else line.replace("nc=00000002", "nc=00000001")
            refused = self.invite(again)
            self.assertEqual(refused.status, 401)
            self.assertEqual("stale" in challenges(refused)[0], count == 2)

    def test_a_lower_count_is_stale_and_does_not_lower_what_comes_next(self):
        challenge = self.challenge()
        self.assertIn("stale", challenges(self.invite(authorize(challenge, count=0)))[0])
        self.assertEqual(self.invite(authorize(challenge, count=5)).status, 200)
        for count in (4, 5):
            refused = self.invite(authorize(challenge, count=count))
            self.assertEqual(challenges(refused)[0]["stale"], "true")

    def test_counts_are_dropped_when_their_nonces_have_expired(self):
        for _ in range(3):
            self.attempt()
            self.trunk.advance(30)
        self.assertEqual(len(self.server.authenticator._counts), 2)
        self.trunk.advance(60)
        self.invite()
        self.assertEqual(len(self.server.authenticator._counts), 0)


class Guessed(AuthCase):
    def test_after_ten_wrong_passwords_a_source_gets_403_whatever_it_sends(self):
        self.guess(9)
        line = authorize(self.challenge())
        self.guess(1)
        for headers in ([line], []):
            refused = self.invite(*headers)
            self.assertEqual(refused.status, 403)
            self.assertIsNone(refused.header("WWW-Authenticate"))

    def test_nine_are_forgiven(self):
        self.guess(9)
        self.assertEqual(self.attempt().status, 200)

    def test_it_is_heard_again_when_the_minute_is_over(self):
        self.guess(1)
        self.trunk.advance(40)
        self.guess(9)
        self.trunk.advance(19.9)
        self.assertEqual(self.invite().status, 403)
        self.trunk.advance(0.2)
        self.assertEqual(self.attempt().status, 200)

    def test_another_source_is_heard(self):
        self.guess(10)
        self.assertEqual(self.invite(source=("192.0.2.66", 5060)).status, 401)

    def test_what_a_liar_sends_in_the_name_of_another_does_not_count(self):
        elsewhere = authorize(self.challenge(source=("192.0.2.66", 5060)), "alice", "wrong")
        for _ in range(20):
            self.invite(elsewhere)
            self.invite(authorize({"nonce": "x", "realm": "sip-rtp-server", "algorithm": "MD5"}))
        self.assertEqual(self.attempt().status, 200)

    def test_a_stale_nonce_is_no_failure(self):
        line = authorize(self.challenge())
        for _ in range(20):
            self.invite(line)
        self.assertEqual(self.attempt().status, 200)

    def test_an_ipv6_source_is_its_network(self):
        users = Authenticator({"alice": "x"}, Clock(), lambda seconds, function: None)

        def status(ip, line=""):
            request = SimpleNamespace(source=(ip, 5060), method=lambda: "INVITE",
                                      header=lambda name, default: default,
                                      headers_all=lambda name: [line.partition(": ")[2]])
            try:
                users.check(request)
            except SIPError as error:
                return error.status, error.headers
            return 200, []

        for host in range(10):
            value = status(f"2001:db8::{host}")[1][0][1]
            challenge = dict(re.findall(r'(\w+)="?([^",]+)', value.partition(" ")[2]))
            status(f"2001:db8::{host}", authorize(challenge, "alice", "wrong"))
        others = "2001:db8::ff:1", "2001:db8:0:1::1", "fe80::1%2"
        self.assertEqual([status(ip)[0] for ip in others], [403, 401, 401])

    def test_the_table_of_sources_is_bounded(self):
        self.addCleanup(setattr, auth, "MAX_SOURCES", auth.MAX_SOURCES)
        auth.MAX_SOURCES = 3
        for host in range(9):
            self.guess(1, (f"192.0.2.{host}", 5060))
        self.assertEqual(list(self.server.authenticator._failures),
                         ["192.0.2.6", "192.0.2.7", "192.0.2.8"])


class Transactions(AuthCase):
    def test_a_401_is_sent_once_and_nothing_is_kept_of_it(self):
        self.invite()
        self.assertEqual(self.trunk.advance(40), [])
        self.assertEqual((len(self.server.transactions), len(self.server.transactions._merged)),
                         (0, 0))

    def test_a_repeated_invite_gets_a_401_with_the_same_tag(self):
        invite = self.trunk.request("INVITE", 1, OFFER)
        first, again = self.trunk.send(invite), self.trunk.send(invite)
        self.assertEqual(statuses(first + again), [401, 401])
        self.assertEqual(first[0].to_tag, again[0].to_tag)

    def test_the_ack_to_a_401_is_taken_in_silence(self):
        refused = self.trunk.say("INVITE", 1, OFFER, branch="z9hG4bKone")[-1]
        self.assertEqual(self.trunk.say("ACK", 1, branch="z9hG4bKone", to_tag=refused.to_tag), [])

    def test_the_invite_with_credentials_is_not_merged_with_the_first(self):
        refused = self.trunk.say("INVITE", 1, OFFER)[-1]
        line = authorize(challenges(refused)[0])
        invite = self.trunk.request("INVITE", 2, OFFER, [line])
        self.assertEqual(statuses(self.trunk.send(invite)), [200])
        self.assertEqual(self.trunk.send(invite), [])
        merged = invite.replace(b"z9hG4bKINVITE", b"z9hG4bKother")
        self.assertEqual(statuses(self.trunk.send(merged)), [401])  # its count was used

    def test_what_is_refused_after_the_password_is_resent_until_its_ack(self):
        refused = self.invite(authorize(self.challenge()), "Require: siprec")
        self.assertEqual(refused.status, 420)
        self.assertEqual([message.status for _, message in self.trunk.advance(2)], [420, 420])


class Logged(AuthCase):
    def setUp(self):
        super().setUp()
        logging.disable(logging.NOTSET)

    def test_a_wrong_password_is_one_line_with_the_user_cut_and_escaped(self):
        with self.assertLogs(level="INFO") as logged:
            self.attempt("\x1b" + "x" * 100, "wrong")
        self.assertEqual([(r.levelname, r.getMessage()) for r in logged.records],
                         [("INFO", "wrong credentials from 192.0.2.10: user '\\x1b" + "x" * 45)])

    def test_the_tenth_is_a_warning_and_then_there_is_silence(self):
        with self.assertLogs(level="INFO") as logged:
            self.guess(10)
            for _ in range(20):
                self.invite()
        self.assertEqual([r.levelname for r in logged.records], ["INFO"] * 10 + ["WARNING"])
        self.assertEqual(logged.records[-1].getMessage(), "10 wrong credentials from 192.0.2.10: "
                         "its calls get 403 for the next 60 s")

    def test_a_caller_that_sends_no_credentials_is_logged_once(self):
        self.invite()
        self.invite('Authorization: Digest username="alice", realm="other", nonce="1"')
        with self.assertLogs("siprtp.sip.auth", "INFO") as logged:
            self.trunk.advance(auth.ASKED_SECONDS + 1)
        self.assertEqual([record.getMessage() for record in logged.records], [
            "INVITE from 192.0.2.10:5060: sent 401 for realm 'sip-rtp-server'; "
            "the caller never sent credentials; Call-ID 'call-1@192.0.2.10'"])

    def test_a_caller_that_sends_credentials_is_not_logged(self):
        with self.assertLogs("siprtp.sip.auth", "INFO") as logged:
            self.assertEqual(self.attempt(password="wrong").status, 401)
            self.assertEqual(self.attempt().status, 200)
            self.trunk.advance(auth.ASKED_SECONDS + 1)
        self.assertIn("wrong credentials", logged.output[0])
        self.assertEqual(len(logged.output), 1)

    def test_of_many_callers_without_credentials_some_are_logged(self):
        with self.assertLogs("siprtp.sip.auth", "INFO") as logged:
            for number in range(2 * auth.MAX_ASKED):
                self.trunk.say("INVITE", body=OFFER, call_id=f"call-{number}")
            self.trunk.advance(auth.ASKED_SECONDS + 1)
        self.assertEqual(len(logged.output), auth.MAX_ASKED)

    def test_no_password_and_no_credentials_reach_the_log_even_at_debug(self):
        with self.assertLogs(level="DEBUG") as logged:
            self.attempt("alice", "wrong")
            self.attempt()
        text = "\n".join(logged.output)
        for secret in ("wonder", "c0ffee", "Authorization: Digest"):
            self.assertNotIn(secret, text)
        self.assertIn("Authorization: ***\\r\\n", text)

    def test_credentials_are_hidden_in_any_case_folded_or_twice(self):
        for line in (b"Authorization: Digest SECRET", b"AUTHORIZATION \t:SECRET",
                     b"proxy-authorization: a\r\n\tSECRET\r\n SECRET", b"\rAuthorization: SECRET",
                     b"Authorization SECRET", b"Authorization: a\r\nAuthorization: SECRET",
                     b"Authorization:\n SECRET"):
            shown = hide_credentials(b"INVITE a SIP/2.0\r\nTo: b\r\n" + line + b"\r\nVia: c\r\n")
            self.assertNotIn(b"SECRET", shown)
            self.assertRegex(shown, rb"^INVITE a SIP/2.0\r\nTo: b\r\n(?s:.*)\r\nVia: c\r\n$")

    def test_other_messages_are_shown_as_they_are(self):
        for data in (b"WWW-Authenticate: x\r\n", b"X: Authorization: y\r\n", b"\r\n\r\n", b"",
                     bytes(range(256)), self.trunk.request("INVITE", body=OFFER)):
            self.assertEqual(hide_credentials(data), data)


class PasswordFile(unittest.TestCase):
    def test_users_are_read_once_and_never_shown(self):
        path = write(self, b"\xef\xbb\xbf" + PASSWORDS.replace("\n", "\r\n").encode())
        config = Config.from_env({"SIP_PASSWORD_FILE": path})
        self.assertEqual(config.sip_password_file,
                         {"alice": "wonder:land", "bob": "builder", "j\u00f6rg": "gr\u00fcn"})
        for text in (repr(config), f"{config.sip_password_file}"):
            self.assertIn("<3 passwords>", text)
            self.assertNotIn("builder", text)

    def test_a_file_that_cant_be_used_is_an_error_that_repeats_nothing_of_it(self):
        for text, why in (("", "no user:"), ("# alice:secret\n", "no user:"),
                          ("a:b\nsecret", "line 2 is not"), (":secret", "line 1 is not"),
                          ("secret:", "line 1 is not"), ("secret: ", "line 1 is not"),
                          ("\n#\nsecret:a\nsecret:b", "line 4 repeats"),
                          (b"secret:\xff", "must be UTF-8")):
            with self.subTest(text=text), self.assertRaisesRegex(
                    ConfigError, f"^SIP_PASSWORD_FILE=.*: .*{why}") as caught:
                Config.from_env({"SIP_PASSWORD_FILE": write(self, text)})
            self.assertNotIn("secret", str(caught.exception))

    def test_a_file_that_is_not_there_or_is_a_directory_is_an_error(self):
        for path in ("/nowhere/passwords", os.path.dirname(__file__)):
            with self.assertRaisesRegex(ConfigError, "^SIP_PASSWORD_FILE=.*directory"):
                Config.from_env({"SIP_PASSWORD_FILE": path})


if __name__ == "__main__":
    unittest.main()
