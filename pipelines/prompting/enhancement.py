"""Enhancement of short prompts by a chat model: a description with the details that large models were trained on."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.validation import check_prompt

CompleteChat = Callable[[Sequence[Mapping[str, str]]], str]  # chat messages to the answer
Medium = Literal["image", "video"]
REASONING_PATTERN = re.compile(r"<think>.*?</think>", flags=re.DOTALL)
QUOTES = "\"'“”「」`"
SYSTEM_PROMPTS: dict[Medium, str] = {
    "image": (
        "Rewrite the user's text as a description of one image, for an image generator. Keep the language of the text,"
        " every object, number, colour and position in it, and any words in quotation marks. Add composition, light,"
        " materials and style where the text leaves them open. Answer with the description alone, in one paragraph of"
        " at most 120 words."
    ),
    "video": (
        "Rewrite the user's text as a description of one short video shot, for a video generator. Keep the language of"
        " the text, every object, number, colour and movement in it, and any words in quotation marks. Say in this"
        " order what is seen, how it moves, how the camera moves, and the light and style, where the text leaves them"
        " open. Answer with the description alone, in one paragraph of at most 120 words."
    ),
}


@dataclass(frozen=True, kw_only=True)
class EnhancedPrompt:
    """A prompt after enhancement. warning: why it is the user's own, or None."""

    prompt: str
    warning: Message | None = None


def enhance_prompt(prompt: str, complete: CompleteChat, *, medium: Medium) -> EnhancedPrompt:
    """Rewrite a prompt by a chat model; an answer that is no prompt leaves it as it is, with a warning.

    Raises: DianjingError for a prompt that is none itself.
    """
    messages = [
        {"role": "system", "content": SYSTEM_PROMPTS[medium]},
        {"role": "user", "content": check_prompt(prompt)},
    ]
    answer = REASONING_PATTERN.sub("", complete(messages))
    text = " ".join(answer.split()).strip(QUOTES).strip()
    try:
        return EnhancedPrompt(prompt=check_prompt(text))
    except DianjingError as error:
        return EnhancedPrompt(prompt=prompt, warning=Message("prompt_not_enhanced", reason=error))
