"""What is watched while Coread runs: of which kind a reason is, which processes live, what was counted so far."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("job_event", sa.Column("reason_class", sa.String(32)))
    op.create_index("job_to_count", "job", ["state", "queue", "priority", "model"])
    op.create_index("raised_standing", "raised_study", ["ended_at", "alert"])
    op.create_table(
        "process",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("clock_offset_s", sa.Float, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False),
    )
    op.create_table(
        "counted",
        sa.Column("counted_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("edition", sa.Integer, nullable=False),
        sa.Column("marks", sa.JSON, nullable=False),
        sa.Column("totals", sa.JSON, nullable=False),
    )
