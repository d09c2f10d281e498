"""``python -m preferent`` is ``preferent``."""

import sys

from preferent.cli import main

if __name__ == "__main__":
    sys.exit(main())
