"""Motions of sprites: a pose as a function of time, and where it maps each point of a sprite, forward and backward.

(u, v) are coordinates on a sprite, -1 to 1, v downwards; (x, y) are pixels of the canvas. Time is in seconds; at time
0 every object is at rest, as in the still image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BODY_HALF_WIDTH = 0.2  # of a sprite that flaps its wings: points with smaller |u| stay
TRAVEL_PX_PER_S = 48.0  # at full amplitude
HOP_HEIGHT_PX = 32.0


@dataclass(frozen=True, kw_only=True)
class SpritePose:
    """Deformation, similarity transform and offset of a sprite, applied in this order.

    dx, dy: pixels of the canvas. angle: radians, clockwise on the screen. In half sides: flap, how far the wing tips
    are down; nod, how much the upper half is pressed down; shear, how far the top is to the right.
    """

    dx: float = 0.0
    dy: float = 0.0
    angle: float = 0.0
    scale: float = 1.0
    flap: float = 0.0
    nod: float = 0.0
    shear: float = 0.0

    def map_forward(self, u: np.ndarray, v: np.ndarray, *, side_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Map points (u, v) of the sprite to (x, y), in pixels from the centre of its box at rest.

        side_px: side of the sprite at rest.
        """
        v = v + self.flap * _get_wing_weight(u)
        v = np.where(v < 0, v * (1 - self.nod), v)
        u = u + self.shear * (1 - v) / 2
        half_px, c, s = self.scale * side_px / 2, math.cos(self.angle), math.sin(self.angle)
        return self.dx + half_px * (c * u - s * v), self.dy + half_px * (s * u + c * v)

    def map_backward(self, x: np.ndarray, y: np.ndarray, *, side_px: float) -> tuple[np.ndarray, np.ndarray]:
        """Map (x, y) to (u, v): the inverse of `map_forward`."""
        half_px, c, s = self.scale * side_px / 2, math.cos(self.angle), math.sin(self.angle)
        x, y = (x - self.dx) / half_px, (y - self.dy) / half_px
        u, v = c * x + s * y, c * y - s * x
        u = u - self.shear * (1 - v) / 2
        v = np.where(v < 0, v / (1 - self.nod), v)
        return u, v - self.flap * _get_wing_weight(u)


def _get_wing_weight(u: np.ndarray) -> np.ndarray:
    """Weight of a point in a flap: 0 on the body, 1 at both wing tips."""
    return np.maximum(np.abs(u) - BODY_HALF_WIDTH, 0) / (1 - BODY_HALF_WIDTH)


