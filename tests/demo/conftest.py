"""Workers over a engine that only counts, and over a tiny model."""

import threading
import time

import pytest

from dianjing.demo.jobs import JobResult, Progress
from dianjing.demo.limits import ModelCapabilities
from dianjing.pipelines.media.metadata import GenerationMetadata


class CountingEngine:
    """Stands for a `Studio`: each step waits for `gate`; what is drawn is written as text."""

    def __init__(self, *, step_s=0.0):
        self.capabilities = ModelCapabilities(
            model="counting", default_size_px=64, size_multiple_px=16, num_inference_steps=4, guidance_scale=1.0
        )
        self.gate = threading.Event()
        self.gate.set()
        self.step_s = step_s
        self.began, self.steps = [], 0
        self.freed = 0
        self.error = None

    def run(self, job, results, *, on_progress):
        self.began.append(job.request.prompt)
        total = job.request.num_inference_steps
        on_progress(Progress(step=0, total=total))
        for step in range(1, total + 1):
            self.gate.wait(10)
            time.sleep(self.step_s)
            self.steps += 1
            if self.error is not None:
                raise self.error
            on_progress(Progress(step=step, total=total))
        record = GenerationMetadata(
            prompt=job.request.prompt, seed=job.request.seed, settings={}, model="counting", version="0"
        )
        folder = results.root / job.id
        folder.mkdir()
        path = folder / "drawn.png"
        path.write_text(job.request.prompt)
        return JobResult(files=(path,), metadata=(record,))

    def free_memory(self):
        self.freed += 1


@pytest.fixture
def counting():
    return CountingEngine()


@pytest.fixture
def make_queue(counting):
    """A queue over `counting`, or over another engine, that is closed when the test is over."""
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
def tiny_engine(tiny_film_folder):
    """All kinds of requests, over random weights."""
    from dianjing.demo.engine import InferenceEngine

    return InferenceEngine.from_pretrained(str(tiny_film_folder))


@pytest.fixture(scope="session")
def image_engine(tiny_folder):
    """A model of pictures only."""
    from dianjing.demo.engine import InferenceEngine

    return InferenceEngine.from_pretrained(str(tiny_folder))
