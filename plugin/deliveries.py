"""The plugin's REST routes for deliveries: which results went to which destination.

GET /coread/deliveries                the newest deliveries
GET /coread/deliveries?study=UID      those of a study; ?job=id, ?destination=name, ?state=failed,sent, ?limit=N
GET /coread/deliveries/{id}           a delivery with its objects and its history
POST /coread/deliveries/{id}/retry    let one that has failed or was cancelled go again, and one that waits go now
POST /coread/deliveries/{id}/cancel   withdraw one that is not confirmed; what has been sent stays at the destination
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from coread.delivery import DeliveryState
from coread.ledger import Ledger
from coread.plugin.answers import answer, asked_rows
from coread.plugin.explained import (
    OBJECT,
    TEXT,
    TIME,
    WHOLE_NUMBER,
    Listed,
    Record,
    Shape,
    choice,
    explained,
    limit,
    param,
    says,
)
from coread.plugin.gate import Gate, Role

LISTED = 1000
"""How many deliveries are listed if nobody says otherwise."""

ROW: Mapping[str, Shape] = {
    "delivery_id": WHOLE_NUMBER,
    "job_id": TEXT,
    "review_id": TEXT,
    "destination": TEXT,
    "study_instance_uid": TEXT,
    "model": TEXT,
    "state": choice("where it stands", DeliveryState),
    "reason": TEXT,
    "withdrawn": TEXT,
    "attempts": WHOLE_NUMBER,
    "opened_at": TIME,
    "not_before": TIME,
    "objects": Listed(of=OBJECT),
}
DELIVERY = Record(fields=ROW)
DELIVERY_AND_HISTORY = Record(fields={**ROW, "history": Listed(of=OBJECT)})
NO_DELIVERY = "there is no such delivery"


def register_deliveries(gate: Gate, ledger: Ledger) -> None:
    """Register the routes."""

    @explained(
        query={
            "study": param("StudyInstanceUID of the study that they are of"),
            "job": param("the id of the job whose results they are"),
            "destination": param("the destination's name"),
            "state": choice("only those in a state", DeliveryState, several=True),
            "limit": limit(LISTED),
        },
        answers={200: says("deliveries, the newest first", Listed(of=DELIVERY)), 400: "a state or a limit is none"},
    )
    def deliveries(output: Any, _url: str, **request: Any) -> None:
        """The newest deliveries: which results went to which destination."""
        asked = request["get"]
        try:
            states, limit = asked_rows(asked, DeliveryState, default=LISTED)
        except ValueError as error:
            answer(output, {"error": str(error)}, status=400)
            return
        found = ledger.deliveries(
            study_instance_uid=asked.get("study"),
            job_id=asked.get("job"),
            destination=asked.get("destination"),
            states=states,
            limit=limit,
        )
        answer(output, [delivery.as_json() for delivery in found])

    @explained(
        path={"delivery": "the delivery's number"}, answers={200: says("it", DELIVERY_AND_HISTORY), 404: NO_DELIVERY}
    )
    def delivery(output: Any, _url: str, **request: Any) -> None:
        """A delivery with its objects and its history."""
        delivery_id = int(request["groups"][0])
        found = ledger.delivery(delivery_id)
        if found is None:
            _answer_unknown(output, delivery_id)
        else:
            history = [event.as_json() for event in ledger.delivery_history(delivery_id)]
            answer(output, {**found.as_json(), "history": history})

    @explained(
        path={"delivery": "the delivery's number", "wish": "what becomes of it"},
        answers={200: says("it", DELIVERY), 404: NO_DELIVERY, 409: "it is in a state in which this cannot be done"},
    )
    def change(output: Any, _url: str, **request: Any) -> None:
        """Let a delivery go again, or now, or withdraw one that is not confirmed."""
        number, wish = request["groups"]
        operate = ledger.retry_delivery if wish == "retry" else ledger.cancel_delivery
        changed = operate(int(number), by=request["person"].user, at=datetime.now(UTC))
        found = ledger.delivery(int(number))
        if found is None:
            _answer_unknown(output, int(number))
        elif changed:
            answer(output, found.as_json())
        else:
            answer(output, {"error": f"cannot {wish} a delivery that is {found.state}"}, status=409)

    gate.route("/coread/deliveries", GET=(Role.READER, deliveries))
    gate.route("/coread/deliveries/([0-9]{1,9})", GET=(Role.READER, delivery))
    gate.route("/coread/deliveries/([0-9]{1,9})/(retry|cancel)", POST=(Role.ADMIN, change))


def _answer_unknown(output: Any, delivery_id: int) -> None:
    answer(output, {"error": f"no delivery {delivery_id}; GET /coread/deliveries lists them"}, status=404)
