"""Names of the concepts of a model: shipped with it, saved with it, found in both languages."""

import pytest

from dianjing import TextToImagePipeline
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE, ConceptVocabulary
from dianjing.weights import registry

SHIPPED = registry.MODELS[0].bundled_folder / CONCEPTS_FILE


def test_the_shipped_concepts_are_those_of_the_sticker_world():
    from dianjing.train.stickers.captions import make_concept_vocabulary

    assert ConceptVocabulary.from_file(SHIPPED) == make_concept_vocabulary()


def test_names_are_found_in_both_languages():
    concepts = ConceptVocabulary.from_file(SHIPPED)
    for name in ("cat", "kitten", "cats", "小猫", "猫咪"):
        assert concepts.find_object(name).names_en[0] == "cat"
    assert concepts.find_object("gryphon") is None
    assert concepts.find_object("") is None
    assert concepts.find_colour("红").name_en == concepts.find_colour("红色").name_en == "red"
    assert concepts.find_background("在草地上") is None
    assert concepts.find_background("草地上").name_en == concepts.find_background("on a lawn").name_en == "grass"


def test_a_saved_pipeline_keeps_its_concepts(pipe, tmp_path):
    pipe.concept_vocabulary = ConceptVocabulary.from_file(SHIPPED)
    pipe.save_pretrained(tmp_path)
    assert TextToImagePipeline.from_pretrained(tmp_path).concept_vocabulary == pipe.concept_vocabulary


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"objects": [], "colours": []}', '{"objects": [{"name": 1}]}', "[" * 9999]
)
def test_any_other_content_is_refused(tmp_path, text):
    (tmp_path / CONCEPTS_FILE).write_text(text)
    with pytest.raises(ValueError, match="no list of objects"):
        ConceptVocabulary.from_file(tmp_path / CONCEPTS_FILE)
