"""`python -m flux_train` and `torchrun -m flux_train`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
