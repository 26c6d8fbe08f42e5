"""The ledger's tables. Their form is made by the migrations; what stands here is what the queries name."""

from datetime import UTC, datetime

import sqlalchemy as sa

from coread.archive_run import RunStudyState
from coread.job import Job, Priority
from coread.objects import Profile


class Instant(sa.TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        return value and (value if value.tzinfo else value.replace(tzinfo=UTC))


_metadata = sa.MetaData()
CURSOR = sa.Table(
    "archive_cursor",
    _metadata,
    sa.Column("cursor_id", sa.Integer, primary_key=True),
    sa.Column("archive_identity", sa.String),
    sa.Column("last_change", sa.BigInteger),
    sa.Column("watermark", sa.BigInteger),
)
ARRIVING = sa.Table(
    "arriving_study",
    _metadata,
    sa.Column("orthanc_id", sa.String, primary_key=True),
    sa.Column("last_change", sa.BigInteger),
    sa.Column("last_arrival_at", Instant),
    sa.Column("first_arrival_at", Instant),
    sa.Column("longest_pause_s", sa.Float),
    sa.Column("last_instance", sa.String),
    sa.Column("instances", sa.Integer),
    sa.Column("stated", sa.JSON(none_as_null=True)),
    sa.Column("waits_for", sa.Text),
    sa.Column("waits_until", Instant),
    sa.Column("stalled", sa.Boolean),
    sa.Column("read_asked_at", Instant),
)
JOB = sa.Table(
    "job",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("orthanc_id", sa.String),
    sa.Column("model", sa.String),
    sa.Column("model_version", sa.String),
    sa.Column("fingerprint", sa.String),
    sa.Column("revision", sa.String),
    sa.Column("profiles", sa.JSON),
    sa.Column("destinations", sa.JSON),
    sa.Column("priority", sa.String),
    sa.Column("priority_by_person", sa.Boolean),
    sa.Column("queue", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("attempts", sa.Integer),
    sa.Column("silences", sa.Integer),
    sa.Column("worker", sa.String),
    sa.Column("created_at", Instant),
    sa.Column("not_before", Instant),
    sa.Column("lease_until", Instant),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("runs", sa.Integer),
    sa.Column("only_for_runs", sa.Boolean, default=False),
)
LOOKED_AHEAD = sa.Table(
    "looked_ahead",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("worker", sa.String),
    sa.Column("at", Instant),
)
EVENT = sa.Table(
    "job_event",
    _metadata,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String),
    sa.Column("at", Instant),
    sa.Column("from_state", sa.String),
    sa.Column("to_state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("reason_class", sa.String),
)
QUEUE = sa.Table(
    "queue",
    _metadata,
    sa.Column("queue", sa.String, primary_key=True),
    sa.Column("batch_claimed_at", Instant),
)
OUTDATED = sa.Table(
    "outdated_result",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("not_before", Instant),
)
DELIVERY = sa.Table(
    "delivery",
    _metadata,
    sa.Column("delivery_id", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String),
    sa.Column("destination", sa.String),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("orthanc_id", sa.String),
    sa.Column("model", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("withdrawn", sa.Text),
    sa.Column("attempts", sa.Integer),
    sa.Column("courier", sa.String),
    sa.Column("opened_at", Instant),
    sa.Column("not_before", Instant),
    sa.Column("lease_until", Instant),
    sa.Column("review_id", sa.String),
)
DELIVERY_OBJECT = sa.Table(
    "delivery_object",
    _metadata,
    sa.Column("delivery_id", sa.Integer, primary_key=True),
    sa.Column("sop_instance_uid", sa.String, primary_key=True),
    sa.Column("position", sa.Integer),
    sa.Column("sop_class_uid", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
)
DELIVERY_EVENT = sa.Table(
    "delivery_event",
    _metadata,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("delivery_id", sa.Integer),
    sa.Column("at", Instant),
    sa.Column("from_state", sa.String),
    sa.Column("to_state", sa.String),
    sa.Column("reason", sa.Text),
)
COMMITMENT = sa.Table(
    "commitment",
    _metadata,
    sa.Column("transaction_uid", sa.String, primary_key=True),
    sa.Column("delivery_id", sa.Integer),
    sa.Column("asked_at", Instant),
)
FINDING_DUE = sa.Table(
    "finding_due",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("at", Instant),
)
RAISED = sa.Table(
    "raised_study",
    _metadata,
    sa.Column("raise_id", sa.Integer, primary_key=True),
    sa.Column("alert", sa.String),
    sa.Column("orthanc_id", sa.String),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("model", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("priority", sa.String),
    sa.Column("label", sa.String),
    sa.Column("words", sa.Text),
    sa.Column("raised_at", Instant),
    sa.Column("ended_at", Instant),
    sa.Column("ended_because", sa.Text, default=""),
)
NOTICE = sa.Table(
    "notice",
    _metadata,
    sa.Column("notice_id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String),
    sa.Column("raise_id", sa.Integer),
    sa.Column("channel", sa.String),
    sa.Column("event", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text, default=""),
    sa.Column("attempts", sa.Integer, default=0),
    sa.Column("created_at", Instant),
    sa.Column("not_before", Instant),
)
AUDIT = sa.Table(
    "audit_event",
    _metadata,
    sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("at", Instant),
    sa.Column("kind", sa.String),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("who", sa.String),
    sa.Column("details", sa.JSON),
)
REVIEW = sa.Table(
    "review",
    _metadata,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("review_id", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("orthanc_id", sa.String),
    sa.Column("model", sa.String),
    sa.Column("model_version", sa.String),
    sa.Column("verdict", sa.String),
    sa.Column("source", sa.String),
    sa.Column("at", Instant),
    sa.Column("who", sa.Text),
    sa.Column("reader", sa.Text),
    sa.Column("reason", sa.JSON(none_as_null=True)),
    sa.Column("comment", sa.Text),
    sa.Column("result_digest", sa.String),
    sa.Column("results", sa.JSON),
    sa.Column("stops_delivery", sa.Boolean),
    sa.Column("object_uid", sa.String),
    sa.Column("basis", sa.String),
    sa.Column("comparison", sa.JSON),
)
"""Facts: rows are only ever added."""
REVIEW_WRITING = sa.Table(
    "review_writing",
    _metadata,
    sa.Column("review_id", sa.String, primary_key=True),
    sa.Column("state", sa.String),
    sa.Column("failure", sa.Text),
    sa.Column("objects", sa.JSON),
    sa.Column("attempts", sa.Integer),
    sa.Column("clerk", sa.String),
    sa.Column("not_before", Instant),
    sa.Column("lease_until", Instant),
    sa.Column("written_at", Instant),
)
"""Where the object of each review stands."""
RETURNED = sa.Table(
    "returned_object",
    _metadata,
    sa.Column("instance", sa.String, primary_key=True),
    sa.Column("orthanc_id", sa.String),
    sa.Column("attempts", sa.Integer),
    sa.Column("clerk", sa.String),
    sa.Column("not_before", Instant),
    sa.Column("lease_until", Instant),
)
WORKITEM = sa.Table(
    "workitem",
    _metadata,
    sa.Column("uid", sa.String, primary_key=True),
    sa.Column("state", sa.String),
    sa.Column("priority", sa.String),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("model", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("run", sa.Integer),
    sa.Column("is_cause", sa.Boolean),
    sa.Column("transaction_uid", sa.String),
    sa.Column("lease_until", Instant),
    sa.Column("created_at", Instant),
    sa.Column("changed_at", Instant),
    sa.Column("outcome", sa.JSON(none_as_null=True)),
)
JOB_CLAIM = sa.Table(
    "job_claim",
    _metadata,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("attempts", sa.Integer),
    sa.Column("transaction_uid", sa.String),
)
WORKITEM_CHANGE = sa.Table(
    "workitem_change",
    _metadata,
    sa.Column("change_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("uid", sa.String),
    sa.Column("job_id", sa.String),
    sa.Column("run", sa.Integer),
    sa.Column("state", sa.String),
    sa.Column("job_state", sa.String),
    sa.Column("at", Instant),
)
ARCHIVE_RUN = sa.Table(
    "archive_run",
    _metadata,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("name", sa.Text),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("waits_for", sa.Text),
    sa.Column("terms", sa.JSON),
    sa.Column("plan_digest", sa.String),
    sa.Column("created_at", Instant),
    sa.Column("created_by", sa.Text),
    sa.Column("ended_at", Instant),
    sa.Column("studies", sa.Integer),
    *(sa.Column(state.value, sa.Integer, default=0) for state in RunStudyState),
    sa.Column("last_begun_at", Instant),
    sa.Column("archivist", sa.String),
    sa.Column("lease_until", Instant),
)
RUN_STUDY = sa.Table(
    "run_study",
    _metadata,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("study_instance_uid", sa.String),
    sa.Column("state", sa.String),
    sa.Column("reason", sa.Text),
    sa.Column("is_permanent", sa.Boolean),
    sa.Column("attempts", sa.Integer),
    sa.Column("is_retry", sa.Boolean),
    sa.Column("orthanc_id", sa.String),
    sa.Column("copy", sa.String),
    sa.Column("brought", sa.String),
    sa.Column("stated_instances", sa.Integer),
    sa.Column("instances", sa.Integer),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("not_before", Instant),
    sa.Column("changed_at", Instant),
)
RUN_JOB = sa.Table(
    "run_job",
    _metadata,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("job_id", sa.String, primary_key=True),
)
ARCHIVIST = sa.Table(
    "archivist", _metadata, sa.Column("archivist", sa.String, primary_key=True), sa.Column("seen_at", Instant)
)
AUDIT_UNSENT = sa.Table("audit_unsent", _metadata, sa.Column("audit_id", sa.BigInteger, primary_key=True))
PROCESS = sa.Table(
    "process",
    _metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("kind", sa.String),
    sa.Column("host", sa.String),
    sa.Column("started_at", Instant),
    sa.Column("seen_at", Instant),
    sa.Column("clock_offset_s", sa.Float),
    sa.Column("facts", sa.JSON),
)
COUNTED = sa.Table(
    "counted",
    _metadata,
    sa.Column("counted_id", sa.Integer, primary_key=True),
    sa.Column("edition", sa.Integer),
    sa.Column("marks", sa.JSON),
    sa.Column("totals", sa.JSON),
)
"""What metrics have counted of rows up to a number; one row."""


def job_of(row: sa.RowMapping) -> Job:
    """The job that a row of JOB holds."""
    values = {name: row[name] for name in Job.__dataclass_fields__}
    values["priority"] = Priority(values["priority"])
    values["profiles"] = tuple(map(Profile, values["profiles"]))
    values["destinations"] = tuple(values["destinations"])
    return Job(**values)
