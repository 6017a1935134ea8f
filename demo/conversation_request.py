"""Request for the next turn of a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import Self

from dianjing.demo.limits import ModelCapabilities
from dianjing.demo.request_adapters import (
    check_adapters,
    get_default_params,
    resolve_adapters,
    should_use_default_adapter,
)
from dianjing.demo.request_base import count_passes
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.cost_model import SamplingWork
from dianjing.pipelines.validation import check_prompt, coalesce

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation

# sampling runs of one turn of a conversation: two for each of three backgrounds, four objects on white and on black
MAX_SAMPLING_RUNS_PER_TURN = 14


@dataclass(frozen=True, kw_only=True, eq=False)
class ConversationRequest:
    """A request for the next turn of a conversation of `InferenceEngine.create_conversation`."""

    kind: ClassVar[str] = "conversation"

    conversation: "Conversation"
    text: str
    visible_label: bool | None = None
    adapters: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        check_prompt(self.text, "text")
        if self.adapters is not None:
            object.__setattr__(self, "adapters", check_adapters(self.adapters))

    def with_defaults(self, capabilities: ModelCapabilities) -> Self:
        """Fill in the adapters; the conversation holds the other parameters."""
        if not capabilities.can_chat:
            raise DianjingError("model_cannot_chat", model=capabilities.model)
        request = replace(self, adapters=resolve_adapters(self.adapters, capabilities))
        request.uses_default_adapter(capabilities)  # which refuses few steps that cannot be
        return request

    def uses_default_adapter(self, capabilities: ModelCapabilities) -> bool:
        """Return True if the model's default adapter draws this turn. Raises: DianjingError."""
        conversation, names = self.conversation, ("num_inference_steps", "guidance_scale")
        settings = {name: getattr(conversation, name) for name in names}
        return should_use_default_adapter(conversation.slow, settings, self.adapters or {}, capabilities)

    def list_work(self, capabilities: ModelCapabilities) -> list[SamplingWork]:
        """The sampling runs of the longest possible turn."""
        conversation, sampling = self.conversation, capabilities.default_sampling
        if sampling is not None and self.uses_default_adapter(capabilities):
            steps, passes = sampling.num_inference_steps, count_passes(sampling.guidance_scale)
        else:
            model_params = capabilities.num_inference_steps, capabilities.guidance_scale
            default_steps, default_scale = get_default_params(
                self.adapters or {}, capabilities, of_model=model_params, guidance_mode=None
            )
            steps = coalesce(conversation.num_inference_steps, default_steps)
            passes = count_passes(coalesce(conversation.guidance_scale, default_scale))
        return [SamplingWork(num_frames=1, num_steps=steps, num_passes=passes)] * MAX_SAMPLING_RUNS_PER_TURN

    def get_size(self, capabilities: ModelCapabilities) -> tuple[int, int]:
        return capabilities.default_size_px, capabilities.default_size_px

    def list_warnings(self, capabilities: ModelCapabilities) -> list[Message]:
        return []
