"""Archive runs: their studies, which jobs read them, and how many stand where; and jobs that nobody but runs want."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

INSTANT = sa.DateTime(timezone=True)
STATES = ("due", "retrieving", "here", "reading", "collected", "done", "refused", "failed", "cancelled")


def upgrade() -> None:
    op.add_column("job", sa.Column("only_for_runs", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "archive_run",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("waits_for", sa.Text, nullable=False, server_default=""),
        sa.Column("terms", sa.JSON, nullable=False),
        sa.Column("plan_digest", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("ended_at", INSTANT, index=True),
        sa.Column("studies", sa.Integer, nullable=False, server_default="0"),
        *(sa.Column(state, sa.Integer, nullable=False, server_default="0") for state in STATES),
        sa.Column("last_begun_at", INSTANT),
        sa.Column("archivist", sa.String(200)),
        sa.Column("lease_until", INSTANT),
    )
    op.create_table(
        "run_study",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("archive_run.run_id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("is_permanent", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("is_retry", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("orthanc_id", sa.String(64)),
        sa.Column("copy", sa.String(16), nullable=False, server_default=""),
        sa.Column("brought", sa.String(64)),
        sa.Column("stated_instances", sa.Integer),
        sa.Column("instances", sa.Integer),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("not_before", INSTANT),
        sa.Column("changed_at", INSTANT, nullable=False),
    )
    op.create_index("run_study_by_uid", "run_study", ["study_instance_uid"])
    op.create_index("run_study_by_state", "run_study", ["run_id", "state", "position"])
    op.create_index("run_study_due", "run_study", ["run_id", "state", "not_before", "position"])
    op.create_index("run_study_by_change", "run_study", ["run_id", "state", "changed_at"])
    op.create_table(
        "run_job",
        sa.Column("run_id", sa.String(64), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("job_id", sa.String(32), primary_key=True),
    )
    op.create_index("run_job_by_job", "run_job", ["job_id"])
    op.create_table(
        "archivist",
        sa.Column("archivist", sa.String(200), primary_key=True),
        sa.Column("seen_at", INSTANT, nullable=False),
    )
