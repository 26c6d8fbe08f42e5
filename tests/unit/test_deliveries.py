from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coread.delivery import Delivery, DeliveryState, ObjectState
from coread.job import Job, JobState
from coread.ledger import Ledger
from coread.ledger.tables import COMMITMENT, DELIVERY
from tests.destinations import do, job_for, settle, wait_for
from tests.support import NOW

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
UIDS = ("1.1", "1.2", "1.3")


def done(ledger: Ledger, job: Job, uids: tuple[str, ...] = UIDS, *, at: datetime = NOW) -> None:
    settle(ledger, job, at=at)
    do(ledger, job, uids, at=at)


def claim(ledger: Ledger, destination: str = "pacs", *, courier: str = "c", at: datetime = NOW) -> Delivery | None:
    return ledger.claim_delivery(destination, courier=courier, at=at, lease=MINUTE)


def claimed(ledger: Ledger, destination: str = "pacs", *, at: datetime = NOW) -> Delivery:
    delivery = claim(ledger, destination, at=at)
    assert delivery is not None
    return delivery


def send(ledger: Ledger, delivery: Delivery, uid: str, state: ObjectState = ObjectState.SENT) -> None:
    assert ledger.begin_object(delivery.delivery_id, uid, sop_class_uid="1.9", courier="c")
    ledger.note_object(delivery.delivery_id, uid, state, reason="no" if state is ObjectState.REFUSED else "")


def put_down(ledger: Ledger, delivery: Delivery, *, trouble: str = "", at: datetime = NOW) -> DeliveryState | None:
    later = {"retry_at": at + MINUTE, "ask_at": at + 10 * MINUTE}
    return ledger.put_down(delivery.delivery_id, courier="c", trouble=trouble, at=at, **later)


def only(ledger: Ledger, **wanted: str) -> Delivery:
    (delivery,) = ledger.deliveries(**wanted)  # type: ignore[arg-type]
    return delivery


def answer(
    ledger: Ledger, transaction: str, *, kept: tuple[str, ...] = (), missing: tuple[str, ...] = (), **more: object
) -> bool:
    refused = dict.fromkeys(more.get("refused", ()), "refused for good")  # type: ignore[call-overload]
    return ledger.settle_commitment(
        transaction, kept=kept, missing=missing, refused=refused, at=NOW, wait=lambda attempts: attempts * MINUTE
    )


def test_a_job_that_is_done_has_a_delivery_for_each_of_its_destinations(ledger: Ledger) -> None:
    done(ledger, job_for("pacs", "viewer", "pacs"))
    found = ledger.deliveries()
    assert sorted(each.destination for each in found) == ["pacs", "viewer"]
    assert all(each.state is DeliveryState.WAITING for each in found)
    assert all([each.sop_instance_uid for each in delivery.objects] == list(UIDS) for delivery in found)


def test_a_job_without_destinations_or_without_results_has_none(ledger: Ledger) -> None:
    done(ledger, job_for())
    done(ledger, job_for("pacs", name="b", study="other"), ())
    assert ledger.deliveries() == []


def test_a_refusal_with_a_report_is_delivered_too(ledger: Ledger) -> None:
    settle(ledger, job_for("pacs"))
    do(ledger, job_for("pacs"), UIDS[:1], end=JobState.REFUSED)
    assert only(ledger).uids({ObjectState.WAITING}) == ["1.1"]


