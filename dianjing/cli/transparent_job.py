"""Videos without a background on the command line: what is checked before weights load."""

from pathlib import Path
from typing import TYPE_CHECKING

from dianjing.errors import DianjingError
from dianjing.pipelines.media.video import ALPHA_EXTENSIONS
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE
from dianjing.pipelines.prompting.motions import MOTIONS_FILE
from dianjing.pipelines.transparency.prompt_check import check_transparent_video_prompt
from dianjing.weights.resolve import resolve_local_model

if TYPE_CHECKING:
    from dianjing.cli.video_job import VideoJob

DEFAULT_ALPHA_EXTENSION = ".webp"
CONTINUATION_OPTIONS = ("long_video", "continuation_steps", "continuation_guidance_scale")


def check_alpha_path(path: Path) -> None:
    """Raise DianjingError for the path of a file that has no alpha channel."""
    if path.suffix.lower() not in ALPHA_EXTENSIONS:
        raise DianjingError("transparent_video_format", format=path.suffix, allowed=ALPHA_EXTENSIONS)


def check_transparent_job(job: "VideoJob") -> None:
    """Check a job without a background, before weights load. Raises: DianjingError."""
    if job.image_path is not None:
        if job.refine == "on":
            raise DianjingError("transparent_refined")
        if all(region.target == "image" for region in job.regions):
            raise DianjingError("transparent_without_region")
        return
    assert job.settings is not None
    if useless := [name for name in CONTINUATION_OPTIONS if job.settings.get(name) is not None]:
        raise DianjingError("transparent_without_continuation", options=useless)
    folder = resolve_local_model(job.model)
    if job.adapters or folder is None or not all((folder / name).is_file() for name in (CONCEPTS_FILE, MOTIONS_FILE)):
        return  # checked once it is loaded
    check_transparent_video_prompt(folder, job.prompt)
