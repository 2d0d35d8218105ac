"""The torture messages of RFC 4475, and those of RFC 5118 about IPv6: each gets its verdict.

The server is a UAS without registrar: a REGISTER that is well-formed is 405.
"""

import textwrap
import unittest
from typing import NamedTuple

from sip_message import SIPMessage, split_multipart
from sip_utils import get_called_number, get_caller_number, parse_address, parse_uri, parse_via
from tests.support import OFFER, PEER, Trunk, statuses

PEER6 = ("2001:db8::10", 5060)
AUDIO_AND_VIDEO = ("m=audio 49217 RTP/AVP 0 12\r\nm=video 3227 RTP/AVP 31\r\n"
                   "a=rtpmap:31 LPC\r\n")


class Row(NamedTuple):
    """A message and what is to become of it.

    status: of the final reply, 0 for silence. reads: what each of READ has to return of the
    message. says: a part of the reply's reason. reply: headers of the reply.
    """

    name: str
    data: bytes
    status: int
    reads: dict = {}
    says: str = ""
    reply: dict = {}


READ = {
    "method": SIPMessage.method,
    "uri": lambda m: m.uri,
    "user": lambda m: parse_uri(m.uri).user,
    "host and port": lambda m: parse_uri(m.uri)[2:4],
    "caller": get_caller_number,
    "called": get_called_number,
    "from": lambda m: parse_address(m.header("From"))[:2],
    "from tag": lambda m: m.from_tag,
    "to": lambda m: parse_address(m.header("To"))[:2],
    "to tag": lambda m: m.to_tag,
    "call-id": lambda m: m.header("Call-ID"),
    "cseq": lambda m: m.cseq,
    "vias": lambda m: [parse_via(value)[:2] for value in m.headers_all("Via")],
    "branches": lambda m: [parse_via(value).branch for value in m.headers_all("Via")],
    "received": lambda m: m.via.params["received"],
    "contacts": lambda m: [parse_address(value) for value in m.headers_all("Contact")],
    "contact user": lambda m: parse_uri(parse_address(m.header("Contact")).uri).user,
    "extension": lambda m: m.header("extensionHeader-!.%*+_`'~"),
    "reason": lambda m: m.reason,
    "parts": lambda m: split_multipart("7a9cbec02ceef655", m.body),
    "body": lambda m: m.body,
}


def sdp(ip, media=AUDIO_AND_VIDEO):
    return (f"v=0\r\no=mhandley 29739 7272939 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n"
            f"{media}").encode()


def octets(text, body=b""):
    """Return a message as it is on the wire; LENGTH in it stands for that of the body."""
    head = textwrap.dedent(text).strip("\n").replace("LENGTH", str(len(body)))
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


def long_request():
    """3.1.1.7: every value is long, and there are 35 Vias."""
    long, caller = "long" * 20, "amazinglylongcallername" * 5
    vias = [f"{'v' if number % 2 else 'Via'}: SIP/2.0/TCP sip{number}.example.com"
            for number in range(33, -1, -1)]
    return "\n".join([
        "INVITE sip:user@example.com SIP/2.0",
        f'To: "I have a user name of {"extreme" * 10} proportion"<sip:user@example.com:6000;'
        f"unknownparam1=very{long}value;{long}param{'name' * 10}=shortvalue;"
        f"very{long}ParameterNameWithNoValue>",
        f"F: sip:{caller}@example.net;tag=12{'982' * 50}424;unknownheaderparam{'name' * 20}="
        f"unknowheaderparam{'value' * 15};unknownValueless{'paramname' * 10}",
        f"Call-ID: longreq.one{'really' * 20}longcallid", "CSeq: 3882340 INVITE",
        f"Unknown-{long}-Name: unknown-{long}-value; unknown-{long}-parameter-name = {long}",
        *vias,
        f"Via: SIP/2.0/TCP host.example.com;received=192.0.2.5;branch=very{long * 3}branchvalue",
        "Max-Forwards: 70", f"Contact: <sip:{caller}@host5.example.net>",
        "Content-Type: application/sdp", "l: LENGTH"])


