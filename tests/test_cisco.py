"""Messages with the traits of CUCM, IOS and BroadWorks, odd spacing and order included.

They are written here, after public descriptions; each stands for a habit that breaks other servers.
"""

import unittest

from tests.support import Trunk, statuses

CUCM_IP, IOS_IP = "192.0.2.10", "192.0.2.20"
CUCM_SDP = """v=0
o=CiscoSystemsCCM-SIP 73601 1 IN IP4 192.0.2.10
s=SIP Call
c=IN IP4 192.0.2.101
b=TIAS:64000
b=CT:64
b=AS:64
t=0 0
a=X-nat:0 Unknown
m=audio 24580 RTP/AVP 9 0 8 116 18 101
b=TIAS:64000
a=ptime:20
a=rtpmap:9 G722/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:8 pcma/8000
a=rtpmap:116 iLBC/8000
a=fmtp:116 mode=20
a=rtpmap:18 G729/8000
a=ptime:20
a=maxptime:40
a=rtpmap:101 telephone-event/8000
a=fmtp:101 0-15
a=trafficclass:conversational.audio.aq:admitted
m=video 0 RTP/AVP 126
a=label:11
m=application 24582 UDP/BFCP *
a=content:slides
m=application 0 UDP/UDT/IX *
"""
CUCM_INVITE = """INVITE sip:1000@192.0.2.1:5060 SIP/2.0
Via: SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bK1b2c4d5e6f70
From: "Alice, Desk 1" <sip:4711@192.0.2.10>;tag=73601~ffa80926-5fac-4dd6-b405-2dbbc56ae9a2-551664735
To: <sip:1000@192.0.2.1>
Date: Mon, 23 Nov 2026 05:00:00 GMT
Call-ID: abbb8e00-4291f775-204c-0a0200c0@192.0.2.10
Supported: timer,resource-priority,replaces
Supported: X-cisco-srtp-fallback
Supported: Geolocation
Min-SE:  1800
User-Agent: Cisco-CUCM12.5
Allow: INVITE, OPTIONS, INFO, BYE, CANCEL, ACK, PRACK, UPDATE, Refer , SUBSCRIBE, NOTIFY
CSeq: 101 INVITE
Expires: 180
Allow-Events: presence, kpml
Supported: X-cisco-original-called
Call-Info: <sip:192.0.2.10:5060>;method="NOTIFY;Event=telephone-event;Duration=500"
Call-Info: <urn:x-cisco-remotecc:callinfo>;x-cisco-video-traffic-class=DESKTOP
Session-ID: 3f5e8a0000105000a000ccd8c1f0f0f0;remote=00000000000000000000000000000000
Cisco-Guid: 2881195520-0000065536-0000000012-0167903424
Session-Expires:  1800
P-Asserted-Identity: "Alice, Desk 1" <sip:4711@192.0.2.10>
Remote-Party-ID: "Alice, Desk 1" <sip:4711@192.0.2.10>;party=calling;screen=yes;privacy=off
Contact: <sip:4711@192.0.2.10:5060;transport=tcp>;isFocus;+u.sip!devicename.ccm.cisco.com="SEP0011"
Max-Forwards: 69
Content-Type: application/sdp
Content-Length:  {length}

"""
IOS_INVITE = """INVITE sip:1000@192.0.2.1:5060 SIP/2.0
Via: SIP/2.0/UDP  192.0.2.20:5060;x-ds0num="ISDN 0/1/0:15 0/1/0:DS1 31:DS0";branch=z9hG4bK2567F
Remote-Party-ID: <sip:4711@192.0.2.20>;party=calling;screen=yes;privacy=off
From: <sip:4711@192.0.2.20>;tag=1871EFF8-AE1
To: <sip:1000@192.0.2.1>
Date: Mon, 23 Nov 2026 05:00:00 GMT
Call-ID: 27DDA24D-F4A11E8-80CCFB84-B2765CC2@192.0.2.20
Supported: 100rel,timer,resource-priority,replaces,sdp-anat
Min-SE:  1800
Cisco-Guid: 0668820045-0256512488-2160917380-2994101442
User-Agent: Cisco-SIPGateway/IOS-17.12.4
Allow: INVITE, OPTIONS, BYE, CANCEL, ACK, PRACK, UPDATE, REFER, SUBSCRIBE, NOTIFY, INFO, REGISTER
CSeq: 101 INVITE
Max-Forwards: 70
Timestamp: 1795410000
Contact: <sip:4711@192.0.2.20:5060>
Expires: 180
Allow-Events: telephone-event
{extra}Content-Type: {type}
Content-Disposition: session;handling=required
Content-Length: {length}

"""
IOS_SDP = """v=0
o=CiscoSystemsSIP-GW-UserAgent 4271 9382 IN IP4 192.0.2.20
s=SIP Call
c=IN IP4 192.0.2.20
t=0 0
m=audio 17002 RTP/AVP 8 0 98 19
c=IN IP4 192.0.2.20
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
a=rtpmap:98 telephone-event/8000
a=fmtp:98 0-16
a=rtpmap:19 CN/8000
a=X-sqn:0
a=X-cap: 1 image udptl t38
"""


