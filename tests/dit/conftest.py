"""Small models with random weights everywhere, and inputs for them."""

import pytest
import torch

from dianjing import DiT

CONFIG = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "in_channels": 4,
    "patch_size": 2,
    "num_layers": 4,
    "mlp_ratio": 2.0,
    "cross_attention_dim": 12,
    "cross_attention_dim_t5": 16,
    "pooled_projection_dim": 8,
    "text_len": 5,
    "text_len_t5": 6,
    "sample_size": 8,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_model():
    """A DiT of a small configuration; norms get random weights too, so that leaving one out shows."""

    def make(**changes) -> DiT:
        torch.manual_seed(0)
        model = DiT(**{**CONFIG, **changes}).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name and "linear" not in name:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def make_text():
    """The text inputs of `DiT.forward` and `DiT.compute_conditioning`; about a third of the tokens is absent."""

    def make(model: DiT, *, batch_size: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        config = model.config

        def sample(*shape):
            return torch.randn(*shape, generator=generator)

        inputs = {
            "encoder_hidden_states": sample(batch_size, config.text_len, config.cross_attention_dim),
            "text_embedding_mask": (sample(batch_size, config.text_len) < 0.5).long(),
            "encoder_hidden_states_t5": sample(batch_size, config.text_len_t5, config.cross_attention_dim_t5),
            "text_embedding_mask_t5": (sample(batch_size, config.text_len_t5) < 0.5).long(),
        }
        if config.use_style_cond_and_image_meta_size:
            inputs["image_meta_size"] = 500 + 100 * sample(batch_size, 6)
            inputs["style"] = torch.zeros(batch_size, dtype=torch.long)
        return inputs

    return make
