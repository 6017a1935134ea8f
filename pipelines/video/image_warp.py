"""Image warp: regions of an image move along paths and by motion phrases, at its own size and in its own pixels.

R regions, F frames, H height, W width, C channels: RGB, or RGB and alpha. Points are (x, y) in px of the image.
Frames are made one by one, region by region, in strips of the box that a region covers, so that memory is bounded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dianjing.pipelines.video.camera import CameraMove
from dianjing.pipelines.video.motion_path import Similarity
from dianjing.pipelines.video.region_layers import LayeredImage, RegionLayer, divide_by_alpha, premultiply

# distance of the points at which a motion is computed, in large and in small images; linear in between
CELL_PX, SMALL_CELL_PX = 8, 2
SMALL_SIDE_PX = 256
STRIP_PIXELS = 1_000_000
XY = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class RegionMotion:
    """The motion of a region: a similarity for each frame, then the flow of a phrase, both weighted where it bends.

    pivot: of turn and scale. flow: backward, float32 (F, G, G, 2) in sides of the square (left, top, side) in px; None
    without a phrase. bend_weight: (h, w) over the whole image, None for a region that moves as a whole.
    """

    similarities: Sequence[Similarity]
    pivot: XY
    flow: np.ndarray | None = None
    square: tuple[float, float, float] = (0.0, 0.0, 1.0)
    bend_weight: np.ndarray | None = None

    def map_backward(
        self, x: np.ndarray, y: np.ndarray, frame_index: int, *, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map points (h, w) of a frame to those of the image, of (width, height) px, that they show."""
        similarity = self.similarities[frame_index]
        weight: np.ndarray | float = 1.0
        if self.bend_weight is not None:
            rows, columns = self.bend_weight.shape
            weight = sample_linear(self.bend_weight, x * (columns / size[0]) - 0.5, y * (rows / size[1]) - 0.5)
        x, y = similarity.invert_points(x, y, pivot=self.pivot, weight=weight)
        if self.flow is None:
            return x, y
        left, top, side = self.square
        cells = self.flow.shape[1] - 1
        flow = sample_linear(self.flow[frame_index], (x - left) / side * cells, (y - top) / side * cells)
        return x + side * weight * flow[..., 0], y + side * weight * flow[..., 1]


def sample_linear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample values (h, w, ...) at positions in cells, linearly and in floats, which OpenCV's remap rounds to 1/32."""
    rows, columns = values.shape[:2]
    x, y = np.clip(x, 0, columns - 1), np.clip(y, 0, rows - 1)
    x0, y0 = np.minimum(x.astype(int), max(columns - 2, 0)), np.minimum(y.astype(int), max(rows - 2, 0))
    x1, y1 = np.minimum(x0 + 1, columns - 1), np.minimum(y0 + 1, rows - 1)
    trailing = (...,) + (None,) * (values.ndim - 2)
    across, down = (x - x0)[trailing], (y - y0)[trailing]
    above = values[y0, x0] * (1 - across) + values[y0, x1] * across
    below = values[y1, x0] * (1 - across) + values[y1, x1] * across
    return above * (1 - down) + below * down


