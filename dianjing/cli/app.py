"""The command `dianjing`: its subcommands, exit codes and error messages. Nothing heavy is imported here.

Exit codes: 0 done, 1 failed, 2 wrong input, 130 stopped by Ctrl-C; `train` has codes of its own.
Results go to stdout (as JSON with --json), everything else to stderr.
"""

import sys
import traceback

import typer

from dianjing.cli.animate import animate
from dianjing.cli.bench import bench
from dianjing.cli.chat import chat
from dianjing.cli.convert import convert
from dianjing.cli.demo import demo
from dianjing.cli.doctor import doctor
from dianjing.cli.edit import edit
from dianjing.cli.image import image
from dianjing.cli.models import models
from dianjing.cli.options import CliState, VersionOption, format_error
from dianjing.cli.stickers import stickers
from dianjing.cli.train import train
from dianjing.cli.usage_errors import convert_usage_error, is_usage_error
from dianjing.cli.video import video
from dianjing.errors import DianjingError, convert_system_error, get_language

MAX_REASON_LENGTH = 300  # --debug prints the whole error

app = typer.Typer(
    name="dianjing",
    help="Dianjing 点睛: images and videos from text in Chinese or English, and animation of images by a click.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def configure(version: VersionOption = False) -> None:
    pass


app.command(short_help="Generate images from text.")(image)
app.command(short_help="Edit an image: all of it, a part of it, or beyond its border.")(edit)
app.command(short_help="Generate a video from text.")(video)
app.command(short_help="Animate the parts of an image that are clicked on.")(animate)
app.command(short_help="Generate and edit an image in a conversation.")(chat)
app.command(short_help="Make an album of animated stickers.")(stickers)
app.command(short_help="Open the web demo, with the same functions over HTTP.")(demo)
app.command(short_help="Convert weights between published formats.")(convert)
app.command(short_help="List the models known by name.")(models)
app.command(short_help="Check this installation.")(doctor)
app.command(short_help="Train, or fine-tune on images of your own.")(train)
app.command(short_help="Compare speed with diffusers.")(bench)


def print_error(error: Exception, *, debug: bool) -> int:
    """Print an error on stderr, in the user's language, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    user_error = convert_system_error(error)
    if user_error is None:  # a fault of this package
        first_line = next(iter(str(error).splitlines()), "")  # libraries list weights and configurations below it
        reason = f"{type(error).__name__}: {first_line[:MAX_REASON_LENGTH]}"
        user_error = DianjingError("internal_error", reason=reason)
    print(format_error(user_error.render(get_language())), file=sys.stderr)
    return 2 if isinstance(error, DianjingError) else 1


def main() -> None:
    """Run the command line of this process and exit."""
    state = CliState()
    try:
        code = app(standalone_mode=False, obj=state)  # Typer turns Ctrl-C into 130
    except Exception as error:
        usage_error = convert_usage_error(error) if is_usage_error(error) else error
        if usage_error is None:  # a bare command prints its help
            error.show()  # type: ignore[attr-defined]
            code = 2
        else:
            code = print_error(usage_error, debug=state.debug)
    sys.exit(code if isinstance(code, int) else 0)
