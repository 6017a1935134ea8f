"""Run the benchmarks: `python -m benchmarks` is `dianjing bench`."""

import sys

from dianjing.cli.app import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench"]
    main()