VALID = [  # 3.1.1
    Row("3.1.1.1 wsinv", octets("""
        INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0
        TO :
         sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n
        from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>
          ;
          tag = 98asjd8
        MaX-fOrWaRdS: 0068
        Call-ID: wsinv.ndaksdj@192.0.2.1
        Content-Length   : LENGTH
        cseq: 0009
          INVITE
        Via  : SIP  /   2.0
         /UDP
            192.0.2.2;branch=390skdjuw
        s :
        NewFangledHeader:   newfangled value
         continued newfangled value
        UnknownHeaderWithUnusualValue: ;;,,;;,;
        Content-Type: application/sdp
        Route:
         <sip:services.example.com;lr;unknownwith=value;unknown-no-value>
        v:  SIP  / 2.0  / TCP     spindle.example.com   ;
          branch  =   z9hG4bK9ikj8  ,
         SIP  /    2.0   / UDP  192.168.255.111   ; branch=
         z9hG4bK30239
        m:"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam =
              newvalue ;
          secondparam ; q = 0.33
        """, sdp("192.0.2.3")), 481, {  # it is in a dialog, and there is none
            "called": "vivekg", "caller": "jdrosen", "cseq": (9, "INVITE"),
            "from": ('J Rosenberg \\"', "sip:jdrosen@example.com"), "from tag": "98asjd8",
            "to tag": "1918181833n", "body": sdp("192.0.2.3"),
            "vias": [("UDP", "192.0.2.2"), ("TCP", "spindle.example.com"),
                     ("UDP", "192.168.255.111")],
            "branches": ["390skdjuw", "z9hG4bK9ikj8", "z9hG4bK30239"],
            "contacts": [('Quoted string ""', "sip:jdrosen@example.com",
                          {"newparam": "newvalue", "secondparam": "", "q": "0.33"})]}),
    Row("3.1.1.2 intmeth", octets("""
        !interesting-Method0123456789_*+`.%indeed'~ {uri}:{password}@example.com SIP/2.0
        Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~
        To: "BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <{uri}@example.com>
        From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;{param};tag=_token~1'+`*%!-.
        Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/"][?}{
        CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~
        Max-Forwards: 255
        extensionHeader-!.%*+_`'~:\ufeff\u5927\u505c\u96fb
        Content-Length: 0
        """.replace("{uri}", "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*")
            .replace("{password}", "&it+has=1,weird!*pas$wo~d_too.(doesn't-it)")
            .replace("{param}", "fromParam''~+*_!.-%=\"\u0440\u0430\u0431\u043e\u0442\u0430\"")),
        501, {
            "method": "!interesting-Method0123456789_*+`.%indeed'~",
            "user": "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*", "caller": "mundane",
            "from": ("token1~` token2'+_ token3*%!.-", "sip:mundane@example.com"),
            "from tag": "_token~1'+`*%!-.", "branches": ["z9hG4bK-.!%66*_+`'~"],
            "to": ("BEL:\x07 NUL:\x00 DEL:\x7f",
                   "sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com"),
            "call-id": "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
            "extension": "\ufeff\u5927\u505c\u96fb"}),
    Row("3.1.1.3 esc01", octets("""
        INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0
        To: sip:%75se%72@example.com
        From: <sip:I%20have%20spaces@example.net>;tag=938
        Max-Forwards: 87
        i: esc01.239409asdfakjkn23onasd0-3234
        CSeq: 234234 INVITE
        Via: SIP/2.0/UDP host5.example.net;branch=z9hG4bKkdjuw
        C: application/sdp
        Contact:
          <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>
        Content-Length: LENGTH
        """, sdp("192.0.2.1")), 200, {
            "called": "sips:user@example.com", "caller": "I have spaces",
            "contacts": [("", "sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31",
                          {})]}),
    Row("3.1.1.4 escnull", octets("""
        REGISTER sip:example.com SIP/2.0
        To: sip:null-%00-null@example.com
        From: sip:null-%00-null@example.com;tag=839923423
        Max-Forwards: 70
        Call-ID: escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd
        CSeq: 14398234 REGISTER
        Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw
        Contact: <sip:%00@host5.example.com>
        Contact: <sip:%00%00@host5.example.com>
        L:0
        """), 405, {
            "caller": "null-\0-null", "contacts": [("", "sip:%00@host5.example.com", {}),
                                                   ("", "sip:%00%00@host5.example.com", {})]}),
    Row("3.1.1.5 esc02", octets("""
        RE%47IST%45R sip:registrar.example.com SIP/2.0
        To: "%Z%45" <sip:resource@example.com>
        From: "%Z%45" <sip:resource@example.com>;tag=f232jadfj23
        Call-ID: esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf
        Via: SIP/2.0/TCP host.example.com;branch=z9hG4bK209%fzsnel234
        CSeq: 29344 RE%47IST%45R
        Max-Forwards: 70
        Contact: <sip:alias1@host1.example.com>
        C%6Fntact: <sip:alias2@host2.example.com>
        Contact: <sip:alias3@host3.example.com>
        l: 0
        """), 501, {  # neither a method nor a header name is unescaped
            "method": "RE%47IST%45R", "from": ("%Z%45", "sip:resource@example.com"),
            "contacts": [("", "sip:alias1@host1.example.com", {}),
                         ("", "sip:alias3@host3.example.com", {})]}),
    Row("3.1.1.6 lwsdisp", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: caller<sip:caller@example.com>;tag=323
        Max-Forwards: 70
        Call-ID: lwsdisp.1234abcd@funky.example.com
        CSeq: 60 OPTIONS
        Via: SIP/2.0/UDP funky.example.com;branch=z9hG4bKkdjuw
        l: 0
        """), 200, {"from": ("caller", "sip:caller@example.com"), "from tag": "323"}),
    Row("3.1.1.7 longreq", octets(long_request(), sdp("192.0.2.1")), 200, {
        "caller": "amazinglylongcallername" * 5, "called": "user",
        "from tag": "12" + "982" * 50 + "424", "to tag": "",
        "call-id": f"longreq.one{'really' * 20}longcallid",
        "contact user": "amazinglylongcallername" * 5,
        "vias": [("TCP", f"sip{number}.example.com") for number in range(33, -1, -1)]
        + [("TCP", "host.example.com")]}),
    Row("3.1.1.8 dblreq", octets("""
        REGISTER sip:example.com SIP/2.0
        To: sip:j.user@example.com
        From: sip:j.user@example.com;tag=43251j3j324
        Max-Forwards: 8
        I: dblreq.0ha0isndaksdj99sdfafnl3lk233412
        Contact: sip:j.user@host.example.com
        CSeq: 8 REGISTER
        Via: SIP/2.0/UDP 192.0.2.125;branch=z9hG4bKkdjuw23492
        Content-Length: 0
        """) + b"\r\n" + octets("""
        INVITE sip:joe@example.com SIP/2.0
        t: sip:joe@example.com
        From: sip:caller@example.net;tag=141334
        Max-Forwards: 8
        Call-ID: dblreq.0ha0isnda977644900765@192.0.2.15
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw380234
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.15")), 405, {  # what is behind the first is not looked at
            "method": "REGISTER", "cseq": (8, "REGISTER"), "body": b""}),
    Row("3.1.1.9 semiuri", octets("""
        OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0
        To: sip:j_user@example.com
        From: sip:caller@example.org;tag=33242
        Max-Forwards: 3
        Call-ID: semiuri.0ha0isndaksdj
        CSeq: 8 OPTIONS
        Accept: application/sdp, application/pkcs7-mime,
                multipart/mixed, multipart/signed,
                message/sip, message/sipfrag
        Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKkdjuw
        l: 0
        """), 200, {"user": "user;par=u%40example.net", "host and port": ("example.com", 0)}),
    Row("3.1.1.10 transports", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: <sip:caller@example.com>;tag=323
        Max-Forwards: 70
        Call-ID:  transports.kijh4akdnaqjkwendsasfdj
        Accept: application/sdp
        CSeq: 60 OPTIONS
        Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw
        Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf
        Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj
        Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en
        Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee
        l: 0
        """), 200, {"vias": [(transport, f"t{number}.example.com") for number, transport in
                             enumerate(("UDP", "SCTP", "TLS", "UNKNOWN", "TCP"), 1)]}),
    Row("3.1.1.11 mpart01", octets("""
        MESSAGE sip:kumiko@example.org SIP/2.0
        Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-d87543-4dade06d0bdb11ee-1--d87543-;rport
        Max-Forwards: 70
        Route: <sip:127.0.0.1:5080>
        Contact: <sip:fluffy@127.0.0.1:5070>
        To: <sip:kumiko@example.org>
        From: <sip:fluffy@example.com>;tag=2fb0dcc9
        Call-ID: 3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..
        CSeq: 1 MESSAGE
        Content-Transfer-Encoding: binary
        Content-Type: multipart/mixed;boundary=7a9cbec02ceef655
        Date: Sat, 15 Oct 2005 04:44:56 GMT
        User-Agent: SIPimp.org/0.2.5 (curses)
        Content-Length: LENGTH
        """, b"--7a9cbec02ceef655\r\nContent-Type: text/plain\r\n"
             b"Content-Transfer-Encoding: binary\r\n\r\nHello\r\n--7a9cbec02ceef655\r\n"
             b"Content-Type: application/octet-stream\r\n\r\n"
             + bytes(range(256)) + b"\r\n--7a9cbec02ceef655--\r\n"), 405, {
            "caller": "fluffy", "parts": [
                b"Content-Type: text/plain\r\nContent-Transfer-Encoding: binary\r\n\r\nHello",
                b"Content-Type: application/octet-stream\r\n\r\n" + bytes(range(256)), b""]}),
    Row("3.1.1.12 unreason", octets("""
        SIP/2.0 200 = 2**3 * 5**2 \u043d\u043e \u0441\u0442\u043e
        Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923
        Call-ID: unreason.1234ksdfak3j2erwedfsASdf
        CSeq: 35 INVITE
        From: sip:user@example.com;tag=11141343
        To: sip:user@example.edu;tag=2229
        Content-Length: LENGTH
        Content-Type: application/sdp
        Contact: <sip:user@host198.example.com>
        """, sdp("192.0.2.198")), 0, {  # a response to nothing we sent
            "reason": "= 2**3 * 5**2 \u043d\u043e \u0441\u0442\u043e", "to tag": "2229",
            "cseq": (35, "INVITE"), "body": sdp("192.0.2.198")}),
    Row("3.1.1.13 noreason", octets("""
        SIP/2.0 100\x20
        Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe
        Call-ID: noreason.asndj203insdf99223ndf
        CSeq: 35 INVITE
        From: <sip:user@example.com>;tag=39ansfi3
        To: <sip:user@example.edu>;tag=902jndnke3
        Content-Length: 0
        Contact: <sip:user@host105.example.com>
        """), 0, {"reason": "", "cseq": (35, "INVITE")}),
]

INVALID = [  # 3.1.2
    Row("3.1.2.1 badinv01", octets("""
        INVITE sip:user@example.com SIP/2.0
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=134161461246
        Max-Forwards: 7
        Call-ID: badinv01.0ha0isndaksdjasdf3234nas
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP 192.0.2.15;;,;,,
        Contact: "Joe" <sip:joe@example.org>;;;;
        Content-Length: LENGTH
        Content-Type: application/sdp
        """, sdp("192.0.2.15")), 400, says="Via"),
    Row("3.1.2.2 clerr", octets("""
        INVITE sip:user@example.com SIP/2.0
        Max-Forwards: 80
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=93942939o2
        Contact: <sip:caller@hungry.example.net>
        Call-ID: clerr.0ha0isndaksdjweiafasdk3
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bK-39234-23523
        Content-Type: application/sdp
        Content-Length: 9999
        """, sdp("192.0.2.155")), 400, says="Content-Length"),
    Row("3.1.2.3 ncl", octets("""
        INVITE sip:user@example.com SIP/2.0
        Max-Forwards: 254
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=32394234
        Call-ID: ncl.0ha0isndaksdj2193423r542w35
        CSeq: 0 INVITE
        Via: SIP/2.0/UDP 192.0.2.53;branch=z9hG4bKkdjuw
        Contact: <sip:caller@example53.example.net>
        Content-Type: application/sdp
        Content-Length: -999
        """, sdp("192.0.2.53")), 400, says="Content-Length"),
    Row("3.1.2.4 scalar02", octets(f"""
        REGISTER sip:example.com SIP/2.0
        Via: SIP/2.0/TCP host129.example.com;branch=z9hG4bK342sdfoi3
        To: <sip:user@example.com>
        From: <sip:user@example.com>;tag=239232jh3
        CSeq: 36893488147419103232 REGISTER
        Call-ID: scalar02.23o0pd9vanlq3wnrlnewofjas9ui32
        Max-Forwards: 300
        Expires: {10 ** 100}
        Contact: <sip:user@host129.example.com>
          ;expires=280297596632815
        Content-Length: 0
        """), 400, says="CSeq"),
    Row("3.1.2.5 scalarlg", octets("""
        SIP/2.0 503 Service Unavailable
        Via: SIP/2.0/TCP host129.example.com;branch=z9hG4bKzzxdiwo34sw;received=192.0.2.129
        To: <sip:user@example.com>
        From: <sip:other@example.net>;tag=2easdjfejw
        CSeq: 9292394834772304023312 OPTIONS
        Call-ID: scalarlg.noase0of0234hn2qofoaf0232aewf2394r
        Retry-After: 949302838503028349304023988
        Warning: 1812 overture "In Progress"
        Content-Length: 0
        """), 0),
    Row("3.1.2.6 quotbal", octets("""
        INVITE sip:user@example.com SIP/2.0
        To: "Mr. J. User <sip:j.user@example.com>
        From: sip:caller@example.net;tag=93334
        Max-Forwards: 10
        Call-ID: quotbal.aksdj
        Contact: <sip:caller@host59.example.net>
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP 192.0.2.59:5050;branch=z9hG4bKkdjuw39234
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.15")), 400, says="To"),
    Row("3.1.2.7 ltgtruri", octets("""
        INVITE <sip:user@example.com> SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=39291
        Max-Forwards: 23
        Call-ID: ltgtruri.1@192.0.2.5
        CSeq: 1 INVITE
        Via: SIP/2.0/UDP 192.0.2.5
        Contact: <sip:caller@host5.example.net>
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.5")), 400, says="Request-URI"),
    Row("3.1.2.8 lwsruri", octets("""
        INVITE sip:user@example.com; lr SIP/2.0
        To: sip:user@example.com;tag=3xfe-9921883-z9f
        From: sip:caller@example.net;tag=231413434
        Max-Forwards: 5
        Call-ID: lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423
        CSeq: 2130706432 INVITE
        Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKkdjuw2395
        Contact: <sip:caller@host1.example.net>
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.1")), 400, says="request line"),
    Row("3.1.2.9 lwsstart", octets("""
        INVITE  sip:user@example.com  SIP/2.0
        Max-Forwards: 8
        To: sip:user@example.com
        From: sip:caller@example.net;tag=8814
        Call-ID: lwsstart.dfknq234oi243099adsdfnawe3@example.com
        CSeq: 1893884 INVITE
        Via: SIP/2.0/UDP host1.example.com;branch=z9hG4bKkdjuw3923
        Contact: <sip:caller@host1.example.net>
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.1")), 400, says="request line"),
    Row("3.1.2.10 trws", octets("""
        OPTIONS sip:remote-target@example.com SIP/2.0\x20\x20
        Via: SIP/2.0/TCP host1.examle.com;branch=z9hG4bK299342093
        To: <sip:remote-target@example.com>
        From: <sip:local-resource@example.com>;tag=329429089
        Call-ID: trws.oicu34958239neffasdhr2345r
        Accept: application/sdp
        CSeq: 238923 OPTIONS
        Max-Forwards: 70
        Content-Length: 0
        """), 400, says="request line"),
    Row("3.1.2.11 escruri", octets("""
        INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=341518
        Max-Forwards: 7
        Contact: <sip:caller@host39923.example.net>
        Call-ID: escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5
        CSeq: 149209342 INVITE
        Via: SIP/2.0/UDP host-of-the-hour.example.com;branch=z9hG4bKkdjuw
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.1")), 400, says="Request-URI"),
    Row("3.1.2.12 baddate", octets("""
        INVITE sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=2234923
        Max-Forwards: 70
        Call-ID: baddate.239423mnsadf3j23lj42--sedfnm234
        CSeq: 1392934 INVITE
        Via: SIP/2.0/UDP host.example.com;branch=z9hG4bKkdjuw
        Date: Fri, 01 Jan 2010 16:00:00 EST
        Contact: <sip:caller@host5.example.net>
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp("192.0.2.5")), 200),  # not 400: the Date is not used
    Row("3.1.2.13 regbadct", octets("""
        REGISTER sip:example.com SIP/2.0
        To: sip:user@example.com
        From: sip:user@example.com;tag=998332
        Max-Forwards: 70
        Call-ID: regbadct.k345asrl3fdbv@10.0.0.1
        CSeq: 1 REGISTER
        Via: SIP/2.0/UDP 135.180.130.133:5060;branch=z9hG4bKkdjuw
        Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E
        l: 0
        """), 405),  # not 400: there is no registrar to use the Contact
    Row("3.1.2.14 badaspec", octets("""
        OPTIONS sip:user@example.org SIP/2.0
        Via: SIP/2.0/UDP host4.example.com:5060;branch=z9hG4bKkdju43234
        Max-Forwards: 70
        From: "Bell, Alexander" <sip:a.g.bell@example.com>;tag=433423
        To: "Watson, Thomas" < sip:t.watson@example.org >
        Call-ID: badaspec.sdf0234n2nds0a099u23h3hnnw009cdkne3
        Accept: application/sdp
        CSeq: 3923239 OPTIONS
        l: 0
        """), 200, {  # may be 400; the spaces can be read over
            "to": ("Watson, Thomas", "sip:t.watson@example.org"), "caller": "a.g.bell",
            "from": ("Bell, Alexander", "sip:a.g.bell@example.com")}),
    Row("3.1.2.15 baddn", octets("""
        OPTIONS sip:t.watson@example.org SIP/2.0
        Via: SIP/2.0/UDP c.example.com:5060;branch=z9hG4bKkdjuw
        Max-Forwards: 70
        From: Bell, Alexander <sip:a.g.bell@example.com>;tag=43
        To: Watson, Thomas <sip:t.watson@example.org>
        Call-ID: baddn.31415@c.example.com
        Accept: application/sdp
        CSeq: 3923239 OPTIONS
        l: 0
        """), 200, {  # may be 400; no list is possible there, so the comma is clear
            "from": ("Bell, Alexander", "sip:a.g.bell@example.com"), "from tag": "43"}),
    Row("3.1.2.16 badvers", octets("""
        OPTIONS sip:t.watson@example.org SIP/7.0
        Via: SIP/7.0/UDP c.example.com;branch=z9hG4bKkdjuw
        Max-Forwards: 70
        From: A. Bell <sip:a.g.bell@example.com>;tag=qweoiqpe
        To: T. Watson <sip:t.watson@example.org>
        Call-ID: badvers.31417@c.example.com
        CSeq: 1 OPTIONS
        l: 0
        """), 505),
    Row("3.1.2.17 mismatch01", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=34525
        Max-Forwards: 6
        Call-ID: mismatch01.dj0234sxdfl3
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP host.example.com;branch=z9hG4bKkdjuw
        l: 0
        """), 400, says="CSeq"),
    Row("3.1.2.18 mismatch02", octets("""
        NEWMETHOD sip:user@example.com SIP/2.0
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=34525
        Max-Forwards: 6
        Call-ID: mismatch02.dj0234sxdfl3
        CSeq: 8 INVITE
        Contact: <sip:caller@host.example.net>
        Via: SIP/2.0/UDP host.example.net;branch=z9hG4bKkdjuw
        Content-Type: application/sdp
        l: LENGTH
        """, sdp("192.0.2.1")), 400, says="CSeq"),  # or 501: both are true
    Row("3.1.2.19 bigcode", octets("""
        SIP/2.0 4294967301 better not break the receiver
        Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe
        Call-ID: bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i
        CSeq: 353494 INVITE
        From: <sip:user@example.com>;tag=39ansfi3
        To: <sip:user@example.edu>;tag=902jndnke3
        Content-Length: 0
        Contact: <sip:user@host105.example.com>
        """), 0),
]

LAYERS = [  # 3.2 transactions, 3.3 applications, 3.4 RFC 2543
    Row("3.2.1 badbranch", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.org;tag=33242
        Max-Forwards: 3
        Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK
        Accept: application/sdp
        Call-ID: badbranch.sadonfo23i420jv0as0derf3j3n
        CSeq: 8 OPTIONS
        l: 0
        """), 200),  # may be 400; matched as RFC 2543 has it
    Row("3.3.1 insuf", octets("""
        INVITE sip:user@example.com SIP/2.0
        CSeq: 193942 INVITE
        Via: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf
        Content-Type: application/sdp
        l: LENGTH
        """, sdp("192.0.2.95")), 400, says="Missing From"),
    Row("3.3.2 unkscm", octets("""
        OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=384
        Max-Forwards: 3
        Call-ID: unkscm.nasdfasser0q239nwsdfasdkl34
        CSeq: 3923423 OPTIONS
        Via: SIP/2.0/TCP host9.example.com;branch=z9hG4bKkdjuw39234
        Content-Length: 0
        """), 416),
    Row("3.3.3 novelsc", octets("""
        OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=384
        Max-Forwards: 3
        Call-ID: novelsc.asdfasser0q239nwsdfasdkl34
        CSeq: 3923423 OPTIONS
        Via: SIP/2.0/TCP host9.example.com;branch=z9hG4bKkdjuw39234
        Content-Length: 0
        """), 416),
    Row("3.3.4 unksm2", octets("""
        REGISTER sip:example.com SIP/2.0
        To: isbn:2983792873
        From: <http://www.example.com>;tag=3234233
        Call-ID: unksm2.daksdj@hyphenated-host.example.com
        CSeq: 234902 REGISTER
        Max-Forwards: 70
        Via: SIP/2.0/UDP 192.0.2.21:5060;branch=z9hG4bKkdjuw
        Contact: <name:John_Smith>
        l: 0
        """), 405, {"to": ("", "isbn:2983792873"), "from": ("", "http://www.example.com"),
                    "contacts": [("", "name:John_Smith", {})]}),
    Row("3.3.5 bext01", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:j_user@example.com
        From: sip:caller@example.net;tag=242etr
        Max-Forwards: 6
        Call-ID: bext01.0ha0isndaksdj
        Require: nothingSupportsThis, nothingSupportsThisEither
        Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis
        CSeq: 8 OPTIONS
        Via: SIP/2.0/TLS fold-and-staple.example.com;branch=z9hG4bKkdjuw
        Content-Length: 0
        """), 420, reply={"Unsupported": "nothingSupportsThis, nothingSupportsThisEither"}),
    Row("3.3.6 invut", octets("""
        INVITE sip:user@example.com SIP/2.0
        Contact: <sip:caller@host5.example.net>
        To: sip:j.user@example.com
        From: sip:caller@example.net;tag=8392034
        Max-Forwards: 70
        Call-ID: invut.0ha0isndaksdjadsfij34n23d
        CSeq: 235448 INVITE
        Via: SIP/2.0/UDP somehost.example.com;branch=z9hG4bKkdjuw
        Content-Type: application/unknownformat
        Content-Length: LENGTH
        """, b'<audio>\r\n <pcmu port="443"/>\r\n</audio>\r\n'), 415,
        reply={"Accept": "application/sdp"}),
    Row("3.3.7 regaut01", octets("""
        REGISTER sip:example.com SIP/2.0
        To: sip:j.user@example.com
        From: sip:j.user@example.com;tag=87321hj23128
        Max-Forwards: 8
        Call-ID: regaut01.0ha0isndaksdj
        CSeq: 9338 REGISTER
        Via: SIP/2.0/TCP 192.0.2.253;branch=z9hG4bKkdjuw
        Authorization: NoOneKnowsThisScheme opaque-data=here
        Content-Length:0
        """), 405),  # 401 is for those who authenticate
    Row("3.3.8 multi01", octets("""
        INVITE sip:user@company.com SIP/2.0
        Contact: <sip:caller@host25.example.net>
        Via: SIP/2.0/UDP 192.0.2.25;branch=z9hG4bKkdjuw
        Max-Forwards: 70
        CSeq: 5 INVITE
        Call-ID: multi01.98asdh@192.0.2.1
        CSeq: 59 INVITE
        Call-ID: multi01.98asdh@192.0.2.2
        From: sip:caller@example.com;tag=3413415
        To: sip:user@example.com
        To: sip:other@example.net
        From: sip:caller@example.net;tag=2923420123
        Content-Type: application/sdp
        l: LENGTH
        Contact: <sip:caller@host36.example.net>
        Max-Forwards: 5
        """, sdp("192.0.2.25")), 400, says="Conflicting"),
    Row("3.3.9 mcl01", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        Via: SIP/2.0/UDP host5.example.net;branch=z9hG4bK293423
        To: sip:user@example.com
        From: sip:other@example.net;tag=3923942
        Call-ID: mcl01.fhn2323orihawfdoa3o4r52o3irsdf
        CSeq: 15932 OPTIONS
        Content-Length: 13
        Max-Forwards: 60
        Content-Length: 5
        Content-Type: text/plain
        """, b"where does this end?"), 400, says="Conflicting content-length"),
    Row("3.3.10 bcast", octets("""
        SIP/2.0 200 OK
        Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923
        Via: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23
        Call-ID: bcast.0384840201234ksdfak3j2erwedfsASdf
        CSeq: 35 INVITE
        From: sip:user@example.com;tag=11141343
        To: sip:user@example.edu;tag=2229
        Content-Length: LENGTH
        Content-Type: application/sdp
        Contact: <sip:user@host28.example.com>
        """, sdp("192.0.2.198")), 0),
    Row("3.3.11 zeromf", octets("""
        OPTIONS sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: sip:caller@example.net;tag=3ghsd41
        Call-ID: zeromf.jfasdlfnm2o2l43r5u0asdfas
        CSeq: 39234321 OPTIONS
        Via: SIP/2.0/UDP host1.example.com;branch=z9hG4bKkdjuw2349i
        Max-Forwards: 0
        Content-Length: 0
        """), 200),  # 483 is for proxies
    Row("3.3.12 cparam01", octets("""
        REGISTER sip:example.com SIP/2.0
        Via: SIP/2.0/UDP saturn.example.com:5060;branch=z9hG4bKkdjuw
        Max-Forwards: 70
        From: sip:watson@example.com;tag=DkfVgjkrtMwaerKKpe
        To: sip:watson@example.com
        Call-ID: cparam01.70710@saturn.example.com
        CSeq: 2 REGISTER
        Contact: sip:+19725552222@gw1.example.net;unknownparam
        l: 0
        """), 405, {"contacts": [("", "sip:+19725552222@gw1.example.net", {"unknownparam": ""})],
                    "contact user": "+19725552222"}),
    Row("3.3.13 cparam02", octets("""
        REGISTER sip:example.com SIP/2.0
        Via: SIP/2.0/UDP saturn.example.com:5060;branch=z9hG4bKkdjuw
        Max-Forwards: 70
        From: sip:watson@example.com;tag=838293
        To: sip:watson@example.com
        Call-ID: cparam02.70710@saturn.example.com
        CSeq: 3 REGISTER
        Contact: <sip:+19725552222@gw1.example.net;unknownparam>
        l: 0
        """), 405, {"contacts": [("", "sip:+19725552222@gw1.example.net;unknownparam", {})],
                    "contact user": "+19725552222"}),
    Row("3.3.14 regescrt", octets("""
        REGISTER sip:example.com SIP/2.0
        To: sip:user@example.com
        From: sip:user@example.com;tag=8
        Max-Forwards: 70
        Call-ID: regescrt.k345asrl3fdbv@192.0.2.1
        CSeq: 14398234 REGISTER
        Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw
        M: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>
        L:0
        """), 405, {"contacts": [
            ("", "sip:user@example.com?Route=%3Csip:sip.example.com%3E", {})]}),
    Row("3.3.15 sdp01", octets("""
        INVITE sip:user@example.com SIP/2.0
        To: sip:j_user@example.com
        Contact: <sip:caller@host15.example.net>
        From: sip:caller@example.net;tag=234
        Max-Forwards: 5
        Call-ID: sdp01.ndaksdj9342dasdd
        Accept: text/nobodyKnowsThis
        CSeq: 8 INVITE
        Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw
        Content-Length: LENGTH
        Content-Type: application/sdp
        """, sdp("192.0.2.5")), 406, reply={"Accept": "application/sdp"}),
    Row("3.4.1 inv2543", octets("""
        INVITE sip:UserB@example.com SIP/2.0
        Via: SIP/2.0/UDP iftgw.example.com
        From: <sip:+13035551111@ift.client.example.net;user=phone>
        Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>
        To: sip:+16505552222@ss1.example.net;user=phone
        Call-ID: inv2543.1717@ift.client.example.com
        CSeq: 56 INVITE
        Content-Type: application/sdp
        """, sdp("192.0.2.5", "m=audio 49217 RTP/AVP 0\r\n")), 200, {
            "caller": "+13035551111", "called": "UserB", "from tag": "", "branches": [""],
            "to": ("", "sip:+16505552222@ss1.example.net")},
        reply={"Record-Route": "<sip:UserB@example.com;maddr=ss1.example.com>"}),
]
RFC4475 = VALID + INVALID + LAYERS


def sdp6(address, audio="2", rtpmap="a=rtpmap:2 G726-32/8000\r\n"):
    return (f"v=0\r\no=assistant 971731711378798081 0 IN IP6 {address}\r\ns=Live video feed\r\n"
            f"c=IN IP6 {address}\r\nt=3338481189 3370017201\r\nm=audio 6000 RTP/AVP {audio}\r\n"
            f"{rtpmap}m=video 6024 RTP/AVP 107\r\na=rtpmap:107 H263-1998/90000\r\n").encode()


def register6(uri):
    return octets(f"""
        REGISTER {uri} SIP/2.0
        To: sip:user@example.com
        From: sip:user@example.com;tag=81x2
        Via: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111
        Call-ID: SSG9559905523997077@hlau_4100
        Max-Forwards: 70
        Contact: "Caller" <sip:caller@[2001:db8::1]>
        CSeq: 98176 REGISTER
        Content-Length: 0
        """)


def invite6(body):
    return octets("""
        INVITE sip:user@[2001:db8::10] SIP/2.0
        To: sip:user@[2001:db8::10]
        From: sip:user@example.com;tag=81x2
        Via: SIP/2.0/UDP [2001:db8::20];branch=z9hG4bKas3-111
        Call-ID: SSG9559905523997077@hlau_4100
        Contact: "Caller" <sip:caller@[2001:db8::20]>
        CSeq: 8612 INVITE
        Max-Forwards: 70
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, body)


MIXED_SDP = (b"v=0\r\no=bob 280744730 28977631 IN IP4 host.example.com\r\ns=\r\nt=0 0\r\n"
             b"m=audio 22334 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\n"
             b"m=video 6024 RTP/AVP 107\r\nc=IN IP6 2001:db8::1\r\n"
             b"a=rtpmap:107 H263-1998/90000\r\n")
RFC5118 = [
    Row("4.1 ipv6-good", register6("sip:[2001:db8::10]"), 405, {
        "host and port": ("[2001:db8::10]", 0), "vias": [("UDP", "[2001:db8::9:1]")],
        "contacts": [("Caller", "sip:caller@[2001:db8::1]", {})]}),
    Row("4.2 ipv6-bad", register6("sip:2001:db8::10"), 400, says="Request-URI"),
    Row("4.3 port-ambiguous", register6("sip:[2001:db8::10:5070]"), 405, {
        "host and port": ("[2001:db8::10:5070]", 0)}),
    Row("4.4 port-unambiguous", register6("sip:[2001:db8::10]:5070"), 405, {
        "host and port": ("[2001:db8::10]", 5070)}),
    Row("4.5 via-received-param-with-delim", octets("""
        BYE sip:[2001:db8::10] SIP/2.0
        To: sip:user@example.com;tag=bd76ya
        From: sip:user@example.com;tag=81x2
        Via: SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111
        Call-ID: SSG9559905523997077@hlau_4100
        Max-Forwards: 70
        CSeq: 321 BYE
        Content-Length: 0
        """), 481, {"received": "[2001:db8::9:255]", "branches": ["z9hG4bKas3-111"]}),
    Row("4.5 via-received-param-no-delim", octets("""
        OPTIONS sip:[2001:db8::10] SIP/2.0
        To: sip:user@example.com
        From: sip:user@example.com;tag=81x2
        Via: SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bKas3
        Call-ID: SSG95523997077@hlau_4100
        Max-Forwards: 70
        Contact: "Caller" <sip:caller@[2001:db8::9:1]>
        CSeq: 921 OPTIONS
        Content-Length: 0
        """), 200, {"received": "2001:db8::9:255", "branches": ["z9hG4bKas3"]}),
    # its address is read; what is missing is a common codec (305), not an address (301)
    Row("4.6 ipv6-in-sdp", invite6(sdp6("2001:db8::20")), 488, {
        "caller": "user", "contacts": [("Caller", "sip:caller@[2001:db8::20]", {})]},
        reply={"Warning": '305 [2001:db8::1]:5060 "no common codec; supported: '
                          'PCMA/8000, PCMU/8000; offered: G726-32/8000"'}),
    Row("4.6 ipv6-in-sdp with PCMA", invite6(sdp6("2001:db8::20", "2 8")), 200),
    Row("4.7 mult-ip-in-header", octets("""
        BYE sip:user@host.example.net SIP/2.0
        Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111
        Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144
        Via: SIP/2.0/TCP [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200
        Call-ID: 997077@lau_4100
        Max-Forwards: 70
        CSeq: 89187 BYE
        To: sip:user@example.net;tag=9817--94
        From: sip:user@example.com;tag=81x2
        Content-Length: 0
        """), 481, {"vias": [("UDP", "[2001:db8::9:1]"), ("UDP", "192.0.2.1"),
                             ("TCP", "[2001:db8::9:255]")]}),
    Row("4.8 mult-ip-in-sdp", invite6(MIXED_SDP), 488),  # one server speaks one version of IP
    Row("4.9 ipv4-mapped-ipv6", octets("""
        INVITE sip:user@example.com SIP/2.0
        To: sip:user@example.com
        From: sip:user@east.example.com;tag=5ba
        Via: SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19
        Via: SIP/2.0/UDP [::ffff:192.0.2.2];branch=z9hG4bKas3-111
        Call-ID: SSG9559905523997077@hlau_4100
        Contact: "T. desk phone" <sip:ted@[::ffff:192.0.2.2]>
        CSeq: 612 INVITE
        Max-Forwards: 70
        Content-Type: application/sdp
        Content-Length: LENGTH
        """, sdp6("::ffff:192.0.2.2")), 488, {  # its addresses are IPv4 behind a disguise
            "vias": [("UDP", "[::ffff:192.0.2.10]"), ("UDP", "[::ffff:192.0.2.2]")],
            "contacts": [("T. desk phone", "sip:ted@[::ffff:192.0.2.2]", {})]}),
    Row("4.10 ipv6-bug-abnf-3-colons", octets("""
        OPTIONS sip:user@[2001:db8:::192.0.2.1] SIP/2.0
        To: sip:user@[2001:db8:::192.0.2.1]
        From: sip:user@example.com;tag=810x2
        Via: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111
        Call-ID: G9559905523997077@hlau_4100
        CSeq: 689 OPTIONS
        Max-Forwards: 70
        Content-Length: 0
        """), 200, {"called": "user"}),  # "be liberal": no address of it is sent to
]


def octets_of(name):
    return next(row.data for row in RFC4475 if row.name.split()[1] == name)


def bye(ok):
    """Return the BYE of a caller whose INVITE got this 200."""
    return "\r\n".join([
        "BYE sip:us SIP/2.0", "Via: SIP/2.0/UDP 192.0.2.10;branch=z9hG4bKbye",
        *(f"{name}: {ok.header(name)}" for name in ("From", "To", "Call-ID")),
        f"CSeq: {ok.cseq[0] + 1} BYE", "", ""]).encode()


class Verdicts(unittest.TestCase):
    def test_rfc_4475(self):
        self.assertEqual(len(RFC4475), 49)
        for row in RFC4475:
            with self.subTest(row.name):
                self.deliver(row, Trunk(), PEER)

    def test_rfc_5118(self):
        for row in RFC5118:
            with self.subTest(row.name):
                self.deliver(row, Trunk(BIND_IP="2001:db8::1"), PEER6)

    def deliver(self, row, trunk, peer):
        message = SIPMessage(row.data)
        for name, value in row.reads.items():
            self.assertEqual(READ[name](message), value, name)
        replies = trunk.send(row.data, peer)
        finals = [reply for reply in replies if reply.status != 100]
        self.assertEqual(statuses(finals), [row.status] if row.status else [])
        for reply in replies:
            self.check_copies(message, reply)
        for reply in finals:
            self.assertIn(row.says, reply.reason)
            self.assertEqual({name: reply.header(name) for name in row.reply}, row.reply)
        server = trunk.server
        if row.status == 200 and message.method() == "INVITE":
            self.assertEqual([call.state for call in server.calls], ["answered"])
            self.assertEqual(statuses(trunk.send(bye(finals[0]), peer)), [200])
        self.assertEqual(len(server.calls), 0)
        self.assertTrue(all(media.stopped for media in server.media_made))
        self.assertEqual(statuses(trunk.send(trunk.request("OPTIONS"), peer)), [200])

    def check_copies(self, request, reply):
        """RFC 3261 8.2.6.2: what a reply repeats, as far as the request had it."""
        for name in ("From", "Call-ID", "CSeq"):
            self.assertEqual(reply.header(name), request.header(name))
        if request.header("To"):
            to = reply.header("To")
            self.assertTrue(to.startswith(request.header("To")), to)
            self.assertEqual(";tag=" in to.replace(" ", ""), reply.status != 100, to)
        self.assertEqual(reply.headers_all("Via")[1:], request.headers_all("Via")[1:])
        self.assertTrue(reply.header("Via").startswith(
            request.headers_all("Via")[0].split(";")[0]))

    def test_one_server_takes_them_all_in_a_row(self):
        trunk = Trunk()
        with self.assertLogs("siprtp.sip.uas", "INFO") as logged:
            for row in RFC4475 + RFC5118:
                trunk.send(row.data)
                trunk.send(row.data)
        self.assertFalse([line for line in logged.output if "Traceback" in line])
        self.assertEqual(statuses(trunk.say("OPTIONS")), [200])


class Closer(unittest.TestCase):
    """What the status alone does not tell."""

    def test_wsinv_without_its_to_tag_is_a_call(self):
        trunk = Trunk()
        data = octets_of("wsinv").replace(b" ;   tag    = 1918181833n", b"")
        self.assertEqual(statuses(trunk.send(data)), [200])
        call = next(iter(trunk.server.calls))
        self.assertEqual((call.caller, call.called, call.target, call.identity.name),
                         ("jdrosen", "vivekg", "sip:jdrosen@example.com", 'J Rosenberg \\"'))
        self.assertEqual(call.media.flow.remote, ("192.0.2.3", 49217))
        self.assertIn(b"\r\nm=video 0 RTP/AVP 31\r\n", trunk.last().body)

    def test_esc01_gets_our_requests_at_its_contact_as_it_wrote_it(self):
        trunk = Trunk()
        trunk.send(octets_of("esc01"))
        _, request, _ = next(iter(trunk.server.calls)).build_request("BYE")
        self.assertEqual(SIPMessage(request).uri,
                         "sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31")

    def test_inv2543_gets_our_requests_by_its_strict_router(self):
        trunk = Trunk()
        trunk.send(octets_of("inv2543"))
        _, request, next_hop = next(iter(trunk.server.calls)).build_request("BYE")
        message = SIPMessage(request)
        self.assertEqual(message.uri, "sip:UserB@example.com;maddr=ss1.example.com")
        self.assertEqual(next_hop, message.uri)
        self.assertEqual(message.headers_all("Route"),
                         ["<sip:+13035551111@ift.client.example.net;user=phone>"])

    def test_inv2543_repeated_is_the_same_call(self):
        trunk = Trunk()
        trunk.send(octets_of("inv2543"))
        self.assertEqual(trunk.send(octets_of("inv2543")), [])
        self.assertEqual(len(trunk.server.calls), 1)

    def test_two_requests_with_the_branch_of_badbranch_are_two(self):
        trunk, data = Trunk(), octets_of("badbranch")
        for _ in range(2):
            trunk.send(data)
        trunk.send(data.replace(b"badbranch.", b"another."))
        first, repeat, other = (bytes(sent) for sent, _ in trunk.server.sent)
        self.assertEqual(first, repeat)
        self.assertIn(b"Call-ID: another.", other)
        self.assertEqual(len(trunk.server.transactions), 2)

    def test_a_valid_response_answers_our_bye_and_an_invalid_one_does_not(self):
        for name, state in (("unreason", "ended"), ("noreason", "closing"),
                            ("scalarlg", "closing"), ("bigcode", "closing")):
            with self.subTest(name):
                trunk = Trunk()
                call = trunk.call(body=OFFER)
                call.on("hang up", why="test")
                via = trunk.last().header("Via").encode()
                head, *lines = octets_of(name).split(b"\r\n")
                lines = [b"Via: " + via if line.startswith(b"Via:") else line for line in lines]
                data = b"\r\n".join([head, *lines])
                for method in (b" INVITE", b" OPTIONS"):
                    data = data.replace(method, b" BYE")
                self.assertEqual(trunk.send(data), [])
                self.assertEqual(call.state, state)

    def test_a_line_of_our_ip_version_is_taken_and_one_of_the_other_turned_down(self):
        trunk = Trunk()
        ok = trunk.send(invite6(MIXED_SDP))[-1]
        self.assertEqual(trunk.server.media_made[0].flow.remote, ("192.0.2.1", 22334))
        self.assertIn(b"\r\nm=video 0 RTP/AVP 107\r\n", ok.body)


if __name__ == "__main__":
    unittest.main()
