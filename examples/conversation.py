"""Generate and edit an image in a conversation, in Chinese and English; what is not mentioned stays.

python examples/conversation.py --out images
"""

import argparse
from pathlib import Path

from dianjing import Conversation, DianjingError

INSTRUCTIONS = (
    "a cat on the left on the grass",
    "右边加一只小狗",
    "make it smaller",
    "remove the horse",
    "换成沙滩",
    "undo",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("images"))
    arguments = parser.parse_args()
    arguments.out.mkdir(exist_ok=True)

    conversation = Conversation("sticker", seed=arguments.seed)
    for number, text in enumerate(INSTRUCTIONS, start=1):
        try:
            turn = conversation.send(text)
        except DianjingError as error:  # such as an object that is not there; the conversation stays as it was
            print(f"{text}: {error}")
            continue
        turn.image.save(arguments.out / f"{number}.png")
        print(f"{text}: {'; '.join(turn.changes)} -> {turn.prompt}")
    conversation.save(arguments.out / "conversation.json")

    loaded = Conversation.load(arguments.out / "conversation.json", "sticker")
    loaded.send("another cat").image.save(arguments.out / "continued.png")


if __name__ == "__main__":
    main()