def wire(text, body="", **parts):
    body = body.replace("\n", "\r\n")
    return text.format(length=len(body), **parts).replace("\n", "\r\n").encode() + body.encode()


def replaced(data, *pairs):
    """Return data with lines exchanged; each must be there."""
    for old, new in pairs:
        assert old.encode() in data, old
        data = data.replace(old.encode(), new.encode())
    return data


class CUCM(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()
        self.source = CUCM_IP, 41234

    def send(self, data):
        return self.trunk.send(data, self.source)

    def in_dialog(self, ok, method, cseq, headers="", body=""):
        body = body.replace("\n", "\r\n")
        uri = ok.header("Contact").strip("<>") + ";transport=UDP"  # as CUCM rewrites it
        return self.send((
            f"{method} {uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK{cseq}{method}\r\n"
            f"From: {ok.header('From')}\r\nTo: {ok.header('To')}\r\n"
            f"Call-ID: {ok.header('Call-ID')}\r\nCSeq: {cseq} {method}\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n{body}").encode())

    def test_an_early_offer_with_all_its_lines_is_answered(self):
        with self.assertLogs("siprtp.calls", "INFO") as logged:
            ok = self.send(wire(CUCM_INVITE, CUCM_SDP))[-1]
        self.assertEqual((ok.status, ok.header("Session-Expires")), (200, "1800;refresher=uac"))
        self.assertEqual([line for line in ok.body.split(b"\r\n") if line.startswith(b"m=")], [
            b"m=audio 20000 RTP/AVP 8 101", b"m=video 0 RTP/AVP 126",
            b"m=application 0 UDP/BFCP *", b"m=application 0 UDP/UDT/IX *"])
        flow = self.trunk.server.media_made[0].flow
        self.assertEqual((flow.remote, flow.rtcp), (("192.0.2.101", 24580), ("192.0.2.101", 24581)))
        self.assertIn("call from '4711' to '1000' began", logged.output[0])
        self.assertIn("name 'Alice, Desk 1'", logged.output[0])

    def test_a_delayed_offer_is_its_normal_mode(self):
        invite = replaced(wire(CUCM_INVITE), ("Content-Type: application/sdp\r\n", ""))
        ok = self.send(invite)[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 0 101\r\n", ok.body)
        self.in_dialog(ok, "ACK", 101, "Content-Type: application/sdp\r\n", CUCM_SDP)
        flow = self.trunk.server.media_made[0].flow  # it prefers its first, and may send both
        self.assertEqual((flow.codec, flow.formats, flow.events),
                         ("PCMU", {0: 0, 8: 8, 101: 101}, 101))

    def test_a_delayed_offer_may_carry_a_presence_document(self):
        ok = self.send(replaced(wire(CUCM_INVITE, "<presence/>"),
                                ("application/sdp", "application/pidf+xml")))[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 0 101\r\n", ok.body)

    def test_its_ping_has_no_hops_no_users_and_no_accept(self):
        for require, status in (("", 200), ("Require: x-cisco-rai\r\n", 420)):  # 420 is alive too
            ping = ("OPTIONS sip:192.0.2.1:5060 SIP/2.0\r\n"
                    f"Via: SIP/2.0/TCP 192.0.2.10:5060;branch=z9hG4bK{status}\r\n"
                    "From: <sip:192.0.2.10>;tag=886\r\nTo: <sip:192.0.2.1>\r\n"
                    f"Call-ID: {status}@192.0.2.10\r\nUser-Agent: Cisco-CUCM12.5\r\n"
                    "CSeq: 101 OPTIONS\r\n"
                    f"Contact: <sip:192.0.2.10:5060;transport=tcp>\r\n{require}"
                    "Max-Forwards: 0\r\nContent-Length: 0\r\n\r\n")
            self.assertEqual(statuses(self.send(ping.encode())), [status])

    def test_no_codec_in_common_is_an_ack_without_answer_and_a_bye_at_once(self):
        ok = self.send(replaced(wire(CUCM_INVITE), ("Content-Type: application/sdp\r\n", "")))[-1]
        self.in_dialog(ok, "ACK", 101)
        bye = self.in_dialog(ok, "BYE", 102, "Reason: Q.850;cause=47\r\n")
        self.assertEqual((statuses(bye), len(self.trunk.server.calls)), ([200], 0))

    def test_updates_of_every_kind_are_200(self):
        ok = self.send(wire(CUCM_INVITE, CUCM_SDP))[-1]
        self.in_dialog(ok, "ACK", 101)
        for cseq, (headers, body, answered) in enumerate((
                ('P-Asserted-Identity: "Bob" <sip:4712@192.0.2.10>\r\n', "", False),
                ("Content-Type: application/pidf+xml\r\n", "<presence/>\n", False),
                ("Content-Type: application/x-cisco-cpa\r\n"
                 "Content-Disposition: signal;handling=optional\r\n", "cpa\n", False),
                ("", CUCM_SDP, True)), 102):
            update = self.in_dialog(ok, "UPDATE", cseq, headers, body)[-1]
            self.assertEqual((update.status, bool(update.body)), (200, answered), headers)

    def test_multicast_music_and_zeros_are_never_sent_to(self):
        ok = self.send(wire(CUCM_INVITE, CUCM_SDP))[-1]
        self.in_dialog(ok, "ACK", 101)
        for cseq, (address, direction, ours) in enumerate((
                ("239.1.1.1", "recvonly", b"inactive"), ("0.0.0.0", "inactive", b"inactive"),
                ("0.0.0.0", "sendonly", b"recvonly")), 102):
            held = self.in_dialog(ok, "INVITE", cseq, "Content-Type: application/sdp\r\n"
                                  "Contact: <sip:4711@192.0.2.10:5060>\r\n",
                                  CUCM_SDP.replace("192.0.2.101", address)
                                  .replace("a=maxptime:40", f"a={direction}"))[-1]
            self.assertIn(b"a=" + ours + b"\r\n", held.body)
            self.assertIn(b"c=IN IP4 192.0.2.1\r\n", held.body)  # never zeros of our own
            self.assertFalse(self.trunk.server.media_made[0].flow.sending)
            self.in_dialog(ok, "ACK", cseq)

    def test_a_recorder_that_requires_siprec_is_420(self):
        refused = self.send(replaced(wire(CUCM_INVITE, CUCM_SDP),
                                     ("Max-Forwards", "Require: siprec\r\nMax-Forwards")))[-1]
        self.assertEqual((refused.status, refused.header("Unsupported")), (420, "siprec"))

    def test_an_encrypted_offer_is_488_even_with_the_fallback_extension(self):
        refused = self.send(wire(CUCM_INVITE, CUCM_SDP.replace("RTP/AVP 9", "RTP/SAVP 9")))[-1]
        self.assertEqual((refused.status, refused.header("Warning")[:3]), (488, "302"))

    def test_a_kpml_subscription_is_405_with_allow(self):
        ok = self.send(wire(CUCM_INVITE, CUCM_SDP))[-1]
        refused = self.in_dialog(ok, "SUBSCRIBE", 102, "Event: kpml ;call-id=1\r\n")[-1]
        self.assertEqual((refused.status, "NOTIFY" in refused.header("Allow")), (405, True))


class IOS(unittest.TestCase):
    def setUp(self):
        self.trunk = Trunk()

    def invite(self, body=IOS_SDP, kind="application/sdp", extra=""):
        return self.trunk.send(wire(IOS_INVITE, body, type=kind, extra=extra), (IOS_IP, 57407))

    def test_its_via_comes_back_to_the_letter_and_to_its_port(self):
        ok, = self.invite()
        self.assertEqual(ok.header("Via"), "SIP/2.0/UDP  192.0.2.20:5060;"
                         'x-ds0num="ISDN 0/1/0:15 0/1/0:DS1 31:DS0";branch=z9hG4bK2567F')
        self.assertEqual(ok.header("Timestamp"), "1795410000")
        self.assertEqual({address for _, address in self.trunk.server.sent}, {(IOS_IP, 5060)})

    def test_its_comfort_noise_is_not_agreed_and_its_event_type_is(self):
        ok = self.invite()[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 98\r\n", ok.body)
        self.assertEqual(self.trunk.server.media_made[0].flow.formats, {8: 8, 98: 98})

    def test_isdn_data_beside_the_sdp_is_read_over(self):
        body = ("--uniqueBoundary \nContent-Type: application/sdp\n"
                f"Content-Disposition: session;handling=required\n\n{IOS_SDP}\n--uniqueBoundary\n"
                "Content-Type: application/gtd\nContent-Disposition: signal;handling=optional\n\n"
                "IAM,\nPRN,isdn*,,NT100,\n\n--uniqueBoundary--\n")
        ok = self.invite(body, "multipart/mixed;boundary=uniqueBoundary")[-1]
        self.assertIn(b"m=audio 20000 RTP/AVP 8 98\r\n", ok.body)

    def test_it_may_require_100rel_and_timer(self):
        ok = self.invite(extra="Require: 100rel\nRequire: timer\nSession-Expires: 1800\n")[-1]
        self.assertEqual((ok.status, ok.header("Session-Expires")), (200, "1800;refresher=uac"))

    def test_min_se_without_session_expires_is_no_timer(self):
        self.assertIsNone(self.invite()[-1].header("Session-Expires"))

    def test_a_cancel_that_crosses_the_200_is_200_and_the_call_stays_until_bye(self):
        self.invite()
        cancel = replaced(wire(IOS_INVITE, type="x/y", extra=""), ("INVITE sip", "CANCEL sip"),
                          ("CSeq: 101 INVITE", "CSeq: 101 CANCEL"))
        self.assertEqual(statuses(self.trunk.send(cancel, (IOS_IP, 57407))), [200])
        self.assertEqual(len(self.trunk.server.calls), 1)


class Traps(unittest.TestCase):
    """Section by section what parsers stumble over, in one INVITE each."""

    def answer(self, *pairs, body=IOS_SDP):
        data = replaced(wire(IOS_INVITE, body, type="application/sdp", extra=""), *pairs)
        return Trunk().send(data, (IOS_IP, 5060))[-1]

    def test_each_is_taken(self):
        for pairs in (
                [("CSeq: 101", "Cseq:101")], [("Call-ID: ", "Call-Id:")], [("Min-SE", "Min-Se")],
                [("Supported: 100rel,timer,resource-priority,replaces,sdp-anat", "Supported:")],
                [("To: <sip:1000@192.0.2.1>", "To: sip:1000@192.0.2.1")],
                [("From: <sip:4711@192.0.2.20>;tag", "From: +49301 <sip:+49301@192.0.2.20> ;tag")],
                [("From: <sip:4711@", 'From: "a, b; c <d>" <sip:a$=b@')],
                [("From: <sip:4711@192.0.2.20>", "From: <sip:192.0.2.20;x-nearend;x-refci=1>")],
                [("Contact: <sip:4711@192.0.2.20:5060>", "m: sip:4711@192.0.2.20:5060;expires=5")],
                [("Contact: <sip:4711@", "Contact: <sip:")],
                [("INVITE sip:1000@192.0.2.1:5060", "INVITE sip:192.0.2.1")],
                [("Expires: 180", "History-Info: <sip:\\u95>;index=1")],
                [("Expires: 180", "Call-Info: ;method=\"NOTIFY\"\r\nCall-Info: ; gci= 1-4270982")],
                [(";branch=z9hG4bK2567F", ";branch=1704852021-~.-, SIP/2.0/TCP   p2;branch=2")],
                [(";branch=z9hG4bK2567F", "")],
                [("Max-Forwards: 70\r\n", "")],
                [("Content-Type: application/sdp\r\n", "")],
                [("Content-Type: application/sdp", "Content-Type:application/SDP ; charset=x")]):
            ok = self.answer(*pairs)
            self.assertEqual((ok.status, b"RTP/AVP 8 98" in ok.body), (200, True), pairs)

    def test_headers_may_follow_content_length_and_a_body_may_end_anywhere(self):
        length = f"Content-Length: {len(IOS_SDP) + IOS_SDP.count(chr(10))}\r\n"
        ok = self.answer((length, f"{length}Reason: Q.850;cause=16\r\n"))
        self.assertEqual(ok.status, 200)
        for body in (IOS_SDP.rstrip("\n"), IOS_SDP.replace("t=0 0\n", ""),
                     IOS_SDP.replace("o=CiscoSystemsSIP-GW-UserAgent 4271",
                                     "o=- 99999999999999999999999")):
            self.assertEqual(self.answer(body=body).status, 200)

    def test_a_via_that_cannot_be_read_is_400_to_where_it_came_from(self):
        trunk = Trunk()
        data = replaced(wire(IOS_INVITE, IOS_SDP, type="application/sdp", extra=""),
                        ("SIP/2.0/UDP  192", "SIP/2.0 UDP 192"))
        refused = trunk.send(data, (IOS_IP, 57407))
        self.assertEqual((statuses(refused), trunk.server.sent[0][1]), ([400], (IOS_IP, 57407)))

    def test_maddr_in_a_via_is_not_followed(self):
        trunk = Trunk()
        data = replaced(wire(IOS_INVITE, IOS_SDP, type="application/sdp", extra=""),
                        (";branch", ";maddr=203.0.113.9;branch"))
        trunk.send(data, (IOS_IP, 57407))
        self.assertEqual({address for _, address in trunk.server.sent}, {(IOS_IP, 5060)})


if __name__ == "__main__":
    unittest.main()
