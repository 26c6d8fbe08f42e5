import threading
from collections.abc import Callable

from coread.errors import ConfigurationError, LedgerUnavailable
from coread.job import JobState
from coread.workers.duty import Duty

SOON_S = 30.0


class Jobs:
    """A runner with so many jobs in its ledger; at most one is ever in hand."""

    def __init__(self, count: int) -> None:
        self.left = count
        self.in_hand = 0
        self.most_in_hand = 0
        self.before: Callable[[], None] = lambda: None
        self.all_done = threading.Event()

    def run_next(self) -> JobState | None:
        self.before()
        if not self.left:
            self.all_done.set()
            return None
        self.in_hand += 1
        self.most_in_hand = max(self.in_hand, self.most_in_hand)
        self.left -= 1
        threading.Event().wait(0.0001)  # lets another thread in, if it may
        self.in_hand -= 1
        return JobState.DONE


def duty(jobs: Jobs, *, look_every_s: float) -> Duty:
    return Duty(jobs, look_every_s=look_every_s)


def test_a_bell_has_one_job_done() -> None:
    jobs = Jobs(3)
    with duty(jobs, look_every_s=SOON_S) as working:
        working.answer()
        assert jobs.left == 2


def test_without_any_bell_all_jobs_are_done() -> None:
    jobs = Jobs(30)
    with duty(jobs, look_every_s=0.01):
        assert jobs.all_done.wait(SOON_S)
    assert jobs.left == 0


def test_one_job_is_done_at_a_time_whoever_calls() -> None:
    jobs = Jobs(300)
    with duty(jobs, look_every_s=0.001) as working:

        def call() -> None:
            for _ in range(50):
                working.answer()

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert jobs.all_done.wait(SOON_S)
    assert jobs.most_in_hand == 1


def test_a_ledger_that_is_away_is_asked_again() -> None:
    jobs = Jobs(1)
    troubles = [LedgerUnavailable("no answer")] * 3

    def trouble() -> None:
        if troubles:
            raise troubles.pop()

    jobs.before = trouble
    with duty(jobs, look_every_s=0.01):
        assert jobs.all_done.wait(SOON_S)
    assert not troubles


def test_at_the_end_the_job_in_hand_is_done_and_no_other_is_begun() -> None:
    jobs = Jobs(5)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(SOON_S)

    jobs.before = slow
    with duty(jobs, look_every_s=0.01) as working:
        assert begun.wait(SOON_S)
        working.end()
        go_on.set()
    assert jobs.left == 4


def test_a_surprise_does_not_end_the_looking() -> None:
    jobs = Jobs(1)
    troubles: list[Exception] = [ValueError("surprise"), ConfigurationError("a proxy says no")]

    def trouble() -> None:
        if troubles:
            raise troubles.pop()

    jobs.before = trouble
    with duty(jobs, look_every_s=0.01):
        assert jobs.all_done.wait(SOON_S)
    assert jobs.left == 0


def test_a_bell_is_answered_while_there_is_much_work() -> None:
    jobs = Jobs(10_000)
    with duty(jobs, look_every_s=0.001) as working:
        working.answer()
        assert jobs.left > 0
