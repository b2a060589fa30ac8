"""The store in PostgreSQL with pgvector: `store` is the way in; see `oraculo_kit.storage.postgres.store`."""
