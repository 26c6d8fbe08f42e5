"""Studies that a finding has raised, who is to be told of it, and which jobs' priority a person has set."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("job", sa.Column("priority_by_person", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "finding_due",
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "raised_study",
        sa.Column("raise_id", sa.Integer, primary_key=True),
        sa.Column("alert", sa.String, nullable=False),
        sa.Column("orthanc_id", sa.String, nullable=False, index=True),
        sa.Column("study_instance_uid", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False, index=True),
        sa.Column("priority", sa.String),
        sa.Column("label", sa.String),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("ended_because", sa.Text, nullable=False, server_default=""),
    )
    op.create_table(
        "notice",
        sa.Column("notice_id", sa.Integer, primary_key=True),
        sa.Column("key", sa.String, nullable=False, unique=True),
        sa.Column("raise_id", sa.Integer, sa.ForeignKey("raised_study.raise_id"), nullable=False),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("event", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_notice_state_not_before", "notice", ["state", "channel", "not_before"])
