"""The command `dianjing doctor`: check this installation."""

import typer

from dianjing.cli.options import DebugOption, JsonOption, print_json


def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check this installation: libraries, devices, weights and writable folders."""
    from dianjing.cli.doctor_checks import run_checks

    results = run_checks()
    if as_json:
        print_json([vars(result) for result in results])
    else:
        for result in results:
            print(f"{result.status:8}{result.name:20}{result.detail}")
    if any(result.status == "error" for result in results):
        raise typer.Exit(1)
