"""The picture sizes that Hunyuan-DiT was trained at."""

# (height, width) in px
TRAINED_SIZES = (
    (1024, 1024),
    (1280, 1280),
    (768, 1024),
    (864, 1152),
    (960, 1280),
    (768, 1280),
    (1024, 768),
    (1152, 864),
    (1280, 960),
    (1280, 768),
)


def nearest_trained_size(height: int, width: int) -> tuple[int, int]:
    """The trained (height, width) in px of the nearest shape, and of these the one of the nearest area."""

    def distance(size: tuple[int, int]) -> tuple[float, int]:
        return abs(size[1] / size[0] - width / height), abs(size[0] * size[1] - height * width)

    return min(TRAINED_SIZES, key=distance)
