"""One sample on two processes, by diffusers' context parallelism."""

import socket
from pathlib import Path

import torch
import torch.multiprocessing as mp

LATENTS = (2, 4, 8, 12)


def predict_on_two(rank, port, config, folder):
    from diffusers import ContextParallelConfig

    from dianjing import DiT

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if torch.accelerator.device_count() == 0:
        torch.accelerator.device_count = lambda: 1  # diffusers divides by it, also on a CPU
    torch.manual_seed(0)
    model = DiT(**config).eval()
    latents = torch.randn(LATENTS)
    text = {
        "encoder_hidden_states": torch.randn(2, config["text_len"], config["cross_attention_dim"]),
        "encoder_hidden_states_t5": torch.randn(2, config["text_len_t5"], config["cross_attention_dim_t5"]),
    }
    timesteps = torch.tensor([900.0, 500.0])
    with torch.no_grad():
        single = model(latents, timesteps[1:], **text).sample
        model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
        conditioning = model.compute_conditioning(timesteps, **text, latent_size=LATENTS[-2:]).select_step(1)
        parallel = [model(latents, timesteps[1:], **text).sample, model(latents, conditioning=conditioning).sample]
    torch.save([float((sample - single).abs().max()) for sample in parallel], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_predict_what_one_predicts(make_model, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the processes import this module
    config = dict(make_model(num_attention_heads=4, use_style_cond_and_image_meta_size=False).config)
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(predict_on_two, (port, config, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert max(torch.load(tmp_path / f"{rank}.pt")) <= 1e-5
