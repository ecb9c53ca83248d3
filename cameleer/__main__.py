"""``python -m cameleer``."""

import sys

from cameleer.cli import main

if __name__ == "__main__":
    sys.exit(main())
