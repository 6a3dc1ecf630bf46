"""`python -m chiasm` is the same as `chiasm`."""

import sys

from chiasm.cli import main

if __name__ == "__main__":
    sys.exit(main())
