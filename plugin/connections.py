"""Which connections to the DICOM server are open, from the kernel's tables, and which of them may still bring a study.

Orthanc tells no plugin that an association was released. But its sender then closes the connection, and the plugin runs
inside Orthanc's process, in the same network namespace: what is open stands in ``/proc/self/net/tcp`` and ``tcp6``.
"""

import socket
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from coread.archive import Origin
from coread.plugin.completeness import Association

COUNTERS = Path("/proc/self/net/snmp")
TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
LISTENING = "0A"
OPEN = frozenset({"01", "03", "08"})
"""ESTABLISHED; SYN_RECV, which is about to be; CLOSE_WAIT, where the server may still be storing what it was sent."""

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where a connection comes from."""

    remote: Address
    remote_port: int


def open_connections(port: int, *, tables: Sequence[str]) -> frozenset[Connection] | None:
    """The open connections to a local TCP port, given the text of the kernel's tables.

    None if nobody listens on that port as far as the tables show: then they are not those of the server.
    """
    rows = [line.split() for table in tables for line in table.splitlines()[1:] if line.strip()]
    ours = [(remote, state) for _, local, remote, state, *_ in rows if int(local.partition(":")[2], 16) == port]
    if all(state != LISTENING for _, state in ours):
        return None
    return frozenset(_connection(remote) for remote, state in ours if state in OPEN)


def read_connections(port: int) -> frozenset[Connection] | None:
    """The open connections to a local TCP port now; None if they cannot be seen."""
    try:
        return open_connections(port, tables=[table.read_text("ascii") for table in TABLES if table.exists()])
    except OSError:
        return None


def accepted_connections(counters: str) -> int | None:
    """How many TCP connections have been accepted in this network namespace, on any port, by the kernel's counters."""
    rows = [line.split() for line in counters.splitlines() if line.startswith("Tcp:")]
    if len(rows) != 2 or "PassiveOpens" not in rows[0]:
        return None
    return int(dict(zip(*rows, strict=True))["PassiveOpens"])


def read_accepted() -> int | None:
    """How many connections have been accepted until now; None if the kernel does not say."""
    try:
        return accepted_connections(COUNTERS.read_text("ascii"))
    except OSError:
        return None


def address_of(text: str) -> Address | None:
    """An IP address, with an IPv4 address mapped into IPv6 as what it is; None if the text is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _connection(remote: str) -> Connection:
    """An entry of the tables: the address as 32-bit words in the machine's byte order, and the port, in hexadecimal."""
    words, _, port = remote.partition(":")
    packed = b"".join(struct.pack("=I", int(words[start : start + 8], 16)) for start in range(0, len(words), 8))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # bytes of an IPv4 address
    address = address_of(socket.inet_ntop(family, packed))
    if address is None:
        raise AssertionError(f"the kernel wrote no address: {remote}")
    return Connection(remote=address, remote_port=int(port, 16))


class Associations:
    """For each study that arrives, the connections of its sender that its last instance may have come through and that
    are open. Those that were opened later are other associations, and one that has brought another study since then has
    moved on. That it brought it is known if its sender had no other, and none was accepted meanwhile.

    Nothing is kept across a restart: it closes them all, and of what arrived before, it cannot be said whether its
    sender had finished.
    """

    def __init__(
        self, *, read: Callable[[], frozenset[Connection] | None], accepted: Callable[[], int | None] = lambda: None
    ) -> None:
        """``read``: the open connections, ``accepted``: how many were accepted so far; None where it is not known."""
        self._read = read
        self._count_accepted = accepted
        self._accepted: int | None = None
        self._steady_looks = 0
        """At how many looks before the last one, without interruption, no connection had been accepted since."""
        self._at_looks: tuple[frozenset[Connection], frozenset[Connection]] = (frozenset(), frozenset())
        """What was open at the look before the last, and at the last."""
        self._read_to_end = False
        self._arrived: dict[str, Origin] = {}
        """Of the studies of which instances have arrived since the last look, or just before."""
        self._origins: dict[str, Origin] = {}
        self._candidates: dict[str, frozenset[Connection]] = {}
        """Of the studies whose last instance arrived before the last look."""
        self._were_open: frozenset[str] = frozenset()
        """The studies whose association was open at the look before the last."""

    def look(self) -> None:
        """Look at what is open. To be called before the change log is read: what a connection that is closed now
        brought stands in the log by then.
        """
        accepted = self._count_accepted()  # first, so that what is accepted from now on is counted
        found = self._read()
        self._were_open = frozenset(study for study in self._candidates if self.of(study) is Association.OPEN)
        if found is None:
            self._origins.clear()
            self._candidates.clear()
            self._arrived.clear()
            self._accepted = None
            return
        is_steady = accepted is not None and accepted == self._accepted and self._read_to_end
        self._steady_looks = self._steady_looks + 1 if is_steady else 0
        if self._steady_looks >= 2:
            self._let_go_of_what_moved_on()
        self._candidates = {study: self._candidates.get(study, found) & found for study in self._origins}
        self._at_looks = (self._at_looks[1], found)
        self._accepted, self._read_to_end = accepted, False
        self._arrived = {}

    def note_arrivals(self, origins: Mapping[str, Origin]) -> None:
        """Instances have arrived, since the last look or just before: study's Orthanc id → origin of the last one."""
        for study in origins:
            self._candidates.pop(study, None)
        self._origins.update(origins)
        self._arrived.update(origins)

    def note_end_of_log(self) -> None:
        """Everything that arrived before now has been noted."""
        self._read_to_end = True

    def _let_go_of_what_moved_on(self) -> None:
        """No connection was accepted between the look before the last and now. So what arrived around the last look
        came through those that were open at the one before it.
        """
        before, _ = self._at_looks
        for sender in {_sender(origin) for origin in self._arrived.values()}:
            theirs = frozenset(each for each in before if each.remote == sender)
            if len(theirs) == 1:
                self._candidates = {
                    study: known if _sender(self._origins[study]) != sender else known - theirs
                    for study, known in self._candidates.items()
                }

    def forget_all_but(self, studies: Collection[str]) -> None:
        """Keep what is known of these studies (Orthanc ids) alone."""
        self._origins = {study: origin for study, origin in self._origins.items() if study in studies}
        self._candidates = {study: known for study, known in self._candidates.items() if study in studies}

    def was_open(self, study: str) -> bool:
        """Whether the association was open a moment ago: what has arrived since then did not come after a pause
        between associations, even if the sender has closed this one meanwhile.
        """
        return study in self._were_open

    def of(self, study: str) -> Association:
        """Whether the association that brought the study's last instance was open at the last look."""
        origin, candidates = self._origins.get(study), self._candidates.get(study)
        if origin is None or candidates is None:
            return Association.UNKNOWN
        if not origin.by_dicom:
            return Association.CLOSED
        sender = _sender(origin)
        if sender is None:
            return Association.UNKNOWN
        return Association.OPEN if any(each.remote == sender for each in candidates) else Association.CLOSED


def _sender(origin: Origin) -> Address | None:
    """The address of the sender of what came by DICOM."""
    return address_of(origin.ip or "") if origin.by_dicom else None
