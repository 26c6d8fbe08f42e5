"""Alembic's entry point. The ledger hands over its open connection; there is no alembic.ini."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
