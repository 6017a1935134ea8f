"""Rotary tables against their definition, computed in float64 for every token."""

import cmath

import pytest
import torch

from dianjing.dit.rope import apply_rotary_emb, get_grid_span, rope_2d, rotary_table_from_cos_sin

SIZES = [(4, 4), (5, 8), (8, 5), (1, 7), (64, 48), (48, 80)]


def definition(rows, columns, head_dim, base):
    """A complex number for every token and pair; the grid is scaled into base x base and centered."""
    larger = max(rows, columns)
    high, wide = round(base / larger * rows), round(base / larger * columns)
    top, left = round((base - high) / 2), round((base - wide) / 2)
    table = []
    for row in range(rows):
        for column in range(columns):
            y, x = top + row * high / rows, left + column * wide / columns
            steps = [10_000.0 ** (-2 * pair / (head_dim / 2)) for pair in range(head_dim // 4)]
            table.append([cmath.exp(1j * position * step) for position in (x, y) for step in steps])
    return torch.tensor(table, dtype=torch.complex128)


@pytest.mark.parametrize(("rows", "columns"), SIZES)
@pytest.mark.parametrize("head_dim", [8, 88])
def test_the_table_is_the_definition_for_square_and_other_sizes(rows, columns, head_dim):
    table = rope_2d(rows, columns, head_dim=head_dim, base_size=32)
    ours = torch.view_as_complex(table.double())
    assert (ours - definition(rows, columns, head_dim, 32)).abs().max() < 1e-5


def test_a_wide_grid_is_centered_in_the_base_square():
    assert get_grid_span(80, 48, base_size=32) == (0, 32)
    assert get_grid_span(48, 80, base_size=32) == (6, 25)


def test_rotation_keeps_length():
    x = torch.randn(2, 12, 3, 8)
    rotary_emb = rope_2d(3, 4, head_dim=8, base_size=32).unsqueeze(1)
    assert torch.allclose(apply_rotary_emb(x.clone(), rotary_emb).norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_complex_numbers_and_pairs_rotate_alike():
    x = torch.randn(2, 12, 3, 8)
    rotary_emb = rope_2d(3, 4, head_dim=8, base_size=32).unsqueeze(1)
    assert torch.allclose(
        apply_rotary_emb(x.clone(), torch.view_as_complex(rotary_emb)), apply_rotary_emb(x, rotary_emb), atol=1e-6
    )


def test_scores_depend_on_the_distance_only():
    query, key = torch.randn(8), torch.randn(8)
    rotary_emb = rope_2d(32, 32, head_dim=8, base_size=32).unsqueeze(1)
    rotated = [
        apply_rotary_emb(x.expand(1, 1024, 1, 8).clone(), rotary_emb)[0, :, 0].unflatten(0, (32, 32))
        for x in (query, key)
    ]
    near = rotated[0][3, 5] @ rotated[1][7, 6]
    far = rotated[0][20, 14] @ rotated[1][24, 15]
    assert torch.allclose(near, far, atol=1e-4)


def test_diffusers_doubled_values_are_read_back():
    table = rope_2d(3, 4, head_dim=8, base_size=32)
    cosine, sine = table.repeat_interleave(2, dim=1).unbind(-1)
    assert torch.equal(rotary_table_from_cos_sin(cosine, sine, device=table.device), table)
