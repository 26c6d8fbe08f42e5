"""What persons said of results, the objects that say it in DICOM, and objects that came back and are to be looked at.

A job's results and each of its reviews are deliveries of their own, so that of one job and destination there may be
several now.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "review",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("review_id", sa.String(32), nullable=False, unique=True),
        # No foreign key: a review outlives whatever becomes of its job.
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("orthanc_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("source", sa.String(16), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("reader", sa.Text, nullable=False),
        sa.Column("reason", sa.JSON),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("result_digest", sa.String(64), nullable=False),
        sa.Column("results", sa.JSON, nullable=False),
        sa.Column("stops_delivery", sa.Boolean, nullable=False),
        sa.Column("object_uid", sa.String(64)),
        sa.Column("basis", sa.String(16)),
        sa.Column("comparison", sa.JSON, nullable=False),
    )
    op.create_index("review_by_job", "review", ["job_id", "number"])
    op.create_index("review_by_study", "review", ["study_instance_uid", "number"])
    op.create_index("review_by_orthanc_id", "review", ["orthanc_id", "number"])
    op.create_index("review_by_model", "review", ["model", "number"])
    op.create_index("review_by_time", "review", ["at", "number"])
    op.create_table(
        "review_writing",
        sa.Column("review_id", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failure", sa.Text, nullable=False),
        sa.Column("objects", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("clerk", sa.String(64)),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("lease_until", INSTANT),
        sa.Column("written_at", INSTANT),
    )
    op.create_index("review_to_write", "review_writing", ["state", "not_before"])
    op.create_table(
        "returned_object",
        sa.Column("instance", sa.String(64), primary_key=True),
        sa.Column("orthanc_id", sa.String(64), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("clerk", sa.String(64)),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("lease_until", INSTANT),
    )
    op.create_index("returned_object_due", "returned_object", ["not_before"])
    if op.get_bind().dialect.name == "sqlite":
        _make_deliveries_anew()
    else:
        op.add_column("delivery", sa.Column("review_id", sa.String(32), nullable=False, server_default=""))
        op.drop_constraint("delivery_job_id_destination_key", "delivery", type_="unique")
        op.create_unique_constraint("delivery_of_job", "delivery", ["job_id", "destination", "review_id"])


def _make_deliveries_anew() -> None:
    """SQLite cannot drop a constraint, nor a table that others refer to: all four are made anew with what they hold."""
    tables = ("delivery", "delivery_object", "delivery_event", "commitment")
    for table in tables:
        op.execute(f"CREATE TEMPORARY TABLE kept_{table} AS SELECT * FROM {table}")  # noqa: S608  # names of ours
    for table in reversed(tables):
        op.drop_table(table)
    op.create_table(
        "delivery",
        sa.Column("delivery_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("job.job_id"), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("orthanc_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("withdrawn", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("courier", sa.String(64)),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("lease_until", INSTANT),
        sa.Column("review_id", sa.String(32), nullable=False, server_default=""),
        sa.UniqueConstraint("job_id", "destination", "review_id", name="delivery_of_job"),
    )
    for name, columns in {
        "delivery_to_do": ["destination", "state", "opened_at", "delivery_id"],
        "delivery_by_study": ["orthanc_id", "destination"],
        "delivery_by_uid": ["study_instance_uid"],
        "delivery_by_age": ["opened_at", "delivery_id"],
        "delivery_by_destination": ["destination", "opened_at", "delivery_id"],
        "delivery_by_state": ["state", "opened_at", "delivery_id"],
        "delivery_by_lease": ["state", "lease_until"],
    }.items():
        op.create_index(name, "delivery", columns)
    op.create_table(
        "delivery_object",
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("delivery.delivery_id"), primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "delivery_event",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("delivery.delivery_id"), nullable=False, index=True),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("from_state", sa.String(16)),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(64), primary_key=True),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("delivery.delivery_id"), nullable=False, index=True),
        sa.Column("asked_at", INSTANT, nullable=False),
    )
    for table in tables:
        more = ", ''" if table == "delivery" else ""
        op.execute(f"INSERT INTO {table} SELECT kept_{table}.*{more} FROM kept_{table}")  # noqa: S608  # as above
        op.execute(f"DROP TABLE kept_{table}")
