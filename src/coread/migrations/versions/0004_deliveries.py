"""Deliveries of results to destinations, their objects, and the storage commitments that were asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
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
        sa.UniqueConstraint("job_id", "destination"),
    )
    op.create_index("delivery_to_do", "delivery", ["destination", "state", "opened_at", "delivery_id"])
    op.create_index("delivery_by_study", "delivery", ["orthanc_id", "destination"])
    op.create_index("delivery_by_uid", "delivery", ["study_instance_uid"])
    op.create_index("delivery_by_age", "delivery", ["opened_at", "delivery_id"])
    op.create_index("delivery_by_destination", "delivery", ["destination", "opened_at", "delivery_id"])
    op.create_index("delivery_by_state", "delivery", ["state", "opened_at", "delivery_id"])
    op.create_index("delivery_by_lease", "delivery", ["state", "lease_until"])
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
