"""Reading a picture back: which background, which objects, where, how large and in which colour.

Legend: T templates, S picture side, s side of the coarse picture; colours are floats on [0, 1].

A picture I is explained as a known background B with sprites laid over it. A sprite with premultiplied colour p and
coverage a, laid at some offset, changes the background by t = p - aB. With D = I - B, the squared error it saves is
gain = |D|^2 - |D - t|^2 = 2 D.t - |t|^2, and a|D|^2 is what there is to explain under it (sums over pixels and
colours). The score

    2 gain - a|D|^2 = 4 D.p - 4 a D.B - 2 |p|^2 + 4 a p.B - 2 a^2 |B|^2 - a |D|^2

is positive where a sprite explains more than half of what it covers. It is four correlations, computed for all
templates and offsets at once on a coarse picture, as one product a size, then exactly at full size around the best.
Objects are taken greedily, the best score first.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dianjing.train.stickers.atlas import get_sprite
from dianjing.train.stickers.backgrounds import BACKGROUNDS, NUM_VARIANTS, render_background
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

SIZES_PX = (48, 56, 64, 72, 80, 96, 112)  # of a 128 px picture
COARSE_PX = 32  # side of the coarse picture
NUM_CANDIDATES = 32  # templates looked at closely
MAX_PIXEL_ERROR = 0.15  # of the error of a pixel: what differs more from a background is an object
BORDER_PX = 2
MIN_SCORE = 3.0  # what an object must reach to count as seen; a pale 32 px sprite has about 10


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One object found in a picture. `explained` is 1 where the picture is exactly the sprite."""

    class_id: int
    colour: int | None
    x_px: int
    y_px: int
    size_px: int
    explained_share: float

    @property
    def center(self) -> tuple[float, float]:
        return self.x_px + self.size_px / 2, self.y_px + self.size_px / 2


@dataclass(frozen=True, kw_only=True)
class Detections:
    """All that was found: the best background and the objects in order of their score."""

    background: int
    objects: tuple[Detection, ...]


def list_template_keys() -> list[tuple[int, int | None]]:
    """Every (object, colour) a sprite can have; None is the object's own colour."""
    return [(t.id, c) for t in load_sprite_classes() for c in (None, *(range(len(COLOURS)) if t.is_colourable else ()))]


@lru_cache(maxsize=20_000)
def _get_template(class_id: int, colour: int | None, size_px: int) -> Tensor:
    """Channels p (3), a p (3), a^2, a of one sprite: (8, size_px, size_px)."""
    pixels = torch.from_numpy(get_sprite(class_id, size_px=size_px, colour=colour).copy()).permute(2, 0, 1) / 255
    p, a = pixels[:3], pixels[3:]
    return torch.cat([p, a * p, a * a, a])


def _make_score_channels(image: Tensor, background: Tensor) -> Tensor:
    """What the template channels are correlated with for the score, up to 2 |p|^2: (8, Y, X) from two (3, Y, X)."""
    d = image - background
    plain = -4 * (d * background).sum(0, keepdim=True) - d.square().sum(0, keepdim=True)
    return torch.cat([4 * d, 4 * background, -2 * background.square().sum(0, keepdim=True), plain])


