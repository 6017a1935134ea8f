"""Announcements before a run: a size that the model was not trained for, and the time that a long run takes."""

import sys
from collections.abc import Sequence
from typing import Any

from dianjing.errors import Message, get_language
from dianjing.pipelines.named_adapters import NamedAdapter

MIN_MEASURED_FLOPS = 1e11  # two seconds of two CPU cores: measuring the machine takes about one


def announce_run(pipe: Any, model: str, requests: Sequence[Any], *, adapters: Sequence[NamedAdapter] = ()) -> None:
    """Print on stderr what the user should know before requests of `dianjing.demo.requests` run on a pipeline.

    adapters: those that are active in it.
    """
    from dianjing.demo.capabilities import get_capabilities
    from dianjing.demo.extensions import describe_adapters
    from dianjing.pipelines.cost_model import LONG_RUN_S, CostModel, TransformerShape, describe_duration
    from dianjing.weights.description import describe_model
    from dianjing.weights.resolve import resolve_model

    video_pipe = pipe if "default_num_frames" in pipe.config else None
    description, infos = describe_model(model, resolve_model(model)), describe_adapters(adapters)
    capabilities = get_capabilities(pipe, video_pipe, description=description, adapters=infos)
    requests = [request.with_defaults(capabilities) for request in requests]
    lines = [warning for request in requests for warning in request.list_warnings(capabilities)]
    work = [(request.list_work(capabilities), *request.get_size(capabilities)) for request in requests]
    shape = TransformerShape.from_transformer(pipe.transformer, vae_scale_factor=pipe.vae_scale_factor)
    flops = sum(
        run.num_steps * shape.count_step_flops(run, width=width, height=height)
        for runs, width, height in work
        for run in runs
    )
    if flops >= MIN_MEASURED_FLOPS:
        cost_model = CostModel.measure(pipe)
        seconds = sum(cost_model.predict_s(runs, width=width, height=height) for runs, width, height in work)
        if seconds > LONG_RUN_S:
            lines.append(Message("run_takes_long", duration=describe_duration(seconds)))
    for line in dict.fromkeys(line.render(get_language()) for line in lines):
        print(line, file=sys.stderr, flush=True)


def announce_published_run(model: Any, work: Any, *, device: str, dtype: Any) -> None:
    """Print on stderr how long a video of a published model takes, if that is long, before its weights load."""
    from dianjing.pipelines.cost_model import LONG_RUN_S, describe_duration
    from dianjing.pipelines.video.published_cost import PublishedCostModel

    seconds = PublishedCostModel(device=device, dtype=dtype).predict_s(model, work)
    if seconds > LONG_RUN_S:
        message = Message("run_takes_long_estimate", duration=describe_duration(seconds))
        print(message.render(get_language()), file=sys.stderr, flush=True)


def make_video_request(job: Any) -> Any:
    """Make the request that takes as long as a `VideoJob`."""
    from dianjing.demo.requests import ImageToVideoRequest, TextToVideoRequest
    from dianjing.pipelines.media.image import open_image

    settings = {"prompt": job.prompt, "seed": job.seed, **job.settings}
    settings["guidance_mode"] = settings.pop("guider")
    if job.image_path is None:
        return TextToVideoRequest(**settings)
    return ImageToVideoRequest(image=open_image(job.image_path), regions=job.regions, **settings)
