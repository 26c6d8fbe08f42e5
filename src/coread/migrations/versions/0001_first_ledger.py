"""The first ledger: the cursor over Orthanc's changes, studies that arrive, jobs and their history."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "archive_cursor",
        sa.Column("cursor_id", sa.Integer, primary_key=True),
        sa.Column("archive_identity", sa.String(64), nullable=False),
        sa.Column("last_change", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "arriving_study",
        sa.Column("orthanc_id", sa.String(64), primary_key=True),
        sa.Column("last_change", sa.BigInteger, nullable=False),
        sa.Column("last_arrival_at", INSTANT, nullable=False),
    )
    op.create_table(
        "job",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("orthanc_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(64)),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("lease_until", INSTANT),
        sa.Column("result", sa.JSON),
    )
    op.create_index("job_by_study", "job", ["study_instance_uid", "model"])
    op.create_index("job_by_state", "job", ["state", "not_before"])
    op.create_table(
        "job_event",
        sa.Column("event_id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.String(32), sa.ForeignKey("job.job_id"), nullable=False, index=True),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("from_state", sa.String(16)),
        sa.Column("to_state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
