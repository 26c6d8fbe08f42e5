"""An answer that comes at once reaches who waits for it, whatever pynetdicom's own thread does just then."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from coread.association import Checkpoint, prepare
from coread.orthanc_process import free_port

LATE_S = 0.05
TIMEOUT_S = 2.0
ROUNDS = 10


class LateCheckpoint(Checkpoint):
    """Lets the thread go on a while after it was told to, as a busy machine does."""

    def wait(self, timeout: float | None = None) -> bool:
        is_open = super().wait(timeout)
        time.sleep(LATE_S)
        return is_open


@pytest.fixture
def associate() -> Iterator[Callable[[Callable[[Any], None]], Association]]:
    """Opens associations with somebody who answers a C-ECHO."""
    port = free_port()
    server = AE(ae_title="ANSWERS")
    server.add_supported_context(Verification)
    running = server.start_server(("127.0.0.1", port), block=False)
    assert running is not None
    entity = AE(ae_title="ASKS")
    entity.dimse_timeout = TIMEOUT_S
    entity.add_requested_context(Verification)
    opened: list[Association] = []

    def open_one(handler: Callable[[Any], None]) -> Association:
        opened.append(entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, handler)]))
        assert opened[-1].is_established
        return opened[-1]

    yield open_one
    for each in opened:
        each.release()
    running.shutdown()


def test_no_answer_is_taken_by_the_associations_own_thread(
    associate: Callable[[Callable[[Any], None]], Association], monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(event: Any) -> None:
        prepare(event)
        event.assoc._reactor_checkpoint = LateCheckpoint(event.assoc)

    association = associate(late)
    get = association.dimse.get_msg

    def get_late(block: bool = False) -> Any:  # noqa: FBT002  # as pynetdicom has it
        time.sleep(2 * LATE_S if block else 0)  # the answer is there before the one who waits for it
        return get(block)

    monkeypatch.setattr(association.dimse, "get_msg", get_late)
    assert ["Status" in association.send_c_echo() for _ in range(ROUNDS)] == [True] * ROUNDS


def test_an_association_that_is_prepared_is_stopped_at_the_checkpoint(
    associate: Callable[[Callable[[Any], None]], Association],
) -> None:
    association = associate(prepare)
    assert isinstance(association._reactor_checkpoint, Checkpoint)
    assert association.send_c_echo().Status == 0
    association.abort()
    association.join(TIMEOUT_S)
    assert not association.is_alive()


def test_a_thread_that_has_ended_holds_nobody_up() -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    checkpoint = Checkpoint(ended)
    checkpoint.clear()
    assert not checkpoint.is_set()


def test_the_thread_itself_may_clear_it() -> None:
    cleared = threading.Event()

    def run() -> None:
        Checkpoint(threading.current_thread()).clear()
        cleared.set()

    threading.Thread(target=run, daemon=True).start()
    assert cleared.wait(TIMEOUT_S)
