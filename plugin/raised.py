"""The plugin's REST route for raised studies.

GET /coread/studies/{orthanc id}/raised   what raised a study, those that ended too, and who was told
"""

from typing import Any

from coread.ledger import Ledger
from coread.plugin.answers import answer
from coread.plugin.explained import OBJECT, TEXT, Listed, Record, explained, says
from coread.plugin.gate import Gate, Role


def register_raised(gate: Gate, ledger: Ledger) -> None:
    """Register the route."""

    @explained(
        path={"study": "Orthanc's id of the study"},
        answers={
            200: says(
                "what is known; nothing of a study that nothing has raised",
                Record(fields={"orthanc_id": TEXT, "raised": Listed(of=OBJECT), "notices": Listed(of=OBJECT)}),
            )
        },
    )
    def raised(output: Any, _url: str, **request: Any) -> None:
        """What has raised a study, the findings that ended too, and who was told."""
        (orthanc_id,) = request["groups"]
        found = [each.as_json() for each in ledger.raised_ever(orthanc_id)]
        answer(output, {"orthanc_id": orthanc_id, "raised": found, "notices": ledger.notices(orthanc_id)})

    gate.route("/coread/studies/([0-9a-f-]+)/raised", GET=(Role.READER, raised))
