"""When a worker works: when it is rung for, and by itself now and then. One job is begun at a time.

A broker that is away, or has lost what it held, costs so only the time until the worker looks by itself.
"""

import threading
from typing import Protocol, Self

from coread.errors import ConfigurationError, LedgerUnavailable
from coread.logs import logger

LOOK_EVERY_S = 10.0
"""How often a worker that has nothing to do asks the ledger, unrung."""

LET_IN_S = 0.01
"""The pause between two jobs, in which a bell is answered: messages would wait in the broker otherwise."""


class Runner(Protocol):
    """Does jobs."""

    def run_next(self) -> object | None:
        """Do a job, as far as nothing else can be begun. None if there is none to be had.

        Raises LedgerUnavailable if the ledger cannot be asked, ConfigurationError if it is of another version.
        """


class Duty:
    """Does jobs inside the block; at its end, the job in hand is done first."""

    def __init__(self, runner: Runner, *, look_every_s: float = LOOK_EVERY_S) -> None:
        self._runner = runner
        self._look_every_s = look_every_s
        self._hands = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._look, name="coread-duty", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()
        with self._hands:
            return

    def end(self) -> None:
        """Take no further job."""
        self._over.set()

    def answer(self) -> None:
        """Do one job, if there is one to be had. Returns when the next can be begun: the busy hear no further bell."""
        with self._hands:
            self._do_one()

    def _look(self) -> None:
        while not self._over.wait(self._look_every_s):
            while self._looked_and_found():
                self._over.wait(LET_IN_S)

    def _looked_and_found(self) -> bool:
        if not self._hands.acquire(blocking=False):
            return False  # somebody rang
        try:
            return self._do_one()
        finally:
            self._hands.release()

    def _do_one(self) -> bool:
        if self._over.is_set():
            return False
        try:
            return self._runner.run_next() is not None
        except LedgerUnavailable as error:
            logger().warning("no job taken", reason=str(error))
        except ConfigurationError as error:  # an upgrade has left this worker behind
            logger().error("no job taken", reason=str(error))
        except Exception:  # noqa: BLE001  # without the thread that looks, a job whose bell was lost waits for ever
            logger().exception("no job taken")
        return False
