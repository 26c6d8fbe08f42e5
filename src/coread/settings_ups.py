"""``[ups]``: the worklist's interface for others."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class UpsSettings(BaseModel):
    """``[ups]``: workitems over UPS-RS."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    """Whether `/dicom-web/workitems` answers."""
    models: dict[Annotated[str, Field(pattern=r"^[^^]+\^[^^]+$")], str] = Field(default_factory=dict)
    """Scheduled Workitem Code → the model that does it: `"CODE^SCHEME" = "model"`. A model's own name with the scheme
    99COREAD always names it."""
    performer_timeout_s: Annotated[float, Field(gt=0)] = 14_400.0
    """An outside performer that has claimed a job, and not updated it for this long, loses it: a worker reads it."""
    waiters: Annotated[int, Field(ge=0, le=32)] = 8
    """How many requests for events may wait at a time; one more is answered at once. Each holds one of Orthanc's 50
    HTTP threads."""
