"""Workers over a studio that only counts, and over a tiny model."""

import threading
import time

import pytest

from dianjing.demo.jobs import JobResult, Progress
from dianjing.demo.limits import ModelCapabilities
from dianjing.pipelines.media.metadata import GenerationMetadata


class CountingStudio:
    """Stands for a `Studio`: each step waits for `gate`; what is drawn is written as text."""

    def __init__(self, *, step_s=0.0):
        self.abilities = ModelCapabilities(
            model="counting", default_size_px=64, size_multiple_px=16, num_inference_steps=4, guidance_scale=1.0
        )
        self.gate = threading.Event()
        self.gate.set()
        self.step_s = step_s
        self.began, self.steps = [], 0
        self.freed = 0
        self.error = None

    def run(self, job, files, *, tell):
        self.began.append(job.request.prompt)
        total = job.request.num_inference_steps
        tell(Progress(step=0, total=total))
        for step in range(1, total + 1):
            self.gate.wait(10)
            time.sleep(self.step_s)
            self.steps += 1
            if self.error is not None:
                raise self.error
            tell(Progress(step=step, total=total))
        record = GenerationMetadata(
            prompt=job.request.prompt, seed=job.request.seed, settings={}, model="counting", version="0"
        )
        folder = files.root / job.id
        folder.mkdir()
        path = folder / "drawn.png"
        path.write_text(job.request.prompt)
        return JobResult(files=(path,), metadata=(record,))

    def free_memory(self):
        self.freed += 1


@pytest.fixture
def counting():
    return CountingStudio()


@pytest.fixture
def make_worker(counting):
    """A worker over `counting`, or over another studio, that is closed when the test is over."""
    from dianjing.demo.limits import ServerLimits
    from dianjing.demo.queue import JobQueue

    workers = []

    def make(studio=None, **limits):
        workers.append(JobQueue(studio or counting, ServerLimits(**limits)))
        return workers[-1]

    yield make
    counting.gate.set()
    for worker in workers:
        worker.close()


@pytest.fixture(scope="session")
def tiny_studio(tiny_film_folder):
    """All kinds of requests, over random weights."""
    from dianjing.demo.engine import InferenceEngine

    return InferenceEngine.from_pretrained(str(tiny_film_folder))


@pytest.fixture(scope="session")
def picture_studio(tiny_folder):
    """A model of pictures only."""
    from dianjing.demo.engine import InferenceEngine

    return InferenceEngine.from_pretrained(str(tiny_folder))
