"""The flow field predicts backward flow from a phrase, a strength and a region."""

import torch

from dianjing.dit.motion.flow_field import FlowField, cell_centers, grid_points, region_moments

ROWS, COLUMNS, FRAMES = 4, 8, 3
PHRASES = torch.eye(8)[:2, None]  # two phrases of one token


def make_inputs(phrase=0, *, strength=0.5, mask=None):
    mask = torch.ones(1, 1, ROWS, COLUMNS) if mask is None else mask
    return PHRASES[phrase].view(1, 1, 1, 8), torch.ones(1, 1, 1), torch.tensor([[strength]]), region_moments(mask)


@torch.no_grad()
def test_nothing_moves_before_training():
    torch.manual_seed(0)
    assert FlowField(8)(*make_inputs(), num_frames=FRAMES, points=grid_points(3)).abs().max() < 1e-6


@torch.no_grad()
def test_flow_at_a_point_does_not_depend_on_the_other_points():
    torch.manual_seed(0)
    field = FlowField(8)
    for layer in (field.affine, field.residual):
        layer.weight.normal_()
    few, many = (
        field(*make_inputs(), num_frames=FRAMES, points=grid_points(side)).unflatten(3, (side, side)) for side in (3, 9)
    )
    torch.testing.assert_close(many[..., ::4, ::4, :], few)


def test_grid_points_reach_the_borders():
    assert grid_points(3).tolist() == [[x, y] for y in (0, 0.5, 1) for x in (0, 0.5, 1)]


def test_moments_of_a_region_are_its_center_and_standard_deviation():
    mask = torch.zeros(1, 2, ROWS, COLUMNS)
    mask[0, 0, 1:3, 6:8] = 1
    moments = region_moments(mask)[0]
    torch.testing.assert_close(moments[0], torch.tensor([7 / 8, 0.5, 0.5 / 8, 0.5 / 4]))
    torch.testing.assert_close(moments[1], torch.tensor([0.5, 0.5, 0.0, 0.0]))


def test_the_center_of_a_region_is_that_of_its_box_even_with_a_stray_pixel():
    umbrella = torch.zeros(1, 1, 64, 64)
    umbrella[..., 4:24, 10:60] = 1
    umbrella[..., 24:54, 33:37] = 1
    umbrella[..., 62, 62] = 1
    torch.testing.assert_close(region_moments(umbrella)[0, 0, :2], torch.tensor([35.0, 29.0]) / 64)


def test_it_learns_a_shift_and_a_rotation_for_new_strengths_and_positions():
    torch.manual_seed(0)
    field = FlowField(8)
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    points = cell_centers(ROWS, COLUMNS)
    time = torch.arange(FRAMES).view(-1, 1)

    def error():
        row, column = (int(torch.randint(0, limit, (), generator=generator)) for limit in (ROWS - 1, COLUMNS - 1))
        mask = torch.zeros(1, 1, ROWS, COLUMNS)
        mask[..., row : row + 2, column : column + 2] = 1
        strength = float(torch.rand((), generator=generator))
        center = region_moments(mask)[0, 0, :2]
        shift = torch.stack([-0.1 * strength * time.expand(-1, len(points)), torch.zeros(FRAMES, len(points))], dim=-1)
        angle = 0.3 * strength * time
        offset = points - center
        rotated = torch.stack(
            [
                angle.cos() * offset[:, 0] - angle.sin() * offset[:, 1],
                angle.sin() * offset[:, 0] + angle.cos() * offset[:, 1],
            ],
            dim=-1,
        )
        errors = [
            (field(*make_inputs(phrase, strength=strength, mask=mask), num_frames=FRAMES, points=points)[0, 0] - truth)
            .square()
            .mean()
            for phrase, truth in enumerate((shift, rotated - offset))
        ]
        return sum(errors)

    before = sum(error().item() for _ in range(20))
    for _ in range(200):
        optimizer.zero_grad()
        sum(error() for _ in range(8)).backward()
        optimizer.step()
    assert sum(error().item() for _ in range(20)) < 0.05 * before