def test_a_delivery_is_written_down_with_each_step_of_its_way(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    for uid in UIDS:
        send(ledger, delivery, uid)
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    assert put_down(ledger, delivery) is DeliveryState.SENT
    assert answer(ledger, "2.1", kept=UIDS)
    states = [event.to_state for event in ledger.delivery_history(delivery.delivery_id)]
    assert states == ["waiting", "sending", "sent", "confirmed"]


def test_only_one_courier_has_a_delivery(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    assert claim(ledger) is not None
    assert claim(ledger, courier="another") is None
    assert claim(ledger, "viewer") is None


def test_a_delivery_whose_courier_fell_silent_waits_again_and_what_was_begun_is_asked_for_first(
    ledger: Ledger,
) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1")
    assert ledger.begin_object(delivery.delivery_id, "1.2", sop_class_uid="1.9", courier="c")
    assert ledger.reclaim_deliveries(at=NOW + MINUTE) == []
    assert ledger.renew_delivery(delivery.delivery_id, courier="c", at=NOW + MINUTE, lease=MINUTE)
    assert ledger.reclaim_deliveries(at=NOW + 3 * MINUTE) == [delivery.delivery_id]
    again = claimed(ledger, at=NOW + 3 * MINUTE)
    assert [each.state for each in again.objects] == [ObjectState.SENT, ObjectState.BEGUN, ObjectState.WAITING]


def test_who_lost_a_delivery_sends_nothing_more_of_it(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    ledger.reclaim_deliveries(at=NOW + 2 * MINUTE)
    assert not ledger.begin_object(delivery.delivery_id, "1.1", sop_class_uid="1.9", courier="c")
    assert put_down(ledger, delivery) is None
    assert not ledger.renew_delivery(delivery.delivery_id, courier="c", at=NOW, lease=MINUTE)


def test_an_object_that_was_begun_is_not_begun_again(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    assert ledger.begin_object(delivery.delivery_id, "1.1", sop_class_uid="1.9", courier="c")
    assert not ledger.begin_object(delivery.delivery_id, "1.1", sop_class_uid="1.9", courier="c")


@pytest.mark.parametrize("begun", [0, 1])
def test_superseding_cancels_what_is_not_all_sent(ledger: Ledger, begun: int) -> None:
    done(ledger, job_for("pacs"))
    if begun:
        send(ledger, claimed(ledger), "1.1")
    settle(ledger, job_for("pacs", name="b"))
    delivery = only(ledger, job_id="a")
    assert delivery.state is DeliveryState.CANCELLED
    assert delivery.reason == "the study has changed" + ("; 1 of 3 objects had been sent" if begun else "")
    assert not ledger.retry_delivery(delivery.delivery_id, at=NOW)
    assert not ledger.begin_object(delivery.delivery_id, "1.2", sop_class_uid="1.9", courier="c")


def test_what_was_all_sent_before_its_job_was_superseded_is_still_confirmed_and_never_sent_again(
    ledger: Ledger,
) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    for uid in UIDS:
        send(ledger, delivery, uid)
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    put_down(ledger, delivery)
    settle(ledger, job_for("pacs", name="b"))
    assert only(ledger, job_id="a").state is DeliveryState.SENT
    answer(ledger, "2.1", kept=("1.1",), missing=("1.2",))
    assert only(ledger, job_id="a").state is DeliveryState.CANCELLED


def test_a_study_that_changed_back_is_delivered_but_not_what_is_there_already(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    send(ledger, claimed(ledger), "1.1", ObjectState.CONFIRMED)
    settle(ledger, job_for("pacs", name="b"))
    settle(ledger, job_for("pacs"), at=NOW + SECOND)
    do(ledger, job_for("pacs"), UIDS, at=NOW + SECOND)
    delivery = only(ledger, job_id="a")
    assert delivery.state is DeliveryState.WAITING
    assert delivery.uids({ObjectState.WAITING}) == ["1.2", "1.3"]


def test_a_job_that_ran_again_after_all_was_confirmed_is_not_delivered_again(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    for uid in UIDS:
        send(ledger, delivery, uid, ObjectState.CONFIRMED)
    assert put_down(ledger, delivery) is DeliveryState.CONFIRMED
    settle(ledger, job_for("pacs"), at=NOW + SECOND)  # its results are gone from the archive
    do(ledger, job_for("pacs"), UIDS, at=NOW + SECOND)
    assert only(ledger).state is DeliveryState.CONFIRMED
    assert claim(ledger, at=NOW + MINUTE) is None


def test_a_job_that_ran_again_while_its_results_were_not_confirmed_has_its_new_ones_sent(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:2])
    delivery = claimed(ledger)
    for uid in UIDS[:2]:
        send(ledger, delivery, uid)
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    put_down(ledger, delivery)
    settle(ledger, job_for("pacs"), at=NOW + SECOND)  # its results are gone from the archive
    assert only(ledger).withdrawn
    do(ledger, job_for("pacs"), UIDS[1:], at=NOW + SECOND)
    assert not only(ledger).withdrawn
    answer(ledger, "2.1", kept=UIDS[:2])
    again = claimed(ledger, at=NOW + SECOND)
    assert again.uids({ObjectState.WAITING}) == ["1.3"]


def test_deliveries_of_a_study_to_a_destination_go_in_the_order_in_which_they_were_made(ledger: Ledger) -> None:
    first, second = job_for("pacs"), job_for("pacs", name="b", model="n", created_at=NOW + SECOND)
    settle(ledger, first, second)
    do(ledger, first, UIDS)
    do(ledger, second, ("1.4",), at=NOW + SECOND)
    done(ledger, job_for("pacs", name="c", study="other", created_at=NOW + SECOND), ("1.5",), at=NOW + SECOND)
    delivery = claimed(ledger)
    assert delivery.job_id == "a"
    put_down(ledger, delivery, trouble="busy")
    assert claimed(ledger, at=NOW + SECOND).job_id == "c"
    assert claim(ledger, at=NOW + SECOND) is None
    delivery = claimed(ledger, at=NOW + MINUTE)
    assert delivery.job_id == "a"
    for uid in UIDS:
        send(ledger, delivery, uid)
    assert claim(ledger, at=NOW + MINUTE) is None
    assert put_down(ledger, delivery) is DeliveryState.SENT
    assert claimed(ledger, at=NOW + MINUTE).job_id == "b"


def test_what_is_not_confirmed_in_time_is_asked_for_again(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:1])
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1")
    put_down(ledger, delivery)
    assert claim(ledger, at=NOW + 9 * MINUTE) is None
    assert claimed(ledger, at=NOW + 10 * MINUTE).uids({ObjectState.SENT}) == ["1.1"]


def test_a_late_answer_counts_but_says_nothing_of_what_was_sent_since(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:2])
    delivery = claimed(ledger)
    for uid in UIDS[:2]:
        send(ledger, delivery, uid)
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    ledger.note_commitment_asked(delivery.delivery_id, "2.2", at=NOW + SECOND)
    put_down(ledger, delivery)
    assert answer(ledger, "2.1", kept=("1.1",), missing=("1.2",))
    assert [each.state for each in only(ledger).objects] == [ObjectState.CONFIRMED, ObjectState.SENT]
    assert answer(ledger, "2.2", kept=("1.2",), missing=("1.1",))
    assert only(ledger).state is DeliveryState.CONFIRMED
    assert not answer(ledger, "2.2", missing=UIDS)
    assert only(ledger).state is DeliveryState.CONFIRMED


def test_an_old_answer_that_comes_after_a_newer_one_says_nothing_any_more(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:1])
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1")
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    ledger.note_commitment_asked(delivery.delivery_id, "2.2", at=NOW + SECOND)
    put_down(ledger, delivery)
    assert answer(ledger, "2.2", missing=("1.1",))
    send(ledger, claimed(ledger, at=NOW + MINUTE), "1.1")
    assert not answer(ledger, "2.1", missing=("1.1",))
    assert only(ledger).uids({ObjectState.SENT}) == ["1.1"]


def test_what_the_destination_has_lost_is_sent_again_and_what_it_refuses_is_not(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    for uid in UIDS:
        send(ledger, delivery, uid)
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    put_down(ledger, delivery)
    answer(ledger, "2.1", kept=("1.1",), missing=("1.2",), refused=("1.3",))
    again = claimed(ledger, at=NOW + MINUTE)
    assert again.uids({ObjectState.WAITING}) == ["1.2"]
    send(ledger, again, "1.2", ObjectState.CONFIRMED)
    assert put_down(ledger, again) is DeliveryState.FAILED
    assert only(ledger).reason == "refused for good"


def test_a_failed_delivery_goes_again_when_a_person_asks_for_it(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:2])
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1", ObjectState.REFUSED)
    send(ledger, delivery, "1.2", ObjectState.CONFIRMED)
    assert put_down(ledger, delivery) is DeliveryState.FAILED
    assert claim(ledger, at=NOW + 60 * MINUTE) is None
    assert ledger.retry_delivery(delivery.delivery_id, at=NOW)
    assert claimed(ledger).uids({ObjectState.WAITING}) == ["1.1"]


def test_a_person_withdraws_a_delivery_once_and_not_when_all_is_confirmed(ledger: Ledger) -> None:
    done(ledger, job_for("pacs", "viewer"), UIDS[:1])
    ids = {each.destination: each.delivery_id for each in ledger.deliveries()}
    assert ledger.cancel_delivery(ids["viewer"], at=NOW)
    assert not ledger.cancel_delivery(ids["viewer"], at=NOW)
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1", ObjectState.CONFIRMED)
    put_down(ledger, delivery)
    assert not ledger.cancel_delivery(ids["pacs"], at=NOW)
    assert not ledger.retry_delivery(ids["pacs"], at=NOW)
    assert not ledger.retry_delivery(4711, at=NOW)
    assert ledger.retry_delivery(ids["viewer"], at=NOW)


def test_a_delivery_that_waits_goes_at_once_when_a_person_asks_for_it(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"))
    put_down(ledger, claimed(ledger), trouble="the destination is away")
    assert claim(ledger) is None
    assert ledger.retry_delivery(only(ledger).delivery_id, at=NOW)
    assert claim(ledger) is not None


def sent(ledger: Ledger, *names: str, at: datetime = NOW) -> list[int]:
    """Deliveries of one object each that have been sent and are not confirmed; their ids."""
    ids = []
    for number, name in enumerate(names):
        done(ledger, job_for("pacs", name=name, study=name), (f"1.{number}",), at=at)
        delivery = claimed(ledger, at=at)
        send(ledger, delivery, f"1.{number}")
        ledger.note_commitment_asked(delivery.delivery_id, f"2.{number}", at=at)
        assert put_down(ledger, delivery, at=at) is DeliveryState.SENT
        ids.append(delivery.delivery_id)
    return ids


def test_new_results_pass_those_that_nobody_has_confirmed(ledger: Ledger) -> None:
    sent(ledger, *(f"silent {number}" for number in range(12)))
    done(ledger, job_for("pacs", name="new", study="new"), ("9.9",), at=NOW + 11 * MINUTE)
    assert claimed(ledger, at=NOW + 12 * MINUTE).job_id == "new"
    assert claimed(ledger, at=NOW + 12 * MINUTE).job_id == "silent 0"


def test_an_object_that_was_begun_is_sent_again_however_long_each_answer_takes(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:1])
    delivery = claimed(ledger)
    assert ledger.begin_object(delivery.delivery_id, "1.1", sop_class_uid="1.9", courier="c")
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    assert put_down(ledger, delivery, trouble="not said yet") is DeliveryState.WAITING
    assert claim(ledger, at=NOW + 9 * MINUTE) is None  # or the answer would be to an older request than the latest
    assert answer(ledger, "2.1", missing=("1.1",))
    assert claimed(ledger, at=NOW + 9 * MINUTE).uids({ObjectState.WAITING}) == ["1.1"]


def test_an_object_that_was_begun_is_asked_for_again_if_no_answer_came_in_time(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), UIDS[:1])
    delivery = claimed(ledger)
    assert ledger.begin_object(delivery.delivery_id, "1.1", sop_class_uid="1.9", courier="c")
    ledger.note_commitment_asked(delivery.delivery_id, "2.1", at=NOW)
    put_down(ledger, delivery, trouble="not said yet", at=NOW + 5 * MINUTE)
    assert claimed(ledger, at=NOW + 10 * MINUTE).uids({ObjectState.BEGUN}) == ["1.1"]


def test_of_requests_that_nobody_answers_only_a_few_are_kept_and_none_beyond_the_end(ledger: Ledger) -> None:
    (delivery_id,) = sent(ledger, "a")
    for number in range(1, 9):
        ledger.note_commitment_asked(delivery_id, f"3.{number}", at=NOW + number * MINUTE)
    assert open_requests(ledger) == [f"3.{number}" for number in range(4, 9)]
    assert ledger.cancel_delivery(delivery_id, at=NOW)
    assert open_requests(ledger) == []


def trail(ledger: Ledger) -> list[tuple[str, str, list[str], str]]:
    """Of the audit rows about deliveries: what, who, which objects are not confirmed, why."""
    rows = [row for row in ledger.audit(job_id="a") if row.kind.startswith("deliver")]
    return [(row.kind, row.who, row.details["not_confirmed"], row.details["reason"]) for row in reversed(rows)]


def test_the_audit_trail_tells_what_a_failed_delivery_left_at_the_destination_and_who_let_it_go_again(
    ledger: Ledger,
) -> None:
    done(ledger, job_for("pacs"), UIDS[:2])
    delivery = claimed(ledger)
    send(ledger, delivery, "1.1", ObjectState.CONFIRMED)
    send(ledger, delivery, "1.2", ObjectState.REFUSED)
    put_down(ledger, delivery)
    assert ledger.retry_delivery(delivery.delivery_id, by="ada", at=NOW)
    assert ledger.cancel_delivery(delivery.delivery_id, by="grace", at=NOW)
    assert not ledger.cancel_delivery(delivery.delivery_id, by="grace", at=NOW)
    assert trail(ledger) == [
        ("delivery begun", "", ["1.1", "1.2"], ""),
        ("delivery failed", "", ["1.2"], "no"),
        ("delivery retried", "ada", ["1.2"], "no"),
        ("delivery cancelled", "grace", ["1.2"], "a person asked for it"),
    ]


@pytest.mark.parametrize("begun", [0, 1])
def test_the_audit_trail_tells_that_a_delivery_was_withdrawn_if_a_part_had_been_sent(
    ledger: Ledger, begun: int
) -> None:
    done(ledger, job_for("pacs"))
    delivery = claimed(ledger)
    if begun:
        send(ledger, delivery, "1.1")
    settle(ledger, job_for("pacs", name="b"))
    withdrawn = ("delivery withdrawn", "", list(UIDS), "the study has changed")
    assert trail(ledger)[1:] == [withdrawn] * begun


def test_the_objects_of_a_delivery_have_their_sop_classes_from_the_beginning(ledger: Ledger) -> None:
    settle(ledger, job_for("pacs"))
    do(ledger, job_for("pacs"), UIDS[:2], sop_class_uids=("1.9", "1.8"))
    delivery = claimed(ledger)
    assert [each.sop_class_uid for each in delivery.objects] == ["1.9", "1.8"]
    (begun,) = [row for row in ledger.audit(job_id="a") if row.kind == "delivery begun"]
    assert begun.details["instances"] == [["1.9", "1.1"], ["1.8", "1.2"]]


def test_an_object_that_a_job_adds_when_it_runs_again_comes_last(ledger: Ledger) -> None:
    done(ledger, job_for("pacs"), ("1.1", "1.2", "1.3"))
    settle(ledger, job_for("pacs"), at=NOW + SECOND)
    do(ledger, job_for("pacs"), ("1.3", "1.4"), at=NOW + SECOND)
    settle(ledger, job_for("pacs"), at=NOW + 2 * SECOND)
    do(ledger, job_for("pacs"), ("1.3", "1.4", "1.0"), at=NOW + 2 * SECOND)
    assert [each.sop_instance_uid for each in only(ledger).objects] == ["1.3", "1.4", "1.0"]


def open_requests(ledger: Ledger) -> list[str]:
    query = sa.select(COMMITMENT.c.transaction_uid).order_by(COMMITMENT.c.asked_at)
    with ledger._transaction() as connection:
        return list(connection.execute(query).scalars())


def test_asking_again_in_vain_adds_nothing_to_the_history(ledger: Ledger) -> None:
    (delivery_id,) = sent(ledger, "a")
    before = ledger.delivery_history(delivery_id)
    for number in range(1, 4):
        put_down(ledger, claimed(ledger, at=NOW + number * 10 * MINUTE), at=NOW + number * 10 * MINUTE)
    assert ledger.delivery_history(delivery_id) == before
    assert ledger.cancel_delivery(delivery_id, at=NOW)
    assert ledger.delivery_history(delivery_id)[-1].to_state is DeliveryState.CANCELLED


@pytest.mark.parametrize("way", ["the study changes", "a person cancels it"])
def test_a_delivery_that_is_withdrawn_while_a_courier_takes_it_stays_withdrawn(ledger: Ledger, way: str) -> None:
    done(ledger, job_for("pacs"))
    (delivery,) = ledger.deliveries()

    def withdraw() -> None:
        if way == "the study changes":
            settle(ledger, job_for("pacs", name="b"))
        else:
            assert ledger.cancel_delivery(delivery.delivery_id, at=NOW)

    with ThreadPoolExecutor(1) as pool:
        with ledger._transaction() as connection:
            takes = {"state": DeliveryState.SENDING, "courier": "c", "attempts": 1}
            connection.execute(sa.update(DELIVERY).values(takes))
            withdrawal = pool.submit(withdraw)
            if connection.dialect.name == "postgresql":
                waits = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
                wait_for(lambda: connection.scalar(waits))
        withdrawal.result()
    assert only(ledger, job_id="a").state is DeliveryState.CANCELLED


def test_two_couriers_at_once_take_each_delivery_once(ledger: Ledger) -> None:
    for number in range(20):
        done(ledger, job_for("pacs", name=f"{number}", study=f"{number}"), UIDS[:1])

    def take(courier: str) -> list[str]:
        taken = []
        while any(each.state is DeliveryState.WAITING for each in ledger.deliveries()):
            if (delivery := claim(ledger, courier=courier)) is not None:
                taken.append(delivery.job_id)
        return taken

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(take, ("c", "d"))
    assert sorted(first + second, key=int) == [f"{number}" for number in range(20)]
    for each in ledger.deliveries():
        assert each.courier == ("c" if each.job_id in first else "d")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.sampled_from("cd")),
        st.tuples(st.sampled_from(("send", "taken", "kept", "busy", "refused")), st.sampled_from(UIDS)),
        st.tuples(st.just("answer"), st.tuples(st.integers(0, 3), st.sets(st.sampled_from(UIDS)))),
        st.tuples(st.sampled_from(("put down", "die", "supersede", "back", "retry", "cancel", "ask")), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happens_nothing_that_is_confirmed_is_sent_again(  # noqa: C901  # an arm for each kind of step
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('property') / 'ledger.sqlite'}")
    ledger.migrate()
    mine, changed = job_for("pacs"), job_for("pacs", name="b")
    done(ledger, mine)
    (delivery_id,) = [each.delivery_id for each in ledger.deliveries()]
    confirmed: set[str] = set()
    held_by, transactions, at, stands = "", 0, NOW, True
    for step, value in steps:
        at += 20 * MINUTE
        if step == "claim":
            delivery = claim(ledger, courier=str(value), at=at)
            held_by = str(value) if delivery else held_by
        elif step == "send":
            began = ledger.begin_object(delivery_id, str(value), sop_class_uid="1.9", courier=held_by)
            assert not (began and value in confirmed)
            assert not (began and not stands)
        elif step in ("taken", "kept", "busy", "refused"):
            state = {"taken": "sent", "kept": "confirmed", "busy": "waiting", "refused": "refused"}[step]
            ledger.note_object(delivery_id, str(value), ObjectState(state), reason=step)
        elif step == "ask":
            transactions += 1
            ledger.note_commitment_asked(delivery_id, f"2.{transactions}", at=at)
        elif step == "answer":
            assert isinstance(value, tuple)
            back, kept = value  # to the latest request, or to an older one
            missing = set(UIDS) - kept
            ledger.settle_commitment(
                f"2.{transactions - back}", kept=kept, missing=missing, refused={}, at=at, wait=lambda _attempts: MINUTE
            )
        elif step == "put down":
            ledger.put_down(delivery_id, courier=held_by, at=at, retry_at=at + MINUTE, ask_at=at + 10 * MINUTE)
        elif step == "die":
            ledger.reclaim_deliveries(at=at)
        elif step == "retry":
            ledger.retry_delivery(delivery_id, at=at)
        elif step == "cancel":
            ledger.cancel_delivery(delivery_id, at=at)
        elif step == "supersede" and stands:
            settle(ledger, changed, at=at)
            ledger.cancel(changed.job_id, at=at)
            stands = False
        elif step == "back" and not stands:
            settle(ledger, mine, at=at)
            do(ledger, mine, UIDS, at=at)
            stands = True
        now = ledger.delivery(delivery_id)
        assert now is not None
        assert confirmed <= set(now.uids({ObjectState.CONFIRMED}))
        confirmed = set(now.uids({ObjectState.CONFIRMED}))
        assert now.state is not DeliveryState.CONFIRMED or confirmed == set(UIDS)
