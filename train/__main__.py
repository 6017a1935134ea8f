"""Train from a run file: `python -m dianjing.train CONFIG`."""

import sys

from dianjing.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
