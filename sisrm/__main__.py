"""`python -m sisrm`."""

import sys

from sisrm.cli import main

if __name__ == "__main__":
    sys.exit(main())
