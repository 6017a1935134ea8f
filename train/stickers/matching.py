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

from dianjing.train.stickers.atlas import sprite
from dianjing.train.stickers.backgrounds import BACKGROUNDS, VARIANTS, paint
from dianjing.train.stickers.objects import COLOURS, things

SIZES_PX = (48, 56, 64, 72, 80, 96, 112)  # of a 128 px picture
COARSE_PX = 32  # side of the coarse picture
MAX_READ_PX = 128  # larger pictures are read at this side: exact scores at 256 px would take sixteen times as long
CANDIDATES = 32  # templates looked at closely
LIMIT = 0.15  # of the error of a pixel: what differs more from a background is an object
BORDER_PX = 2
LEAST_SCORE = 3.0  # what an object must reach to count as seen; a pale 32 px sprite has about 10


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One object found in a picture. `explained` is 1 where the picture is exactly the sprite."""

    thing: int
    colour: int | None
    x_px: int
    y_px: int
    size_px: int
    explained: float

    @property
    def centre(self) -> tuple[float, float]:
        return self.x_px + self.size_px / 2, self.y_px + self.size_px / 2


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that was found: the best background and the objects in order of their score."""

    background: int
    objects: tuple[Seen, ...]


def looks() -> list[tuple[int, int | None]]:
    """Every (object, colour) a sprite can have; None is the object's own colour."""
    return [(t.id, c) for t in things() for c in (None, *(range(len(COLOURS)) if t.takes_colour else ()))]


@lru_cache(maxsize=4_000)  # of 256 px pictures they take 0.6 MB each
def _template(thing: int, colour: int | None, size_px: int) -> Tensor:
    """Channels p (3), a p (3), a^2, a of one sprite: (8, size_px, size_px)."""
    pixels = torch.from_numpy(sprite(thing, size_px=size_px, colour=colour).copy()).permute(2, 0, 1) / 255
    p, a = pixels[:3], pixels[3:]
    return torch.cat([p, a * p, a * a, a])


def _fields(picture: Tensor, background: Tensor) -> Tensor:
    """What the template channels are correlated with for the score, up to 2 |p|^2: (8, Y, X) from two (3, Y, X)."""
    d = picture - background
    plain = -4 * (d * background).sum(0, keepdim=True) - d.square().sum(0, keepdim=True)
    return torch.cat([4 * d, 4 * background, -2 * background.square().sum(0, keepdim=True), plain])


