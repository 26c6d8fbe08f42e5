"""Why a study waits: how it has arrived so far, what its PACS says there is, and what it waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    for column in (
        sa.Column("first_arrival_at", INSTANT),
        sa.Column("longest_pause_s", sa.Float, nullable=False, server_default="0"),
        sa.Column("last_instance", sa.String(64)),
        sa.Column("instances", sa.Integer),
        sa.Column("stated", sa.JSON),
        sa.Column("waits_for", sa.Text, nullable=False, server_default=""),
        sa.Column("waits_until", INSTANT),
        sa.Column("stalled", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("read_asked_at", INSTANT),
    ):
        op.add_column("arriving_study", column)
