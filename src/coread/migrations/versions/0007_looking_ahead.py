"""Which worker has fetched the study of a job that nobody has claimed yet."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "looked_ahead",
        # No foreign key: PostgreSQL would lock the job's row while it is checked, and who claims skips what is locked.
        sa.Column("job_id", sa.String, primary_key=True),
        sa.Column("worker", sa.String, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
