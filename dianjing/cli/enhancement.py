"""The option --enhance: a chat model rewrites the prompt before the model of the command loads."""

import gc
import sys
from dataclasses import replace
from typing import Any

from dianjing.cli.loading import check_model_path, resolve_device
from dianjing.errors import Message, get_language


def check_enhancement(model: str | None) -> None:
    """Check that the chat model of --enhance is a folder, or else has the form of a Hub id. Raises: DianjingError."""
    if model is not None:
        check_model_path(model, "--enhance")


def enhance_job(job: Any) -> Any:
    """Return a `VideoJob` with its prompt rewritten by its chat model, and report it; without one, the job itself."""
    if job.enhance is None or not job.prompt:
        return job
    import torch

    from dianjing.pipelines.conversation.parsing.chat_model import load_chat_model
    from dianjing.pipelines.prompting.enhancement import enhance_prompt

    complete = load_chat_model(job.enhance, device=resolve_device(torch, job.device))
    enhanced = enhance_prompt(job.prompt, complete, medium="video")
    del complete  # the chat model's memory is needed next
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    message = enhanced.warning or Message("prompt_enhanced", prompt=enhanced.prompt)
    print(message.render(get_language()), file=sys.stderr, flush=True)
    if enhanced.warning is not None:
        return job
    metadata = {"original_prompt": job.prompt, "enhanced_by": job.enhance}
    return replace(job, prompt=enhanced.prompt, extra_metadata=job.extra_metadata | metadata)
