"""Frames of `dianjing video`: what a loaded pipeline generates from the prompt of a job."""

from typing import TYPE_CHECKING, Any

from dianjing.cli.announcements import announce_run, make_video_request

if TYPE_CHECKING:
    from dianjing.cli.video_job import VideoJob


def generate_frames(pipe: Any, job: "VideoJob") -> Any:
    """Generate the frames of a text-to-video job: uint8 (F, H, W, 3), or (F, H, W, 4) that are made one by one."""
    import torch

    assert job.settings is not None
    announce_run(pipe, job.model, [make_video_request(job)], adapters=job.adapters)
    arguments = {name: value for name, value in job.settings.items() if value is not None}
    arguments["generator"] = torch.Generator().manual_seed(job.seed)
    if job.is_transparent:
        return pipe.generate_transparent(job.prompt, **arguments).frames
    return pipe(job.prompt, output_type="uint8", **arguments).frames[0]