@dataclass(frozen=True, kw_only=True)
class CellMap:
    """A backward map (x, y) at the centers of cells of cell_px, float (h + 2, w + 2), with a cell around the image."""

    x: np.ndarray
    y: np.ndarray
    cell_px: int

    def measure_shrinking(self, selected: np.ndarray) -> float:
        """Median of how many px of the image are one px of the frame, over the selected cells."""
        a, b = (np.gradient(part, self.cell_px) for part in (self.x, self.y))
        areas = np.abs(a[1] * b[0] - a[0] * b[1])
        return float(np.median(areas[selected])) ** 0.5

    def list_strips(
        self, first_row: int, last_row: int, columns: slice, *, size: tuple[int, int]
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield strips of rows of px, and the map (x, y) of each at these columns of px, which begin with a cell."""
        first_column, last_column = columns.start // self.cell_px, -(-columns.stop // self.cell_px)
        num_rows = max(1, STRIP_PIXELS // (self.cell_px * max(1, columns.stop - columns.start)))
        right = min(columns.stop, size[1])
        for start in range(first_row, last_row, num_rows):
            stop = min(start + num_rows, last_row)
            rows = slice(start * self.cell_px, min(stop * self.cell_px, size[0]))
            parts = []
            for values in (self.x, self.y):
                cells = values[start : stop + 2, first_column : last_column + 2].astype(np.float32)
                enlarged = cv2.resize(cells, None, fx=self.cell_px, fy=self.cell_px, interpolation=cv2.INTER_LINEAR)
                inner = enlarged[self.cell_px :, self.cell_px :]
                parts.append(inner[: rows.stop - rows.start, : right - columns.start])
            yield rows, parts[0], parts[1]


def _remap(pixels: np.ndarray, x: np.ndarray, y: np.ndarray, *, border: int) -> np.ndarray:
    """Sample pixels (h, w, C) at positions in px, by bicubic interpolation of up to four channels at a time."""
    parts = [
        cv2.remap(np.ascontiguousarray(pixels[..., first : first + 4]), x, y, cv2.INTER_CUBIC, borderMode=border)
        for first in range(0, pixels.shape[2], 4)
    ]
    return np.concatenate([part.reshape(*x.shape, -1) for part in parts], axis=-1)


@dataclass(frozen=True, kw_only=True)
class ImageWarp:
    """A video of an image whose layers move: a sequence of frames, each made when it is asked for.

    motions: one for each layer. shadow_motions: the same for their shadows, shadow_strengths: how much of each is left
    in each frame. camera: moves the whole image.
    """

    layered: LayeredImage
    motions: Sequence[RegionMotion]
    shadow_motions: Sequence[RegionMotion]
    shadow_strengths: Sequence[Sequence[float]]
    camera: CameraMove | None
    num_frames: int

    def __len__(self) -> int:
        return self.num_frames

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, C), as that of an array of the frames."""
        return (self.num_frames, *self.layered.image.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 (H, W, C)."""
        return (self.render(index)[0] for index in range(self.num_frames))

    def render(self, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Render a frame, uint8 (H, W, C), and the mask, bool (H, W), of what regions cover in it.

        The first frame is the image. In every frame, the pixels that no region covers, in it or in the first one, are
        those of the image. A region covers its shadow as well, a camera move all of the image, of which the first frame
        then shows a view.
        """
        layered, camera = self.layered, self.camera
        is_full_view = camera is None or camera.shows_image(frame_index, size=layered.occupied.shape[::-1])
        if frame_index == 0 and is_full_view:
            return layered.image.copy(), layered.occupied | (camera is not None)
        canvas, covered = self._compose(frame_index)
        if camera is not None and not is_full_view:
            canvas, covered = self._move_camera(canvas, camera, frame_index), np.ones_like(covered)
        if canvas.shape[2] == 4:
            changed = covered | layered.occupied
            pixels = divide_by_alpha(canvas[changed].astype(np.float32)).round().clip(0, 255)
            canvas = layered.image.copy()
            canvas[changed] = pixels
        return canvas, covered | (camera is not None)

    def _compose(self, frame_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Put all layers onto the background: a frame before the camera moves, and the mask of what they cover."""
        layered = self.layered
        if frame_index == 0:
            return premultiply(layered.image).copy(), layered.occupied.copy()
        canvas, covered = layered.background.copy(), np.zeros(layered.occupied.shape, bool)
        for shadow, motion, strengths in zip(layered.shadows, self.shadow_motions, self.shadow_strengths, strict=True):
            if shadow is not None:
                self._composite(canvas, covered, shadow, motion, frame_index, strength=strengths[frame_index])
        for layer, motion in zip(layered.layers, self.motions, strict=True):
            self._composite(canvas, covered, layer, motion, frame_index)
        return canvas, covered

    def _composite(
        self,
        canvas: np.ndarray,
        covered: np.ndarray,
        layer: RegionLayer,
        motion: RegionMotion,
        frame_index: int,
        *,
        strength: float = 1.0,
    ) -> None:
        """Put a layer where its motion takes it: onto the canvas, and into the mask of what is covered.

        strength: how much of the layer is left, from 0 to 1.
        """
        cells = self._map_cells(motion, frame_index)
        x, y = cells.x - layer.left, cells.y - layer.top
        height, width = layer.pixels.shape[:2]
        margin_x, margin_y = (1 + float(np.abs(np.diff(part, axis=a)).max()) for part, a in ((x, 1), (y, 0)))
        is_near = (x > -margin_x) & (x < width + margin_x) & (y > -margin_y) & (y < height + margin_y)
        boxes = [np.nonzero(is_near[1:-1, 1:-1].any(axis=axis))[0] for axis in (1, 0)]
        if not len(boxes[0]):
            return
        columns = slice(boxes[1][0] * cells.cell_px, (boxes[1][-1] + 1) * cells.cell_px)
        level = int(np.clip(np.log2(max(1.0, cells.measure_shrinking(is_near))), 0, len(layer.levels) - 1))
        pixels = layer.levels[level]
        for rows, map_x, map_y in cells.list_strips(boxes[0][0], boxes[0][-1] + 1, columns, size=canvas.shape[:2]):
            map_x, map_y = (
                (part - start) / 2**level - 0.5 for part, start in ((map_x, layer.left), (map_y, layer.top))
            )
            warped = strength * _remap(pixels, map_x, map_y, border=cv2.BORDER_CONSTANT)
            area = rows, slice(columns.start, columns.start + map_x.shape[1])
            opacity = warped[..., -1:].clip(0, 1)
            is_covered = opacity[..., 0] > 0
            composite = canvas[area] * (1 - opacity) + warped[..., :-1]
            canvas[area] = np.where(is_covered[..., None], composite.round().clip(0, 255), canvas[area])
            covered[area] |= is_covered

    def _map_cells(self, motion: RegionMotion | CameraMove, frame_index: int) -> CellMap:
        """Map the centers of cells, and of one more around the image, backward."""
        height, width = self.layered.image.shape[:2]
        cell_px = CELL_PX if max(height, width) > SMALL_SIDE_PX else SMALL_CELL_PX
        x, y = ((np.arange(-1, -(-side // cell_px) + 1) + 0.5) * cell_px for side in (width, height))
        x, y = motion.map_backward(*np.meshgrid(x, y), frame_index, size=(width, height))
        return CellMap(x=x, y=y, cell_px=cell_px)

    def _move_camera(self, canvas: np.ndarray, camera: CameraMove, frame_index: int) -> np.ndarray:
        """Show what a camera sees of a whole frame."""
        cells, moved = self._map_cells(camera, frame_index), np.empty_like(canvas)
        columns = slice(0, canvas.shape[1])
        for rows, map_x, map_y in cells.list_strips(0, cells.x.shape[0] - 2, columns, size=canvas.shape[:2]):
            moved[rows] = _remap(canvas, map_x - 0.5, map_y - 0.5, border=cv2.BORDER_REPLICATE)
        return moved
