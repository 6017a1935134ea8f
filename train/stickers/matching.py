"""Template matching of images of the sticker world: the background, and each object with box and colour.

Legend: T templates, S image side, s template side in the coarse image, Y, X rows and columns of any image; colours are
floats on [0, 1].

An image I is explained as a known background B with sprites composited over it. A sprite with premultiplied colour p
and coverage a changes the background at some offset by t = p - a B. With D = I - B, the squared error that it removes
is gain = |D|^2 - |D - t|^2 = 2 D.t - |t|^2, and a |D|^2 is the error under it (sums over pixels and colours). The score

    2 gain - a|D|^2 = 4 D.p - 4 a D.B - 2 |p|^2 + 4 a p.B - 2 a^2 |B|^2 - a |D|^2

is positive where a sprite explains more than half of what it covers. It is four correlations: for all templates and
offsets at once on a coarse image, as one matrix product per size, then exactly at full size around the best ones.
Objects are detected greedily, the best score first. Scores count times the share of the difference that a sprite
explains, so that one large sprite does not take the place of four small ones that explain everything.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import BACKGROUNDS, NUM_VARIANTS, render_background
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

SIZES_PX = (48, 56, 64, 72, 80, 96, 112)  # in an image of 128 px
COARSE_PX = 32  # side of the coarse image
RANKED_PX = 64  # side at which coarse scores begin: averages of finer images would lose thin objects
MAX_SIZE_PX = 64  # `for_images` reduces larger images to it: exact scores at 128 px take four times as long
NUM_CANDIDATES = 32  # templates that are scored at full size
MAX_PIXEL_ERROR = 0.15  # a larger difference from a background is an object, and counts as this much
BORDER_PX = 2
MIN_SCORE = 3.0  # of a detection; a pale sprite of 32 px has about 10
MIN_COVERAGE = 0.05  # a sprite's pixels above it are removed from the image before the next detection


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One detected object: class, colour, top left corner and side.

    colour: an index of COLOURS; None: the class's own colours. explained_share: the share of the image's difference
    from the background that the sprite explains; 1 for an exact copy of the sprite.
    """

    class_id: int
    colour: int | None
    x_px: int
    y_px: int
    size_px: int
    explained_share: float

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) of the box, in pixels."""
        return self.x_px + self.size_px / 2, self.y_px + self.size_px / 2


@dataclass(frozen=True, kw_only=True)
class Detections:
    """The content of an image: the best background, and the objects by falling score."""

    background: int
    objects: tuple[Detection, ...]


def list_template_keys() -> list[tuple[int, int | None]]:
    """List every (class_id, colour) that a sprite can have; colour None stands for the class's own colours."""
    return [
        (each.id, colour)
        for each in load_sprite_classes()
        for colour in (None, *(range(len(COLOURS)) if each.is_colourable else ()))
    ]


def _make_template(class_id: int, colour: int | None, size_px: int) -> Tensor:
    """Make the channels p (3), a p (3), a^2 and a of one sprite: (8, size_px, size_px)."""
    pixels = torch.from_numpy(get_sprite(class_id, size_px=size_px, colour=colour).copy()).permute(2, 0, 1) / 255
    p, a = pixels[:3], pixels[3:]
    return torch.cat([p, a * p, a * a, a])


_get_template = lru_cache(maxsize=4_000)(_make_template)  # up to 0.4 MB each


def _make_score_channels(image: Tensor, background: Tensor) -> Tensor:
    """Compute what the template channels are correlated with: (8, Y, X) from two images (3, Y, X).

    The correlation is the score without its term 2 |p|^2.
    """
    d = image - background
    of_coverage = -4 * (d * background).sum(0, keepdim=True) - d.square().sum(0, keepdim=True)
    return torch.cat([4 * d, 4 * background, -2 * background.square().sum(0, keepdim=True), of_coverage])


