"""The command `dianjing stickers`. Nothing heavy is imported before it runs."""

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

import dianjing
from dianjing.cli.options import (
    DebugOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    JsonOption,
    LabelOption,
    ModelOption,
    ProducerOption,
    SeedOption,
    SlowOption,
    SourceOption,
    print_json,
)
from dianjing.errors import get_language


def stickers(
    themes: Annotated[list[str], typer.Argument(metavar="THEME", help="An object, such as cat or 红色的汽车.")],
    album: Annotated[Path, typer.Option(help="A new folder for the files of the album.")],
    count: Annotated[
        int | None,
        typer.Option(
            help="8, 16 or 24 stickers: the themes in turn, each with other motions.",
            show_default="the fewest that show every theme",
        ),
    ] = None,
    seed: SeedOption = None,
    slow: SlowOption = None,
    model: ModelOption = "sticker",
    source: SourceOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.auto,
    label: LabelOption = True,
    producer: ProducerOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make an album of animated stickers with transparent backgrounds, as the WeChat sticker platform takes it."""
    from dianjing.cli import stickers_job
    from dianjing.pipelines.media.aigc_label import PRODUCER

    job = stickers_job.validate_stickers_job(
        themes,
        folder=album,
        count=count,
        seed=secrets.randbelow(2**32) if seed is None else seed,
        slow=slow,
        model=model,
        device=device,
        dtype=dtype.value,
        producer=(producer or PRODUCER) if label else None,
    )
    for warning in stickers_job.list_theme_warnings(job):
        print(warning.render(get_language()), file=sys.stderr, flush=True)
    result = stickers_job.run_stickers_job(job)
    if as_json:
        print_json({"version": dianjing.__version__, **result})
        return
    for path in result["paths"]:
        print(path, flush=True)
