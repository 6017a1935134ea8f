"""Queues over an engine that only counts, and over a tiny model."""

import threading

import pytest

from dianjing.demo.jobs import JobResult, Progress
from dianjing.demo.limits import ModelCapabilities
from dianjing.pipelines.media.metadata import GenerationMetadata


class CountingEngine:
    """Stands in for an `InferenceEngine`: each step waits for `gate`, or for the job to be cancelled.

    The result is the prompt as text.
    """

    def __init__(self):
        self.capabilities = ModelCapabilities(
            model="counting", default_size_px=64, size_multiple_px=16, num_inference_steps=4, guidance_scale=1.0
        )
        self.gate = threading.Event()
        self.gate.set()
        self.waits_for_cancel = False
        self.started_prompts = []
        self.num_steps = 0
        self.num_memory_releases = 0
        self.error = None

    def run(self, job, results, *, on_progress):
        self.started_prompts.append(job.request.prompt)
        total = job.request.num_inference_steps
        on_progress(Progress(step=0, total=total))
        for step in range(1, total + 1):
            (job.cancel_requested if self.waits_for_cancel else self.gate).wait(120)
            self.num_steps += 1
            if self.error is not None:
                raise self.error
            on_progress(Progress(step=step, total=total))
        metadata = GenerationMetadata(
            prompt=job.request.prompt, seed=job.request.seed, settings={}, model="counting", version="0"
        )
        folder = results.root / job.id
        folder.mkdir()
        path = folder / "result.png"
        path.write_text(job.request.prompt)
        return JobResult(files=(path,), metadata=(metadata,))

    def predict_s(self, request):
        """A second for each step of each image."""
        return sum(work.num_frames * work.num_steps for work in request.list_work(self.capabilities))

    def free_memory(self):
        self.num_memory_releases += 1


@pytest.fixture
def counting():
    return CountingEngine()


@pytest.fixture
def make_queue(counting):
    """Make queues over `counting` or another engine, and close them after the test."""
    from dianjing.demo.limits import ServerLimits
    from dianjing.demo.queue import JobQueue

    queues = []

    def make(engine=None, **limits):
        queues.append(JobQueue(engine or counting, ServerLimits(**limits)))
        return queues[-1]

    yield make
    counting.gate.set()
    for queue in queues:
        queue.close()


@pytest.fixture(scope="session")
def tiny_engine(tiny_video_folder):
    """An engine for all kinds of requests, with random weights; its predictions do not depend on this machine."""
    from dianjing.demo.engine import InferenceEngine
    from dianjing.pipelines.cost_model import CostModel

    engine = InferenceEngine.from_pretrained(str(tiny_video_folder))
    shape = engine.cost_model.shape
    engine.cost_model = CostModel(shape, step_overhead_s=0.005, flops_per_s=1e9, decode_s_per_pixel=1e-6)
    engine.cost_model.add_run = lambda **durations: None
    return engine


@pytest.fixture(scope="session")
def image_engine(tiny_folder):
    """An engine over a model without motion blocks."""
    from dianjing.demo.engine import InferenceEngine

    return InferenceEngine.from_pretrained(str(tiny_folder))