class SpriteMatcher:
    """Detector of sprites in images of one size, or reduced to it: about two images per second on one CPU core.

    size_px: side that images are read at; detections are in its pixels. device: any torch device.
    """

    def __init__(self, *, size_px: int = 128, device: torch.device | str = "cpu"):
        self.size_px, self.device = size_px, torch.device(device)
        self.coarse_factor, self.ranked_px = size_px // COARSE_PX, min(size_px, RANKED_PX)
        self.sizes_px = [side * size_px // 128 for side in SIZES_PX]
        self.template_keys = list_template_keys()
        self.sized_template_keys = [(key, side) for side in self.sizes_px for key in self.template_keys]
        self.coarse_templates = [self._make_coarse_templates(side) for side in self.sizes_px]
        rendered = [
            render_background(background, variant, size_px=size_px)
            for background in range(len(BACKGROUNDS))
            for variant in range(NUM_VARIANTS)
        ]
        pixels = torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) / 255 for each in rendered])
        self.backgrounds = pixels.to(device)

    @classmethod
    def for_images(cls, size_px: int, device: torch.device | str = "cpu") -> "SpriteMatcher":
        """Make the matcher for images of `size_px`."""
        return cls(size_px=min(size_px, MAX_SIZE_PX), device=device)

    def resize(self, image: Tensor) -> Tensor:
        """Reduce an image (3, Y, Y) to this matcher's size by averages: float32 (3, S, S) on its device."""
        image = image.to(self.device, torch.float32)
        return image if image.shape[-1] == self.size_px else F.adaptive_avg_pool2d(image, self.size_px)

    def match_background(self, image: Tensor) -> tuple[int, Tensor]:
        """Find the background nearest to an image (3, S, S): its index and its pixels (3, S, S).

        Objects count for at most MAX_PIXEL_ERROR per pixel, and the border, which they rarely cover, counts twice.
        """
        errors = (self.backgrounds - image).abs().mean(1).clamp(max=MAX_PIXEL_ERROR)
        is_inside = torch.zeros_like(errors[0], dtype=torch.bool)
        is_inside[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
        best = int((errors.flatten(1).mean(1) + errors[:, ~is_inside].mean(1)).argmin())
        return best // NUM_VARIANTS, self.backgrounds[best]

    def detect(self, image: Tensor, *, max_objects: int = 6) -> Detections:
        """Explain an image (3, Y, Y) on [0, 1] by a background and at most `max_objects` objects."""
        image = self.resize(image)
        index, background = self.match_background(image)
        detections: list[Detection] = []
        while len(detections) < max_objects:
            score, best = self._find_best(image, background)
            if score < MIN_SCORE:
                break
            detections.append(best)
            region, image = _get_region(best), image.clone()
            is_explained = self._get_coverage(best) > MIN_COVERAGE
            image[region] = torch.where(is_explained, background[region], image[region])
        return Detections(background=index, objects=tuple(detections))

    def classify_colour(self, image: Tensor, detection: Detection) -> int:
        """Find the colour (an index of COLOURS) that explains a detected object of an image (3, Y, Y) best."""
        image = self.resize(image)
        _, background = self.match_background(image)
        region = _get_region(detection)
        channels = _make_score_channels(image[region], background[region])
        templates = torch.stack(
            [_get_template(detection.class_id, colour, detection.size_px) for colour in range(len(COLOURS))]
        ).to(self.device)
        scores = (templates * channels).sum((1, 2, 3)) - 2 * templates[:, :3].square().sum((1, 2, 3))
        return int(scores.argmax())

    def _make_coarse_templates(self, size_px: int) -> tuple[Tensor, Tensor]:
        """Make the templates of all keys in one size: flattened channels (T, 8 s s) and 2 |p|^2 (T, 1)."""
        ranked_px = size_px * self.ranked_px // self.size_px
        coarse = torch.stack(
            [F.avg_pool2d(_make_template(*key, ranked_px), self.ranked_px // COARSE_PX) for key in self.template_keys]
        )
        energy = 2 * coarse[:, :3].square().sum((1, 2, 3))
        return coarse.flatten(1).to(self.device), energy[:, None].to(self.device)

    def _score_coarse(self, image: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """Find the best score (T,) and its coarse offset (T, 2), down and across, of every sized template key."""
        reduced = (F.adaptive_avg_pool2d(each, self.ranked_px) for each in (image, background))
        channels = F.avg_pool2d(_make_score_channels(*reduced), self.ranked_px // COARSE_PX)
        scores, offsets = [], []
        for size_px, (templates, energy) in zip(self.sizes_px, self.coarse_templates, strict=True):
            windows = F.unfold(channels[None], size_px // self.coarse_factor)[0]  # (8 s s, offsets)
            best, index = (templates @ windows - energy).max(1)
            num_columns = channels.shape[-1] - size_px // self.coarse_factor + 1
            scores.append(best * self.coarse_factor**2)
            offsets.append(torch.stack([index // num_columns, index % num_columns], dim=1))
        return torch.cat(scores), torch.cat(offsets)

    def _refine(self, score_channels: Tensor, index: int, y: int, x: int) -> tuple[float, Detection]:
        """Score one template exactly around (x, y), at its size and at the next smaller and larger one."""
        (class_id, colour), coarse_px = self.sized_template_keys[index]
        best: tuple[float, Detection] | None = None
        step, reach = self.size_px // 32, self.coarse_factor + 1
        for size_px in (coarse_px - step, coarse_px, coarse_px + step):
            y0, x0 = (max(0, min(v - reach + (coarse_px - size_px) // 2, self.size_px - size_px)) for v in (y, x))
            window = score_channels[:, y0 : y0 + size_px + 2 * reach, x0 : x0 + size_px + 2 * reach]
            template = _get_template(class_id, colour, size_px).to(self.device)
            # a matrix product over all offsets: a convolution with a kernel this large is planned anew for every size
            shifted = window.unfold(1, size_px, 1).unfold(2, size_px, 1)  # (8, dy, dx, size_px, size_px)
            scores = torch.tensordot(shifted, template, ([0, 3, 4], [0, 1, 2])) - 2 * template[:3].square().sum()
            best_offset = int(scores.argmax())
            dy, dx = divmod(best_offset, scores.shape[1])
            score = float(scores.flatten()[best_offset])
            if best is None or score > best[0]:
                x_px, y_px = x0 + dx, y0 + dy
                best = (
                    score,
                    Detection(
                        class_id=class_id, colour=colour, x_px=x_px, y_px=y_px, size_px=size_px, explained_share=0.0
                    ),
                )
        assert best is not None, "three sizes were scored"
        return best

    def _get_coverage(self, detection: Detection) -> Tensor:
        template = _get_template(detection.class_id, detection.colour, detection.size_px)
        return template[7:].to(self.device)

    def _compute_explained_share(self, score: float, detection: Detection, difference: Tensor) -> float:
        """Compute the share of an image's difference (3, S, S) from its background, where the sprite covers it."""
        explainable = self._get_coverage(detection) * difference[_get_region(detection)].square()
        return (score / max(float(explainable.sum()), 1e-6) + 1) / 2

    def _find_best(self, image: Tensor, background: Tensor) -> tuple[float, Detection]:
        """Find the detection with the best exact score among the best coarse candidates.

        Coarse scores of pale objects are best at too large a size, so all sizes are scored before none is found.
        """
        scores, offsets = self._score_coarse(image, background)
        channels, num_keys = _make_score_channels(image, background), len(self.template_keys)
        best_scores, best_sizes = scores.view(len(self.sizes_px), num_keys).max(0)
        keys = best_scores.topk(NUM_CANDIDATES).indices

        def refine(indices: Tensor) -> tuple[float, Detection]:
            coarse = zip(indices.tolist(), (offsets[indices] * self.coarse_factor).tolist(), strict=True)
            candidates = []
            for index, (y, x) in coarse:
                score, detection = self._refine(channels, index, y, x)
                share = self._compute_explained_share(score, detection, image - background)
                candidates.append((score, replace(detection, explained_share=share)))
            return max(candidates, key=lambda each: max(each[0], 0) * each[1].explained_share)

        best = refine(best_sizes[keys] * num_keys + keys)
        if best[0] >= MIN_SCORE:
            return best
        return refine(torch.cat([keys + size * num_keys for size in range(0, len(self.sizes_px), 2)]))


def _get_region(detection: Detection) -> tuple[slice, slice, slice]:
    """Return the slices of an image (3, S, S) that a detection covers."""
    y, x, side = detection.y_px, detection.x_px, detection.size_px
    return slice(None), slice(y, y + side), slice(x, x + side)
