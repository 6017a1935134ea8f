"""The command `dianjing doctor`: check this installation."""

import typer

from dianjing.cli.options import DebugOption, JsonOption, print_json


def doctor(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check this installation: libraries, devices, weights, places to write."""
    from dianjing.cli.doctor_checks import run_checks

    findings = run_checks()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.status:8}{finding.name:20}{finding.detail}")
    if any(finding.status == "error" for finding in findings):
        raise typer.Exit(1)
