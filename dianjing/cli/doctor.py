"""The command `dianjing doctor`: check this installation."""

import typer

from dianjing.cli.options import DebugOption, JsonOption, print_json
from dianjing.errors import get_language


def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check this installation: libraries, devices, weights and writable folders."""
    from dianjing.cli.doctor_checks import format_check, run_checks

    results = run_checks()
    if as_json:
        print_json([{key: str(value) for key, value in vars(result).items()} for result in results])
    else:
        for result in results:
            print(format_check(result, get_language()))
    if any(result.status == "error" for result in results):
        raise typer.Exit(1)