class SpriteMatcher:
    """Finds sprites in pictures of one size. Reads about two pictures a second on one core; uses any torch device."""

    def __init__(self, *, size_px: int = 128, device: torch.device | str = "cpu"):
        self.size_px, self.device = size_px, torch.device(device)
        self.coarse_factor = size_px // COARSE_PX
        self.sizes_px = [side * size_px // 128 for side in SIZES_PX]
        self.template_keys = list_template_keys()
        self.sized_template_keys = [(look, side) for side in self.sizes_px for look in self.template_keys]
        self.coarse_templates = [self._make_coarse_templates(side) for side in self.sizes_px]
        shown = [
            render_background(kind, variant, size_px=size_px)
            for kind in range(len(BACKGROUNDS))
            for variant in range(NUM_VARIANTS)
        ]
        self.backgrounds = torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) / 255 for each in shown]).to(
            device
        )

    def _make_coarse_templates(self, size_px: int) -> tuple[Tensor, Tensor]:
        """Of every look, at one size: channels in a row (T, 8 s s), and 2 |p|^2 (T, 1)."""
        coarse = torch.stack(
            [F.avg_pool2d(_get_template(*look, size_px), self.coarse_factor) for look in self.template_keys]
        )
        energy = 2 * coarse[:, :3].square().sum((1, 2, 3))
        return coarse.flatten(1).to(self.device), energy[:, None].to(self.device)

    def match_background(self, image: Tensor) -> tuple[int, Tensor]:
        """The background nearest to a picture (3, S, S), most of all at its border: (kind, (3, S, S)).

        An object counts for no more than LIMIT a pixel, and rarely covers the border.
        """
        errors = (self.backgrounds - image).abs().mean(1).clamp(max=MAX_PIXEL_ERROR)
        inner = torch.zeros_like(errors[0], dtype=torch.bool)
        inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
        best = int((errors.flatten(1).mean(1) + errors[:, ~inner].mean(1)).argmin())
        return best // NUM_VARIANTS, self.backgrounds[best]

    def _score_coarse(self, image: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """Of every key the best score (T,), and at which coarse offset (T, 2): down and across."""
        fields = F.avg_pool2d(_make_score_channels(image, background), self.coarse_factor)
        scores, places = [], []
        for size_px, (templates, energy) in zip(self.sizes_px, self.coarse_templates, strict=True):
            windows = F.unfold(fields[None], size_px // self.coarse_factor)[0]  # (8 s s, offsets)
            best, place = (templates @ windows - energy).max(1)
            room = fields.shape[-1] - size_px // self.coarse_factor + 1
            scores.append(best * self.coarse_factor**2)
            places.append(torch.stack([place // room, place % room], dim=1))
        return torch.cat(scores), torch.cat(places)

    def _refine(self, score_channels: Tensor, index: int, y: int, x: int) -> tuple[float, Detection]:
        """The exact score of one template around (x, y), at its size and the two beside it."""
        (thing, colour), coarse_px = self.sized_template_keys[index]
        best: tuple[float, Detection] | None = None
        step, reach = self.size_px // 32, self.coarse_factor + 1
        for size_px in (coarse_px - step, coarse_px, coarse_px + step):
            y0, x0 = (max(0, min(v - reach + (coarse_px - size_px) // 2, self.size_px - size_px)) for v in (y, x))
            window = score_channels[:, y0 : y0 + size_px + 2 * reach, x0 : x0 + size_px + 2 * reach]
            template = _get_template(thing, colour, size_px).to(self.device)
            # a plain product over all offsets: a convolution this large would be planned anew for every size
            shifted = window.unfold(1, size_px, 1).unfold(2, size_px, 1)  # (8, dy, dx, size_px, size_px)
            score = torch.tensordot(shifted, template, ([0, 3, 4], [0, 1, 2])) - 2 * template[:3].square().sum()
            top = int(score.argmax())
            dy, dx = divmod(top, score.shape[1])
            found = float(score.flatten()[top])
            if best is None or found > best[0]:
                place = Detection(
                    class_id=thing, colour=colour, x_px=x0 + dx, y_px=y0 + dy, size_px=size_px, explained_share=0.0
                )
                best = found, place
        assert best is not None
        return best

    def _find_best(self, image: Tensor, background: Tensor) -> tuple[float, Detection]:
        scores, places = self._score_coarse(image, background)
        fields = _make_score_channels(image, background)
        sizes = scores.view(len(self.sizes_px), len(self.template_keys)).argmax(0)  # the best size of every look
        keys = sizes * len(self.template_keys) + torch.arange(len(self.template_keys), device=self.device)
        found = []
        for index in keys[scores[keys].topk(NUM_CANDIDATES).indices].tolist():
            y, x = places[index].tolist()
            found.append(self._refine(fields, index, y * self.coarse_factor, x * self.coarse_factor))
        return max(found, key=lambda each: each[0])

    def detect(self, image: Tensor, *, max_objects: int = 6) -> Detections:
        """Explain a picture (3, S, S) on [0, 1] by a background and at most `most` objects."""
        image = image.to(self.device, torch.float32)
        kind, background = self.match_background(image)
        seen: list[Detection] = []
        while len(seen) < max_objects:
            score, best = self._find_best(image, background)
            where = (slice(None), *(slice(v, v + best.size_px) for v in (best.y_px, best.x_px)))
            template, under = _get_template(best.class_id, best.colour, best.size_px).to(self.device), background[where]
            if score < MIN_SCORE:
                break
            covered = float((template[7:] * (image[where] - under).square()).sum())
            seen.append(replace(best, explained_share=(score / covered + 1) / 2))
            image = image.clone()  # what is explained is taken away before looking on
            image[where] = torch.where(template[7:] > 0.05, under, image[where])
        return Detections(background=kind, objects=tuple(seen))

    def classify_colour(self, image: Tensor, detection: Detection) -> int:
        """The named colour that explains an object best where it stands."""
        _, background = self.match_background(image.to(self.device, torch.float32))
        where = (slice(None), *(slice(v, v + detection.size_px) for v in (detection.y_px, detection.x_px)))
        fields = _make_score_channels(image.to(self.device, torch.float32)[where], background[where])
        templates = torch.stack(
            [_get_template(detection.class_id, c, detection.size_px) for c in range(len(COLOURS))]
        ).to(self.device)
        scores = (templates * fields).sum((1, 2, 3)) - 2 * templates[:, :3].square().sum((1, 2, 3))
        return int(scores.argmax())
