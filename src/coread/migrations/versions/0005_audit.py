"""The audit trail, and which of its rows syslog has not taken yet."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "audit_event",
        sa.Column("audit_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("study_instance_uid", sa.String(64)),
        sa.Column("job_id", sa.String(32)),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_study", "audit_event", ["study_instance_uid", "audit_id"])
    op.create_index("audit_by_job", "audit_event", ["job_id", "audit_id"])
    op.create_index("audit_by_time", "audit_event", ["at", "audit_id"])
    op.create_table("audit_unsent", sa.Column("audit_id", sa.BigInteger, primary_key=True, autoincrement=False))
