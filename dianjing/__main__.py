"""Run the command line: `python -m dianjing` is the command `dianjing`."""

from dianjing.cli.app import main

if __name__ == "__main__":
    main()
