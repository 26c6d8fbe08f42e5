"""How far Orthanc's own database is known to say that its change log was taken in: one that says less was restored."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("archive_cursor", sa.Column("watermark", sa.BigInteger, nullable=False, server_default="0"))
