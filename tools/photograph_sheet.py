"""Contact sheet of photographs in motion: the commands of docs/guides/animate.md, on photographs of scikit-image.

python tools/photograph_sheet.py FILE     FILE ends with .webp
"""

import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

from dianjing.pipelines.segmentation.base import parse_click
from dianjing.pipelines.video.motion_path import sample_curve

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "animate.md"
PHOTOGRAPHS = ("coffee", "astronaut", "chelsea")
FRAMES = (2, 4, 6)  # beside the photograph with its click
HEIGHT_PX, GAP_PX = 200, 6
CLICK_RADIUS_PX = 6
CLICK_COLOR, PATH_COLOR = (0, 230, 60), (255, 220, 0)


def find_commands() -> list[list[str]]:
    """The commands of the guide that animate a photograph, as words."""
    lines = GUIDE.read_text(encoding="utf-8").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("dianjing animate")]
    return [words for words in commands if Path(words[2]).stem in PHOTOGRAPHS]


def mark_click(image: Image.Image, words: list[str]) -> Image.Image:
    """Draw the click of a command, and its path if it has one."""
    region = {}
    if "--region" in words:
        region = dict(part.split("=") for part in words[words.index("--region") + 1].split(";"))
    marked, scale = image.copy(), image.height / HEIGHT_PX
    draw = ImageDraw.Draw(marked)
    if "path" in region:
        points = np.array([[float(number) for number in pair.split(",")] for pair in region["path"].split()])
        draw.line([tuple(point) for point in sample_curve(points)], fill=PATH_COLOR, width=round(2 * scale))
    for point in parse_click(region.get("click") or words[words.index("--click") + 1]):
        radius = CLICK_RADIUS_PX * scale
        box = (point.x - radius, point.y - radius, point.x + radius, point.y + radius)
        draw.ellipse(box, fill=CLICK_COLOR, outline="white", width=round(2 * scale))
    return marked


def run_command(words: list[str], folder: Path) -> list[Image.Image]:
    """Run a command of the guide in a folder with the photographs: the photograph with the click, and FRAMES."""
    subprocess.run([sys.executable, "-m", *words], cwd=folder, check=True)
    pictures = [mark_click(Image.open(folder / words[2]), words)]
    with Image.open(folder / words[words.index("--out") + 1]) as video:
        for index in FRAMES:
            video.seek(index)
            pictures.append(video.convert("RGB"))
    return [picture.resize((round(picture.width * HEIGHT_PX / picture.height), HEIGHT_PX)) for picture in pictures]


def main(path: Path) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for photograph in PHOTOGRAPHS:
            Image.fromarray(getattr(skimage.data, photograph)()).save(folder / f"{photograph}.png")
        rows = [run_command(words, folder) for words in find_commands()]
    width = max(sum(picture.width for picture in row) for row in rows)
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT_PX + GAP_PX) - GAP_PX), "white")
    for number, row in enumerate(rows):
        for index, picture in enumerate(row):
            sheet.paste(picture, (sum(each.width for each in row[:index]), number * (HEIGHT_PX + GAP_PX)))
    sheet.save(path, quality=82, method=6)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
