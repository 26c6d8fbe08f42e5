"""Who is connected: the kernel's tables as they were recorded, and a socket of our own."""

import socket
import sys
from ipaddress import ip_address

import pytest

from coread.archive import Origin
from coread.plugin.completeness import Association
from coread.plugin.connections import (
    Associations,
    Connection,
    accepted_connections,
    open_connections,
    read_accepted,
    read_connections,
)

HEADING = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
LISTENING = "   0: 00000000:37A2 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 645776 1 0 100"
RECORDED = f"""{HEADING}
{LISTENING}
   1: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1659 1 0 100 0 0 10 0
  15: 0100007F:37A2 0100007F:AB56 06 00000000:00000000 03:00000D98 00000000     0        0 0 3 000000005a9d9c3c
  16: 0100007F:8A38 0100007F:37A2 06 00000000:00000000 03:0000175C 00000000     0        0 0 3 00000000ce8f6c20
  17: 0100007F:8A3C 0100007F:37A2 01 00000000:00000000 00:00000000 00000000     0        0 645967 2 0 20 0 0 10 -1
  18: 0100007F:37A2 0100007F:8A3C 01 00000000:00000000 00:00000000 00000000     0        0 646282 1 0 20 0 0 10 -1
  19: 0900000A:37A2 2A00000A:C001 08 00000000:00000000 00:00000000 00000000     0        0 646283 1 0 20 0 0 10 -1
  20: 0900000A:07E8 2B00000A:C002 01 00000000:00000000 00:00000000 00000000     0        0 646284 1 0 20 0 0 10 -1
"""
RECORDED_6 = f"""{HEADING}
   0: 0000000000000000FFFF00000900000A:37A2 0000000000000000FFFF00002C00000A:C003 01 00000000:00000000 00:00000000 0
   1: 000080FE00000000FF005450B7AD1DFE:37A2 000080FE00000000FF005450B6AD1DFE:C004 01 00000000:00000000 00:00000000 0
"""
LITTLE_ENDIAN = pytest.mark.skipif(sys.byteorder != "little", reason="the tables were recorded on such a machine")


def connection(remote: str, port: int) -> Connection:
    return Connection(remote=ip_address(remote), remote_port=port)


@LITTLE_ENDIAN
def test_what_is_open_is_told_from_what_is_closing_and_from_other_ports_and_directions() -> None:
    expected = {connection("127.0.0.1", 0x8A3C), connection("10.0.0.42", 0xC001)}
    assert open_connections(0x37A2, tables=[RECORDED]) == frozenset(expected)


@LITTLE_ENDIAN
def test_an_address_in_ipv6_is_read_and_one_mapped_into_it_is_what_it_is() -> None:
    expected = {connection("10.0.0.44", 0xC003), connection("fe80::5054:ff:fe1d:adb6", 0xC004)}
    assert open_connections(0x37A2, tables=[f"{HEADING}\n{LISTENING}", RECORDED_6]) == frozenset(expected)


def test_tables_in_which_nobody_listens_are_not_the_servers() -> None:
    assert open_connections(104, tables=[RECORDED]) is None
    assert open_connections(104, tables=[]) is None


def test_a_real_connection_is_seen_for_as_long_as_it_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert read_connections(port) == frozenset()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            with accepted:
                expected = connection("127.0.0.1", client.getsockname()[1])
                assert read_connections(port) == frozenset({expected})
        assert read_connections(port) == frozenset()
    assert read_connections(port) is None


# Which of them may still bring a study ------------------------------------------------------------------------------

SENDER = Origin(by_dicom=True, aet="SENDER", ip="10.0.0.42")
FIRST, SECOND = connection("10.0.0.42", 1001), connection("10.0.0.42", 1002)
ELSEWHERE = connection("10.0.0.43", 1003)


class Watched:
    """Associations whose connections the test opens and closes."""

    def __init__(self) -> None:
        self.open: frozenset[Connection] | None = frozenset()
        self.accepted = 7
        self.associations = Associations(read=lambda: self.open, accepted=lambda: self.accepted)

    def look(self, *connections: Connection, arrived: str | None = None, origin: Origin = SENDER) -> None:
        self.open = frozenset(connections)
        self.associations.look()
        if arrived is not None:
            self.associations.note_arrivals({arrived: origin})
        self.associations.note_end_of_log()

    def of(self, study: str) -> Association:
        return self.associations.of(study)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_study_is_still_connected_until_the_connection_that_was_there_is_gone(watched: Watched) -> None:
    watched.look(FIRST, arrived="study")
    watched.look(FIRST)
    assert watched.of("study") is Association.OPEN
    watched.look()
    assert watched.of("study") is Association.CLOSED


