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


def make_adapter(folder, model_folder, *, seed, targets=("attn1.to_q", "attn2.to_out.0", "ff.net.2")):
    """Write an adapter of random weights that changes every image."""
    import torch
    from peft import LoraConfig, get_peft_model_state_dict

    from dianjing import DiT, TextToImagePipeline

    transformer = DiT.from_pretrained(model_folder / "transformer")
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=list(targets), init_lora_weights=False))
    weights = {name: 2 * weight for name, weight in get_peft_model_state_dict(transformer).items()}
    metadata = transformer.peft_config["default"].to_dict()
    TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=metadata)
    return folder


def make_controlnet(folder, model_folder):
    """Write a ControlNet of random weights."""
    import torch
    from diffusers import HunyuanDiT2DControlNetModel

    from dianjing import DiT
    from dianjing.train.tasks.controlnet import SHARED_CONFIG_KEYS

    config = DiT.from_pretrained(model_folder / "transformer").config
    torch.manual_seed(0)
    shared = {name: config[name] for name in SHARED_CONFIG_KEYS}
    controlnet = HunyuanDiT2DControlNetModel(**shared, transformer_num_layers=4)  # one output, for one skip connection
    torch.nn.init.normal_(controlnet.input_block.weight)
    for block in controlnet.controlnet_blocks:
        torch.nn.init.normal_(block.weight, std=0.5)
    controlnet.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(tiny_video_folder, tmp_path_factory):
    """Two adapters of the tiny model, one at half strength."""
    from dianjing.pipelines.named_adapters import parse_adapters

    folder = tmp_path_factory.mktemp("adapters")
    robot = make_adapter(folder / "robot", tiny_video_folder, seed=1)
    ink = make_adapter(folder / "ink.v2", tiny_video_folder, seed=2, targets=("attn1.to_v", "ff.net.0.proj"))
    return parse_adapters([f"{robot}:0.5", str(ink)])


@pytest.fixture(scope="session")
def controlnet(tiny_video_folder, tmp_path_factory):
    """The folder of a ControlNet of the tiny model."""
    return make_controlnet(tmp_path_factory.mktemp("controlnets") / "edges", tiny_video_folder)


@pytest.fixture(scope="session")
def extended_engine(tiny_video_folder, adapters, controlnet):
    """An engine with both adapters and the ControlNet."""
    return make_engine(tiny_video_folder, adapters=adapters, controlnets={"edges": str(controlnet)})


def make_engine(model_folder, **options):
    """An engine whose weights are aligned in memory: products of unaligned ones are rounded differently."""
    import torch

    from dianjing.demo.engine import InferenceEngine

    engine = InferenceEngine.from_pretrained(str(model_folder), **options)
    for part in engine.text_to_image.components.values():
        for parameter in part.parameters() if isinstance(part, torch.nn.Module) else ():
            parameter.data = parameter.data.clone()
    return engine
