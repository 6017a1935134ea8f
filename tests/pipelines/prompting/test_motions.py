"""Motion vocabulary: paraphrases of a motion and its canonical phrase."""

import pytest

from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.train.recipes.bundle import measure_motion_vocabulary
from dianjing.train.stickers.motions import MOTIONS


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