class Matcher:
    """Finds sprites in pictures of one size, and in larger ones made as small; uses any torch device.

    Reads about two pictures a second on one core. What it finds is in pixels of size_px.
    """

    def __init__(self, *, size_px: int = 128, device: torch.device | str = "cpu"):
        self.size_px, self.device = size_px, torch.device(device)
        self.coarse = size_px // COARSE_PX
        self.sizes_px = [side * size_px // 128 for side in SIZES_PX]
        self.looks = looks()
        self.keys = [(look, side) for side in self.sizes_px for look in self.looks]
        self.templates = [self._coarse_templates(side) for side in self.sizes_px]
        shown = [
            paint(kind, variant, size_px=size_px) for kind in range(len(BACKGROUNDS)) for variant in range(VARIANTS)
        ]
        self.backgrounds = torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) / 255 for each in shown]).to(
            device
        )

    @classmethod
    def for_pictures(cls, size_px: int, device: torch.device | str = "cpu") -> "Matcher":
        """The one to read pictures of size_px with."""
        return cls(size_px=min(size_px, MAX_READ_PX), device=device)

    def fit(self, picture: Tensor) -> Tensor:
        """A picture (3, Y, Y) in this matcher's size, by averages: (3, S, S) in float32 on its device."""
        picture = picture.to(self.device, torch.float32)
        return picture if picture.shape[-1] == self.size_px else F.adaptive_avg_pool2d(picture, self.size_px)

    def _coarse_templates(self, size_px: int) -> tuple[Tensor, Tensor]:
        """Of every look, at one size: channels in a row (T, 8 s s), and 2 |p|^2 (T, 1)."""
        coarse = torch.stack([F.avg_pool2d(_template.__wrapped__(*look, size_px), self.coarse) for look in self.looks])
        energy = 2 * coarse[:, :3].square().sum((1, 2, 3))
        return coarse.flatten(1).to(self.device), energy[:, None].to(self.device)

    def background(self, picture: Tensor) -> tuple[int, Tensor]:
        """The background nearest to a picture (3, S, S), most of all at its border: (kind, (3, S, S)).

        An object counts for no more than LIMIT a pixel, and rarely covers the border.
        """
        errors = (self.backgrounds - picture).abs().mean(1).clamp(max=LIMIT)
        inner = torch.zeros_like(errors[0], dtype=torch.bool)
        inner[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] = True
        best = int((errors.flatten(1).mean(1) + errors[:, ~inner].mean(1)).argmin())
        return best // VARIANTS, self.backgrounds[best]

    def _coarse_score(self, picture: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        """Of every key the best score (T,), and at which coarse offset (T, 2): down and across."""
        fields = F.avg_pool2d(_fields(picture, background), self.coarse)
        scores, places = [], []
        for size_px, (templates, energy) in zip(self.sizes_px, self.templates, strict=True):
            windows = F.unfold(fields[None], size_px // self.coarse)[0]  # (8 s s, offsets)
            best, place = (templates @ windows - energy).max(1)
            room = fields.shape[-1] - size_px // self.coarse + 1
            scores.append(best * self.coarse**2)
            places.append(torch.stack([place // room, place % room], dim=1))
        return torch.cat(scores), torch.cat(places)

    def _refine(self, fields: Tensor, index: int, y: int, x: int) -> tuple[float, Seen]:
        """The exact score of one template around (x, y), at its size and the two beside it."""
        (thing, colour), coarse_px = self.keys[index]
        best: tuple[float, Seen] | None = None
        step, reach = self.size_px // 32, self.coarse + 1
        for size_px in (coarse_px - step, coarse_px, coarse_px + step):
            y0, x0 = (max(0, min(v - reach + (coarse_px - size_px) // 2, self.size_px - size_px)) for v in (y, x))
            window = fields[:, y0 : y0 + size_px + 2 * reach, x0 : x0 + size_px + 2 * reach]
            template = _template(thing, colour, size_px).to(self.device)
            # a plain product over all offsets: a convolution this large would be planned anew for every size
            shifted = window.unfold(1, size_px, 1).unfold(2, size_px, 1)  # (8, dy, dx, size_px, size_px)
            score = torch.tensordot(shifted, template, ([0, 3, 4], [0, 1, 2])) - 2 * template[:3].square().sum()
            top = int(score.argmax())
            dy, dx = divmod(top, score.shape[1])
            found = float(score.flatten()[top])
            if best is None or found > best[0]:
                place = Seen(thing=thing, colour=colour, x_px=x0 + dx, y_px=y0 + dy, size_px=size_px, explained=0.0)
                best = found, place
        assert best is not None
        return best

    def _strongest(self, picture: Tensor, background: Tensor) -> tuple[float, Seen]:
        scores, places = self._coarse_score(picture, background)
        fields = _fields(picture, background)
        sizes = scores.view(len(self.sizes_px), len(self.looks)).argmax(0)  # the best size of every look
        keys = sizes * len(self.looks) + torch.arange(len(self.looks), device=self.device)
        found = []
        for index in keys[scores[keys].topk(CANDIDATES).indices].tolist():
            y, x = places[index].tolist()
            found.append(self._refine(fields, index, y * self.coarse, x * self.coarse))
        return max(found, key=lambda each: each[0])

    def read(self, picture: Tensor, *, most: int = 6) -> Reading:
        """Explain a picture (3, S, S) on [0, 1] by a background and at most `most` objects."""
        picture = self.fit(picture)
        kind, background = self.background(picture)
        seen: list[Seen] = []
        while len(seen) < most:
            score, best = self._strongest(picture, background)
            where = (slice(None), *(slice(v, v + best.size_px) for v in (best.y_px, best.x_px)))
            template, under = _template(best.thing, best.colour, best.size_px).to(self.device), background[where]
            if score < LEAST_SCORE:
                break
            covered = float((template[7:] * (picture[where] - under).square()).sum())
            seen.append(replace(best, explained=(score / covered + 1) / 2))
            picture = picture.clone()  # what is explained is taken away before looking on
            picture[where] = torch.where(template[7:] > 0.05, under, picture[where])
        return Reading(background=kind, objects=tuple(seen))

    def colour_of(self, picture: Tensor, seen: Seen) -> int:
        """The named colour that explains an object best where it stands."""
        picture = self.fit(picture)
        _, background = self.background(picture)
        where = (slice(None), *(slice(v, v + seen.size_px) for v in (seen.y_px, seen.x_px)))
        fields = _fields(picture[where], background[where])
        templates = torch.stack([_template(seen.thing, c, seen.size_px) for c in range(len(COLOURS))]).to(self.device)
        scores = (templates * fields).sum((1, 2, 3)) - 2 * templates[:, :3].square().sum((1, 2, 3))
        return int(scores.argmax())
