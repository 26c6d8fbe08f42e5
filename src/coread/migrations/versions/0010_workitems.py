"""Workitems of others, the jobs that an outside performer has claimed, and which changes of state are to be told."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("job", sa.Column("runs", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "workitem",
        sa.Column("uid", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("model", sa.String(64)),
        sa.Column("job_id", sa.String(32)),
        sa.Column("run", sa.Integer),
        sa.Column("is_cause", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("transaction_uid", sa.String(64)),
        sa.Column("lease_until", INSTANT),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("outcome", sa.JSON(none_as_null=True)),
    )
    op.create_index("workitem_by_study", "workitem", ["study_instance_uid", "state"])
    op.create_index("workitem_by_job", "workitem", ["job_id"])
    op.create_index("workitem_by_age", "workitem", ["created_at", "uid"])
    op.create_index("workitem_by_state", "workitem", ["state", "lease_until"])
    op.create_table(
        "job_claim",
        # No foreign key: see looked_ahead.
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
    )
    op.create_table(
        "workitem_change",
        sa.Column("change_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("uid", sa.String(64)),
        sa.Column("job_id", sa.String(32)),
        sa.Column("run", sa.Integer),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("job_state", sa.String(16)),
        sa.Column("at", INSTANT, nullable=False),
        sqlite_autoincrement=True,
    )
