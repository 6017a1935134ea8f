"""Motion vocabulary: paraphrases of a motion and its canonical phrase."""

import pytest

from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.train.recipes.bundle import measure_motion_vocabulary
from dianjing.train.recipes.motion_phrases import list_known_phrases, make_gerund, make_third_person
from dianjing.train.stickers.motions import MOTIONS
from dianjing.weights.resolve import resolve_local_model


@pytest.fixture(scope="module")
def motions() -> MotionVocabulary:
    return measure_motion_vocabulary(size_px=64)


def test_every_paraphrase_has_the_canonical_phrase_of_its_language(motions):
    for motion in MOTIONS:
        zh, en = motion.paraphrases
        assert {motions.canonicalize(phrase) for phrase in zh} == {zh[0]}
        assert {motions.canonicalize(phrase) for phrase in en} == {en[0]}


def test_words_around_a_phrase_do_not_matter_and_unknown_phrases_stay(motions):
    assert motions.canonicalize("make it Bow") == "nod"
    assert motions.canonicalize("让它跳起来") == "跳"
    assert motions.canonicalize("dance") == "dance"
    assert MotionVocabulary().canonicalize("jump up and down") == "jump up and down"


def test_every_known_phrase_names_one_motion(motions):
    """The longest phrase that a text contains decides."""
    for motion in MOTIONS:
        zh, en = motion.paraphrases
        for phrase in list_known_phrases(motion):
            assert motions.canonicalize(phrase) == (en if phrase.isascii() else zh)[0], phrase


@pytest.mark.parametrize(
    ("verb", "third_person", "gerund"),
    [
        ("move", "moves", "moving"),
        ("go", "goes", "going"),
        ("fly", "flies", "flying"),
        ("spin", "spins", "spinning"),
        ("swim", "swims", "swimming"),
        ("get", "gets", "getting"),
        ("roll", "rolls", "rolling"),
        ("bow", "bows", "bowing"),
        ("sway", "sways", "swaying"),
        ("leap", "leaps", "leaping"),
        ("descend", "descends", "descending"),
        ("quiver", "quivers", "quivering"),
        ("become", "becomes", "becoming"),
    ],
)
def test_forms_of_verbs(verb, third_person, gerund):
    assert (make_third_person(verb), make_gerund(verb)) == (third_person, gerund)


@pytest.mark.parametrize(
    ("prompt", "motion", "image"),
    [
        ("a dog jumps in a meadow", "jump", "a dog in a meadow"),
        ("a red balloon rises in the city", "rise", "a red balloon in the city"),
        ("a cat walks to the left", "move left", "a cat"),
        ("草地上，一只猫往右跑", "向右移动", "草地上，一只猫"),
        ("一架飞机起飞", "向上移动", "一架飞机"),
    ],
)
def test_prompts_name_motions_as_people_do(prompt, motion, image):
    folder = resolve_local_model("sticker")
    motions, concepts = (
        each.from_file(folder / name)
        for each, name in ((MotionVocabulary, "motions.json"), (ConceptVocabulary, "concepts.json"))
    )
    parsed = MotionPromptParser(motions, concepts).parse(prompt)
    (subject,) = parsed.subjects
    assert motions.canonicalize(subject.motion) == motions.canonicalize(motion)
    assert parsed.static_prompt == image
