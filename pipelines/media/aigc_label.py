"""Labels of AI-generated content by China's GB 45438-2025: the implicit one in XMP, the visible one in a corner.

The visible text AI生成 is drawn from strokes, so that no font is needed. F frames, H height, W width; frames are uint8
(F, H, W, 3).
"""

import hashlib
import json
import math
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw

from dianjing.pipelines.media.metadata import GenerationMetadata

AIGC_NAMESPACE = "http://www.tc260.org.cn/ns/AIGC/1.0/"
XMP_KEY = "XML:com.adobe.xmp"
PRODUCER = "Dianjing"
XMP_TEMPLATE = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:TC260="{namespace}"><TC260:AIGC>{label}</TC260:AIGC></rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def make_aigc_label(content: bytes, *, producer: str) -> dict[str, str]:
    """Fill in the fields of GB 45438-2025; ProduceID is a hash of the content."""
    return {
        "Label": "1",  # 1: made by AI
        "ContentProducer": producer,
        "ProduceID": hashlib.sha256(content).hexdigest()[:32],
        "ReservedCode1": "",
        "ContentPropagator": "",
        "PropagateID": "",
        "ReservedCode2": "",
    }


def make_image_label(image: Image.Image, metadata: GenerationMetadata, *, producer: str) -> dict[str, str]:
    """Make the implicit label of an image from its pixels and metadata."""
    return make_aigc_label(repr((image.size, image.mode, metadata)).encode() + image.tobytes(), producer=producer)


def serialize_label(label: dict[str, str]) -> str:
    """Convert a label to compact JSON."""
    return json.dumps(label, ensure_ascii=False, separators=(",", ":"))


def make_xmp_packet(label: dict[str, str]) -> str:
    """Wrap a label in an XMP packet."""
    return XMP_TEMPLATE.format(namespace=AIGC_NAMESPACE, label=escape(serialize_label(label)))


TEXT_HEIGHT_FRACTION = 0.05  # minimum height of the text as a fraction of the shorter side
MIN_TEXT_HEIGHT_PX = 10  # below that the strokes run together
LABEL_DURATION_S = 2.0  # the label is visible for the first two seconds of a video
SUPERSAMPLING = 8
# strokes on a square of 16 x 16, by character: lists of (x, y)
GLYPH_STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(2, 14), (7, 2), (12, 14)], [(4, 10), (10, 10)]],
    "I": [[(3, 2), (3, 14)]],
    "生": [
        [(5, 1.5), (4, 4.5), (2, 7.5)],
        [(4.5, 4.5), (14, 4.5)],
        [(8.5, 1), (8.5, 14.5)],
        [(3.5, 9.3), (13.5, 9.3)],
        [(1.5, 14.5), (15, 14.5)],
    ],
    "成": [
        [(3, 4.5), (14.5, 4.5)],
        [(3.5, 4.5), (3.3, 9.5), (1.5, 14.5)],
        [(3.5, 8), (7.5, 8), (7.2, 12), (6.3, 12.8), (5, 12.2)],
        [(9, 1), (9.6, 6), (11, 10.5), (13, 13.5), (14.3, 14), (15, 11.5)],
        [(13.5, 6.5), (11.5, 10.5), (8, 14)],
        [(11.5, 1.3), (13.3, 2.8)],
    ],
}
GLYPH_WIDTHS = {"A": 14, "I": 6, "生": 17, "成": 16}
LABEL_TEXT = "AI生成"


def _render_text_mask(height_px: int) -> Image.Image:
    """Render the coverage of each pixel by the text, as an image of mode L."""
    unit = height_px * SUPERSAMPLING / 16
    size = (math.ceil(sum(GLYPH_WIDTHS[char] for char in LABEL_TEXT) * unit), height_px * SUPERSAMPLING)
    large, left = Image.new("L", size), 0.0
    pen = ImageDraw.Draw(large)
    for char in LABEL_TEXT:
        for stroke in GLYPH_STROKES[char]:
            points = [((left + x) * unit, y * unit) for x, y in stroke]
            pen.line(points, fill=255, width=round(1.3 * unit), joint="curve")
        left += GLYPH_WIDTHS[char]
    return large.resize((math.ceil(size[0] / SUPERSAMPLING), height_px), Image.Resampling.BOX)


def add_visible_label(image: Image.Image) -> Image.Image:
    """Return an image as RGB, or RGBA, with the text at the lower right on a dark, readable background."""
    image = image.copy() if image.mode == "RGBA" else image.convert("RGB")
    text = _render_text_mask(max(MIN_TEXT_HEIGHT_PX, math.ceil(TEXT_HEIGHT_FRACTION * min(image.size))))
    margin = max(1, text.height // 8)
    background = (text.width + 2 * margin, text.height + 2 * margin)
    left, top = image.width - background[0], image.height - background[1]
    image.paste((0, 0, 0), (left, top), Image.new("L", background, 150))
    image.paste((255, 255, 255), (left + margin, top + margin), text)
    return image


def add_visible_label_to_frames(frames: np.ndarray, *, fps: float) -> np.ndarray:
    """Return a copy of a video, (F, H, W, 3) or (F, H, W, 4), with the text on the frames of its first seconds."""
    labelled = frames.copy()
    for index in range(min(len(frames), math.ceil(LABEL_DURATION_S * fps))):
        labelled[index] = np.asarray(add_visible_label(Image.fromarray(frames[index])))
    return labelled
