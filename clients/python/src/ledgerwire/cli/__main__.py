"""`python -m ledgerwire.cli`."""

import sys

from ledgerwire.cli import main

if __name__ == "__main__":
    sys.exit(main())
