"""The names that ship with the embedded model, and a small pipeline to talk to."""

import pytest

from dianjing.pipelines.conversation.rules import Rules
from dianjing.pipelines.names import FILE_NAME, Names
from dianjing.weights import registry


@pytest.fixture(scope="session")
def names():
    return Names.from_file(registry.ENTRIES[0].folder / FILE_NAME)


@pytest.fixture(scope="session")
def rules(names):
    return Rules(names)


@pytest.fixture
def talk(loaded, names):
    """A conversation over tiny random weights, two steps a picture."""
    from dianjing import Conversation

    return Conversation(loaded, seed=3, num_inference_steps=2)