def test_until_the_connections_were_looked_at_after_an_arrival_nothing_is_known(watched: Watched) -> None:
    watched.look(arrived="study")
    assert watched.of("study") is Association.UNKNOWN


def test_a_connection_that_was_opened_later_is_another_association(watched: Watched) -> None:
    watched.look(FIRST, arrived="study")
    watched.look(FIRST)
    watched.look(SECOND)
    assert watched.of("study") is Association.CLOSED
    watched.look(SECOND, arrived="study")
    watched.look(SECOND)
    assert watched.of("study") is Association.OPEN


def test_another_senders_connection_does_not_matter(watched: Watched) -> None:
    watched.look(FIRST, ELSEWHERE, arrived="study")
    watched.look(ELSEWHERE)
    assert watched.of("study") is Association.CLOSED


def test_each_of_several_connections_of_a_sender_may_be_the_studys(watched: Watched) -> None:
    watched.look(FIRST, SECOND, arrived="study")
    watched.look(FIRST, SECOND, arrived="other")
    watched.look(SECOND)
    assert watched.of("study") is Association.OPEN


def test_what_came_over_http_has_no_association(watched: Watched) -> None:
    watched.look(arrived="study", origin=Origin(by_dicom=False, aet=None, ip="10.0.0.42"))
    watched.look(FIRST)
    assert watched.of("study") is Association.CLOSED


def test_of_what_arrived_before_the_start_or_unseen_nothing_is_known(watched: Watched) -> None:
    watched.look()
    assert watched.of("study") is Association.UNKNOWN
    watched.look(FIRST, arrived="study")
    watched.look(FIRST)
    watched.open = None
    watched.associations.look()
    assert watched.of("study") is Association.UNKNOWN
    watched.look()
    assert watched.of("study") is Association.UNKNOWN


def test_a_sender_without_an_address_is_not_known_to_be_gone(watched: Watched) -> None:
    watched.look(FIRST, arrived="study", origin=Origin(by_dicom=True, aet="SENDER", ip=None))
    watched.look()
    assert watched.of("study") is Association.UNKNOWN


def test_a_sender_that_goes_on_and_finishes_between_two_looks_has_not_paused_between_associations(
    watched: Watched,
) -> None:
    watched.look(FIRST, arrived="study")
    watched.look(FIRST)
    watched.look()
    assert watched.of("study") is Association.CLOSED
    assert watched.associations.was_open("study")
    watched.look()
    assert not watched.associations.was_open("study")


def test_a_sender_whose_only_connection_brings_another_study_has_moved_on(watched: Watched) -> None:
    watched.look(FIRST, arrived="study")
    watched.look(FIRST, ELSEWHERE, arrived="next")
    assert watched.of("study") is Association.OPEN
    watched.look(FIRST, ELSEWHERE)
    assert watched.of("study") is Association.CLOSED
    assert watched.of("next") is Association.OPEN


def test_another_study_may_have_come_through_another_connection_of_the_sender(watched: Watched) -> None:
    watched.look(FIRST, SECOND, arrived="study")
    watched.look(FIRST, arrived="next")
    watched.look(FIRST)
    assert watched.of("study") is Association.OPEN


def test_another_study_may_have_come_through_a_connection_that_was_never_seen(watched: Watched) -> None:
    watched.look(FIRST, arrived="study")
    for _ in range(5):
        watched.accepted += 1
        watched.look(FIRST, arrived="next")
        watched.look(FIRST, arrived="next")
    assert watched.of("study") is Association.OPEN


def test_what_was_noted_late_may_have_arrived_long_ago(watched: Watched) -> None:
    watched.look(FIRST, arrived="study")
    watched.associations._read_to_end = False  # the log could not be read to its end
    watched.look(FIRST, arrived="next")
    watched.look(FIRST)
    assert watched.of("study") is Association.OPEN


def test_a_study_of_another_sender_says_nothing(watched: Watched) -> None:
    watched.look(FIRST, ELSEWHERE, arrived="study")
    for _ in range(5):
        watched.look(FIRST, ELSEWHERE, arrived="next", origin=Origin(by_dicom=True, aet="OTHER", ip="10.0.0.43"))
    assert watched.of("study") is Association.OPEN


def test_each_accepted_connection_is_counted() -> None:
    before = read_accepted()
    assert before is not None
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        server.accept()[0].close()
    after = read_accepted()
    assert after is not None
    assert after > before


@pytest.mark.parametrize("counters", ["", "Tcp: RtoMin\nTcp: 200\n", "Udp: InDatagrams\nUdp: 1\n"])
def test_counters_that_do_not_say_how_many_were_accepted_say_nothing(counters: str) -> None:
    assert accepted_connections(counters) is None
