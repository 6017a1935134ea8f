"""The names that ship with the embedded model, and a small pipeline to talk to."""

import pytest

from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.weights import registry


@pytest.fixture(scope="session")
def concept_vocabulary():
    return ConceptVocabulary.from_file(registry.MODELS[0].bundled_folder / CONCEPTS_FILE)


@pytest.fixture(scope="session")
def rule_parser(concept_vocabulary):
    return RuleParser(concept_vocabulary)


@pytest.fixture
def conversation(loaded):
    """A conversation over tiny random weights, two steps a picture."""
    from dianjing import Conversation

    return Conversation(loaded, seed=3, num_inference_steps=2)