@dataclass(frozen=True, kw_only=True)
class SpriteMotion:
    """A motion and its names in both languages.

    get_pose(t, a): the pose at t seconds with amplitude a in (0, 1]. phrases_*: requests for it ("flap the wings").
    verbs_*: its verb in a caption ("flapping its wings").
    """

    name: str
    get_pose: Callable[[float, float], SpritePose]
    phrases_en: tuple[str, ...]
    phrases_zh: tuple[str, ...]
    verbs_en: tuple[str, ...]
    verbs_zh: tuple[str, ...]

    @property
    def paraphrases(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """All motion phrases that request it, Chinese and English."""
        zh, en = (*self.phrases_zh, *self.verbs_zh), (*self.phrases_en, *self.verbs_en)
        return tuple(dict.fromkeys(zh)), tuple(dict.fromkeys(en))


def _get_sine(t: float, *, frequency_hz: float = 1.0) -> float:
    return math.sin(2 * math.pi * frequency_hz * t)


def _get_bounce_height(t: float) -> float:
    """Height of a ball that bounces once a second: 0 on the ground, 1 at the top."""
    phase = t % 1.0
    return 4 * phase * (1 - phase)


MOTIONS = (
    SpriteMotion(
        name="left",
        get_pose=lambda t, a: SpritePose(dx=-TRAVEL_PX_PER_S * a * t),
        phrases_en=("move left", "go left", "slide to the left", "move to the left"),
        phrases_zh=("向左移动", "往左走", "向左走", "左移"),
        verbs_en=("moving left", "going left", "moving to the left"),
        verbs_zh=("向左移动", "往左走", "向左走"),
    ),
    SpriteMotion(
        name="right",
        get_pose=lambda t, a: SpritePose(dx=TRAVEL_PX_PER_S * a * t),
        phrases_en=("move right", "go right", "slide to the right", "move to the right"),
        phrases_zh=("向右移动", "往右走", "向右走", "右移"),
        verbs_en=("moving right", "going right", "moving to the right"),
        verbs_zh=("向右移动", "往右走", "向右走"),
    ),
    SpriteMotion(
        name="up",
        get_pose=lambda t, a: SpritePose(dy=-TRAVEL_PX_PER_S * a * t),
        phrases_en=("move up", "go up", "rise", "float up"),
        phrases_zh=("向上移动", "往上走", "上升", "升起来"),
        verbs_en=("moving up", "going up", "rising"),
        verbs_zh=("向上移动", "往上走", "上升"),
    ),
    SpriteMotion(
        name="down",
        get_pose=lambda t, a: SpritePose(dy=TRAVEL_PX_PER_S * a * t),
        phrases_en=("move down", "go down", "fall", "sink"),
        phrases_zh=("向下移动", "往下走", "下降", "落下"),
        verbs_en=("moving down", "going down", "falling"),
        verbs_zh=("向下移动", "往下走", "下降"),
    ),
    SpriteMotion(
        name="jump",
        get_pose=lambda t, a: SpritePose(dy=-HOP_HEIGHT_PX * a * _get_bounce_height(t)),
        phrases_en=("jump", "hop", "jump up and down", "make it jump"),
        phrases_zh=("跳", "跳起来", "跳跃", "蹦跳"),
        verbs_en=("jumping", "hopping", "jumping up and down"),
        verbs_zh=("跳", "跳跃", "蹦跳"),
    ),
    SpriteMotion(
        name="arc",
        get_pose=lambda t, a: SpritePose(dx=TRAVEL_PX_PER_S * a * t, dy=-HOP_HEIGHT_PX * a * _get_bounce_height(t)),
        phrases_en=("fly in an arc", "fly over", "leap to the right"),
        phrases_zh=("划弧线飞", "飞过去", "向右跃起"),
        verbs_en=("flying in an arc", "leaping to the right"),
        verbs_zh=("划着弧线飞", "向右跃起"),
    ),
    SpriteMotion(
        name="spin",
        get_pose=lambda t, a: SpritePose(angle=2 * math.pi * a * t),
        phrases_en=("spin", "rotate", "turn around", "spin around"),
        phrases_zh=("旋转", "转圈", "转动", "转起来"),
        verbs_en=("spinning", "rotating", "spinning around"),
        verbs_zh=("旋转", "转圈", "转动"),
    ),
    SpriteMotion(
        name="shake",
        get_pose=lambda t, a: SpritePose(dx=12 * a * _get_sine(t, frequency_hz=2)),
        phrases_en=("shake", "tremble", "shake quickly"),
        phrases_zh=("摇晃", "抖动", "颤抖"),
        verbs_en=("shaking", "trembling"),
        verbs_zh=("摇晃", "抖动", "颤抖"),
    ),
    SpriteMotion(
        name="sway",
        get_pose=lambda t, a: SpritePose(shear=0.6 * a * _get_sine(t)),
        phrases_en=("sway", "swing", "sway from side to side"),
        phrases_zh=("摇摆", "左右摇摆", "摆动"),
        verbs_en=("swaying", "swinging", "swaying from side to side"),
        verbs_zh=("摇摆", "左右摇摆", "摆动"),
    ),
    SpriteMotion(
        name="nod",
        get_pose=lambda t, a: SpritePose(nod=0.5 * a * _get_bounce_height(t)),
        phrases_en=("nod", "nod the head", "lower the head", "bow"),
        phrases_zh=("点头", "头部调整", "低头", "点点头"),
        verbs_en=("nodding", "nodding its head", "bowing"),
        verbs_zh=("点头", "低头", "点点头"),
    ),
    SpriteMotion(
        name="flap",
        get_pose=lambda t, a: SpritePose(flap=0.5 * a * _get_sine(t, frequency_hz=2)),
        phrases_en=("flap", "flap the wings", "flutter", "beat its wings"),
        phrases_zh=("翅膀拍动", "拍翅膀", "扇翅膀", "扑腾"),
        verbs_en=("flapping", "flapping its wings", "fluttering"),
        verbs_zh=("拍翅膀", "扇翅膀", "扑腾"),
    ),
    SpriteMotion(
        name="grow",
        get_pose=lambda t, a: SpritePose(scale=1 + 0.6 * a * t),
        phrases_en=("grow", "get bigger", "become larger"),
        phrases_zh=("变大", "长大", "放大"),
        verbs_en=("growing", "getting bigger"),
        verbs_zh=("变大", "长大"),
    ),
    SpriteMotion(
        name="shrink",
        get_pose=lambda t, a: SpritePose(scale=1 / (1 + 0.8 * a * t)),
        phrases_en=("shrink", "get smaller", "become smaller"),
        phrases_zh=("变小", "缩小", "缩起来"),
        verbs_en=("shrinking", "getting smaller"),
        verbs_zh=("变小", "缩小"),
    ),
)
