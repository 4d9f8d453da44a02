"""`python -m gorun`: see `gorun._cli`."""

import sys

from gorun._cli import main

if __name__ == "__main__":  # also imported by the worker processes of `map`
    sys.exit(main())
