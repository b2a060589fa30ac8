"""``python -m oraculo_kit`` is ``oraculo``."""

import sys

from oraculo_kit.cli import main

if __name__ == "__main__":
    sys.exit(main())
