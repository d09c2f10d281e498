"""Runs migrations on the connection that it is given (see ``preferent.feedback.store.engine``)."""

from alembic import context

from preferent.feedback.store.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
