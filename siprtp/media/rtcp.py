"""RTCP: statistics of a received source, and the reports about it (RFC 3550 6).

Only bytes and numbers: no socket and no clock.
"""

import struct
from typing import List, NamedTuple, Optional, Tuple

SR, RR, SDES, BYE = 200, 201, 202, 203
INTERVAL = 5.0  # seconds between reports, on average (RFC 3550 6.2)
NTP_EPOCH = 2208988800  # seconds from 1900 to 1970
MAX_DROPOUT = 3000  # packets: a sequence number further ahead starts anew (RFC 3550 A.1)
MAX_MISORDER = 100  # packets: a sequence number this far behind starts anew, too
RECENT = (1 << MAX_MISORDER) - 1  # mask: a bit for each recent sequence number that arrived
# Timestamp units, 16 s: longer than a network delays a packet, or a caller presses a key. A packet
# this much older than the newest, or newer than it, does not repeat one of the recent packets.
MAX_AGE = 1 << 17


class Block(NamedTuple):
    """A report block: how well the reporter receives the source ssrc."""

    ssrc: int
    fraction_lost: int  # in 1/256, since the previous report
    lost: int  # packets, since the start
    highest: int  # extended sequence number
    jitter: int  # timestamp units
    last_sr: int  # the middle 32 bits of the NTP time of the last SR from ssrc, 0 for none
    delay: int  # since that SR arrived, in 1/65536 s


