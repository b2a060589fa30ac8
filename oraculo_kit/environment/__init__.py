"""The remote environment: ``.env`` and remote sources into ``os.environ``, all or nothing.

See `oraculo_kit.environment.plan` for how it works and whom it trusts.
"""

from oraculo_kit.environment.plan import EnvironmentPlan, apply_environ, fetch_environ, set_environ_remote
from oraculo_kit.environment.record import environ_origin, redact

__all__ = [
    "EnvironmentPlan",
    "apply_environ",
    "environ_origin",
    "fetch_environ",
    "redact",
    "set_environ_remote",
]
