"""Pictures of the README and the guides by the bundled model: grid, conversation, animation and video.

python tools/readme_pictures.py FOLDER
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

GRID_PROMPTS = (
    *("草地上的一只狐狸", "a penguin in the snow", "海上的一艘帆船", "a rocket in the night sky"),
    *("两个红苹果，白色背景", "three red balloons on a white background", "紫色的爱心，白色背景"),
    *("a dog to the left of a tree on a white background", "夜空中的一座房子", "a purple umbrella on the beach"),
    *("四颗星星，白色背景", "a blue car on the road", "森林里的一只猫头鹰", "two bananas on a white background"),
    *("草地上的一只长颈鹿", "a cup of coffee above a red book on a white background"),
)
TURNS = ("a cat on the grass", "add a red balloon at the top right", "replace the cat with a fox", "背景换成沙滩")
TURN_PX, GAP_PX = 192, 6


def run(*words: object, folder: Path, text: str = "") -> None:
    """Run a command of dianjing in a folder, with a text on its standard input."""
    command = [sys.executable, "-m", "dianjing", *map(str, words)]
    subprocess.run(command, cwd=folder, input=text, encoding="utf-8", check=True)


def make_conversation_sheet(folder: Path) -> Image.Image:
    """The images of a conversation side by side, each after one more turn."""
    sheet = Image.new("RGB", (len(TURNS) * (TURN_PX + GAP_PX) - GAP_PX, TURN_PX), "white")
    run("chat", "--seed", 7, "--out", "chat.png", folder=folder, text="\n".join(TURNS) + "\n")
    for index in range(len(TURNS)):
        image = Image.open(folder / f"chat-{index + 1}.png").convert("RGB")
        image = image.resize((TURN_PX, TURN_PX), Image.Resampling.BICUBIC)
        sheet.paste(image, (index * (TURN_PX + GAP_PX), 0))
    return sheet


def main(pictures: Path) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        grid = ("--out", "image.png", "--grid", pictures / "grid.png")
        run("image", *GRID_PROMPTS, "--seed", 3, *grid, folder=folder)
        make_conversation_sheet(folder).save(pictures / "conversation.png", optimize=True)
        run("image", "a fox to the left of a tree on the grass", "--seed", 3, "--out", "fox.png", folder=folder)
        click = ("--click", "32,68", "--motion", "jump", "--strength", 0.7)
        run("animate", "fox.png", *click, "--out", pictures / "animate.webp", folder=folder)
        prompt = "草地上，一只小猫在跳，一个红气球在上升"
        run("video", prompt, "--seconds", 4, "--seed", 5, "--out", pictures / "video.webp", folder=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