class Reception:
    """Counts packets, losses and jitter (RFC 3550 A.1, A.3, A.8).

    The RTP thread counts; any thread may read.
    """

    def __init__(self):
        self.ssrc, self.packets, self.bytes = None, 0, 0  # bytes of payload
        self.jitter = 0.0  # timestamp units
        self.highest = 0  # sequence number, 16 bits
        self.transit = 0  # arrival - timestamp of the last packet with an arrival
        self._base = self._cycles = 0
        self._recent = 0  # bit n: whether highest - n has arrived
        self._newest = 0  # timestamp; packets of keys have older ones
        self._next = -1  # the sequence number that would show that the sender's counter went back
        self._before = 0, 0  # (expected, packets) of all previous sources
        self._reported = 0, 0  # (expected, packets) at the last report

    def count_run(self, count: int, size: int, head: int, arrival: int, jitter: float) -> None:
        """Count consecutive packets of this source, size bytes of payload in all.

        head: sequence number << 32 | timestamp of the last; its number has not wrapped. arrival,
        jitter: as they are after it, in timestamp units.
        """
        self.packets += count
        self.bytes += size
        shift = min(count, MAX_MISORDER)
        self._recent = (self._recent + 1 << shift) - 1 & RECENT
        self.highest, self._newest = head >> 32 & 0xFFFF, head & 0xFFFFFFFF
        self.transit = arrival - (head & 0xFFFFFFFF)
        self.jitter = jitter

    def count(self, ssrc: int, sequence: int, timestamp: int, size: int,
              arrival: Optional[int]) -> bool:
        """Count a packet with size bytes of payload; return False for a repeat.

        arrival: in timestamp units, or None if it must not count for the jitter.
        """
        ahead, new = sequence - self.highest & 0xFFFF, True
        if ssrc != self.ssrc or MAX_DROPOUT < ahead <= 0x10000 - MAX_MISORDER:
            self.restart()
            self._begin(ssrc, sequence, timestamp)
        elif 0 < ahead < 0x8000:
            self._cycles += 0x10000 if sequence < self.highest else 0
            self.highest = sequence
            self._recent = (self._recent << ahead | 1) & RECENT
            if self._newest - timestamp & 0xFFFFFFFF >= MAX_AGE:
                self._newest = timestamp
        else:
            new = self._count_late(sequence, timestamp, 1 << (-ahead & 0xFFFF))
        self.packets += 1
        self.bytes += size
        if arrival is None:
            return new
        change, self.transit = arrival - timestamp - self.transit, arrival - timestamp
        if abs(change) < 8000:  # a second or more is a new clock or the first packet, not jitter
            self.jitter += (abs(change) - self.jitter) / 16
        return new

    def _begin(self, ssrc, sequence, timestamp):
        self.ssrc, self._base, self.highest, self._cycles = ssrc, sequence, sequence, 0
        self._recent, self._newest, self._next = 1, timestamp, -1

    def _count_late(self, sequence, timestamp, late):
        """Count a packet that is not ahead of the highest; return False for a repeat.

        late: its bit in _recent. If a sender's counter goes back a little, its packets look like
        repeats, but their timestamps are new. As in RFC 3550 A.1, the second of two consecutive
        ones starts a new count. A single one is dropped: it may be forged.
        """
        new = not self._recent & late
        self._recent |= late
        age = self._newest - timestamp & 0xFFFFFFFF
        if 0 < age < MAX_AGE:
            return new
        if sequence == self._next:
            # the one before it belongs to the new count, too
            self._before = self._reported = self.expected - 1, self.packets - 1
            self._begin(self.ssrc, sequence, timestamp)
            self._base, self._recent = sequence - 1, 3
            return True
        if age and not new:
            self._newest, self._next = timestamp, sequence + 1 & 0xFFFF
            self._before = self._before[0] + 1, self._before[1] + 1  # it makes up for no loss
        return new

    @property
    def jitter_ms(self) -> float:
        return self.jitter / 8  # the RTP clock has 8000 Hz

    def restart(self) -> None:
        """Expect another source, or the same one after a time without counting."""
        self._before = self._reported = self.expected, self.packets
        self.ssrc, self.transit = None, -1 << 40

    @property
    def expected(self) -> int:
        """Packets that were sent, by their sequence numbers."""
        return self._before[0] + (
            0 if self.ssrc is None else self._cycles + self.highest - self._base + 1)

    @property
    def lost(self) -> int:
        """Packets that were sent but have not arrived."""
        return max(0, self.expected - self.packets)

    def block(self, last_sr: int = 0, delay: int = 0) -> Block:
        """Return the Block to report now; the next Block starts here."""
        expected, packets = self.expected, self.packets
        new = expected - self._reported[0]
        lost = max(0, new - (packets - self._reported[1]))
        self._reported = expected, packets
        fraction = min(255, lost * 256 // new) if new > 0 else 0
        of_source = expected - self._before[0] - (packets - self._before[1])
        return Block(self.ssrc, fraction, min(max(0, of_source), 0x7FFFFF),
                     self._cycles + self.highest & 0xFFFFFFFF,
                     int(self.jitter), last_sr, delay)


def ntp(seconds: float) -> int:
    """Return a time of day (seconds since 1970) as a 64-bit NTP timestamp."""
    return int((seconds + NTP_EPOCH) * 4294967296) & 0xFFFFFFFFFFFFFFFF


def _packet(kind, count, body):
    return struct.pack("!BBH", 0x80 | count, kind, len(body) // 4) + body


def report(ssrc: int, cname: str, sender: Optional[Tuple[int, int, int, int]] = None,
           block: Optional[Block] = None) -> bytes:
    """Return a compound packet: SR or RR, then SDES with the CNAME.

    sender: (NTP timestamp, RTP timestamp, packets, octets) if anything was sent since the last
    report. block: a Block if anything was received.
    """
    body = struct.pack("!I", ssrc)
    if sender:
        body += struct.pack("!QIII", *sender)
    if block:
        body += struct.pack("!IIIIII", block.ssrc, block.fraction_lost << 24 | block.lost,
                            block.highest, block.jitter, block.last_sr, block.delay)
    name = cname.encode()
    item = struct.pack("!IBB", ssrc, 1, len(name)) + name
    item += b"\0" * (4 - len(item) % 4)  # RFC 3550 6.5: at least one null ends the list
    return _packet(SR if sender else RR, 1 if block else 0, body) + _packet(SDES, 1, item)


def goodbye(ssrc: int, cname: str, sender: Optional[Tuple[int, int, int, int]] = None,
            block: Optional[Block] = None) -> bytes:
    """Return the compound packet that ends a stream: the last report and a BYE."""
    return report(ssrc, cname, sender, block) + _packet(BYE, 1, struct.pack("!I", ssrc))


def parse(data: bytes) -> Tuple[Optional[Tuple[int, int]], List[Block]]:
    """Return ((SSRC, NTP timestamp) of the SR or None, [Block]) of a compound packet.

    Raises ValueError unless data is a compound packet (RFC 3550 A.2).
    """
    sent, blocks, at = None, [], 0
    while at < len(data):
        if len(data) - at < 4 or data[at] >> 6 != 2:
            raise ValueError("not RTCP")
        count, kind = data[at] & 31, data[at + 1]
        end = at + 4 + 4 * int.from_bytes(data[at + 2:at + 4], "big")
        if end > len(data) or (at == 0 and kind not in (SR, RR)):
            raise ValueError("not a compound packet")
        if kind in (SR, RR):
            first = at + (28 if kind == SR else 8)
            if first + 24 * count > end:
                raise ValueError("report cut short")
            if kind == SR:
                sent = struct.unpack_from("!IQ", data, at + 4)
            for place in range(first, first + 24 * count, 24):
                ssrc, lost, *others = struct.unpack_from("!IIIIII", data, place)
                blocks.append(Block(ssrc, lost >> 24, lost & 0xFFFFFF, *others))
        at = end
    return sent, blocks
