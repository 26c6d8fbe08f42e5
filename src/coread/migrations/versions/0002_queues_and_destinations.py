"""Queues that a worker takes the most urgent job of, what a job's results are written for, and outdated results."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "queue",
        sa.Column("queue", sa.String(64), primary_key=True),
        sa.Column("batch_claimed_at", INSTANT),
    )
    op.create_table(
        "outdated_result",
        sa.Column("job_id", sa.String(32), sa.ForeignKey("job.job_id"), primary_key=True),
        sa.Column("not_before", INSTANT, nullable=False),
    )
    # An older version's jobs have no revision: a worker that takes one has its study settled again.
    op.add_column("job", sa.Column("revision", sa.String(64), nullable=False, server_default=""))
    op.add_column("job", sa.Column("profiles", sa.JSON, nullable=False, server_default='["ohif"]'))
    op.add_column("job", sa.Column("destinations", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("job", sa.Column("queue", sa.String(64), nullable=False, server_default="gpu"))
    op.add_column("job", sa.Column("silences", sa.Integer, nullable=False, server_default="0"))
    op.execute("INSERT INTO queue (queue) VALUES ('gpu')")
    op.execute("UPDATE job SET state = 'waiting' WHERE state = 'queued'")
    op.drop_index("job_by_state", "job")
    op.create_index("job_to_do", "job", ["state", "queue", "priority", "created_at", "job_id"])
    op.create_index("job_by_lease", "job", ["state", "lease_until"])
    op.create_index("job_by_age", "job", ["created_at", "job_id"])
    op.create_index("job_by_reading", "job", ["orthanc_id", "model"])
    # Before, each look at the ledger found those that had failed in the place of results.
    op.execute(
        "INSERT INTO outdated_result (job_id, not_before) "
        "SELECT job_id, created_at FROM job WHERE state IN ('failed', 'cancelled')"
    )
