"""What stands behind `oraculo_kit.embed.Embedder`; its parts, by what they are for.

::

    models      static (the default) | transformers (sentence-transformers) | providers (by name) | objects (given)
    work        asking | options | batching (local models) | requesting (remote ones) | failures (what to try again)
    results     checking | cache
"""
