"""The sticker world: determinism, truth, what is kept out of training, and what captions say."""

import time
from itertools import product

import numpy as np
import pytest

from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.atlas import get_sprite, tint
from dianjing.train.stickers.backgrounds import BACKGROUNDS, render_background
from dianjing.train.stickers.captions import list_caption_words, pluralize
from dianjing.train.stickers.scenes import SCENE_TYPES, is_held_out
from dianjing.train.stickers.sprite_classes import COLOURS, load_sprite_classes

ALL_KINDS = CurriculumStage(scene_weights=dict.fromkeys(SCENE_TYPES, 1.0), grid_px=(16,))


def samples(count, *, size_px=64, stages=(ALL_KINDS,), split="train", seed=0):
    world = StickerWorld(size_px=size_px, stages=stages, split=split)
    return [world.get_image_sample(seed, position) for position in range(count)]


def test_the_world_has_at_least_three_hundred_objects_with_names_in_both_languages():
    assert len(load_sprite_classes()) >= 300
    assert all(thing.names_en and thing.names_zh and thing.measure_word_zh for thing in load_sprite_classes())


def test_no_name_stands_for_two_objects():
    for names in (
        [n for t in load_sprite_classes() for n in t.names_en],
        [n for t in load_sprite_classes() for n in t.names_zh],
    ):
        assert len(names) == len(set(names))


def test_a_sample_is_a_function_of_seed_and_position_alone():
    first, again = StickerWorld(size_px=64, stages=[ALL_KINDS]), StickerWorld(size_px=64, stages=[ALL_KINDS])
    for position in (5, 0, 999_999):
        a, b = first.get_image_sample(3, position), again.get_image_sample(3, position)
        assert (a.scene, a.text_zh, a.text_en) == (b.scene, b.text_zh, b.text_en)
        np.testing.assert_array_equal(a.image, b.image)
    assert first.get_image_sample(3, 5).scene != first.get_image_sample(4, 5).scene


def test_outside_the_masks_a_picture_is_its_background():
    for sample in samples(20):
        boxes = np.zeros(sample.image.shape[:2], bool)
        for x, y, width, height in sample.boxes:
            boxes[y : y + height, x : x + width] = True
        background = render_background(sample.scene.background, sample.scene.variant, size_px=64)
        np.testing.assert_array_equal(sample.image[~boxes], background[~boxes])
        assert not (sample.masks.any(0) & ~boxes).any()


def test_inside_its_mask_an_object_shows_its_own_sprite():
    for sample in samples(20):
        for item, mask, (x, y, side, _) in zip(sample.scene.instances, sample.masks, sample.boxes, strict=True):
            solid = mask[y : y + side, x : x + side] & (
                get_sprite(item.class_id, size_px=side, colour=item.colour)[..., 3] == 255
            )
            shown = sample.image[y : y + side, x : x + side]
            drawn = get_sprite(item.class_id, size_px=side, colour=item.colour)[..., :3]
            np.testing.assert_array_equal(shown[solid], drawn[solid])


def test_masks_of_several_objects_never_overlap():
    for sample in samples(40):
        assert sample.masks.sum(0).max() <= 1


def test_training_never_shows_a_kept_out_combination():
    for sample in samples(500):
        scene = sample.scene
        assert not any(is_held_out(item.class_id, scene.background, item.cell) for item in scene.instances)


def test_every_mention_of_a_held_out_scene_stands_in_a_kept_out_combination():
    for sample in samples(
        8, stages=[CurriculumStage(scene_weights={"pair": 1.0, "single": 1.0}, grid_px=(16,))], split="held_out"
    ):
        scene = sample.scene
        kept_out = {
            item.class_id for item in scene.instances if is_held_out(item.class_id, scene.background, item.cell)
        }
        assert {mention.class_id for mention in scene.mentions} <= kept_out


def test_a_tenth_of_all_combinations_is_kept_out():
    combinations = list(product(range(len(load_sprite_classes())), range(len(BACKGROUNDS)), range(9)))
    share = sum(is_held_out(*each) for each in combinations) / len(combinations)
    assert 0.095 < share < 0.105


def test_captions_name_the_objects_their_colours_and_their_numbers():
    for sample in samples(200):
        for mention in sample.scene.mentions:
            thing = load_sprite_classes()[mention.class_id]
            forms = [*thing.names_en, *(pluralize(name) for name in thing.names_en)]
            assert any(form in sample.text_en for form in forms), sample.text_en
            assert any(name in sample.text_zh for name in thing.names_zh), sample.text_zh
            if mention.colour is not None:
                assert COLOURS[mention.colour].name_en in sample.text_en
                assert COLOURS[mention.colour].name_zh[:-1] in sample.text_zh
            if mention.count > 1:
                assert {2: "two", 3: "three", 4: "four"}[mention.count] in sample.text_en


def test_relations_hold_between_the_boxes():
    checked = 0
    for sample in samples(200, stages=[CurriculumStage(scene_weights={"pair": 1.0}, grid_px=(16,))]):
        if sample.scene.relation is None:
            continue
        (xa, ya, side_a, _), (xb, yb, side_b, _) = sample.boxes
        across, down = xa + side_a / 2 - xb - side_b / 2, ya + side_a / 2 - yb - side_b / 2
        apart = {"left": -across, "right": across, "above": -down, "below": down}[sample.scene.relation]
        assert apart > 0
        checked += 1
    assert checked > 100


def test_the_vocabulary_covers_every_caption():
    words = list_caption_words()
    lexicon = Vocabulary(zh=frozenset(words["zh"]), en=frozenset(words["en"]))
    for sample in samples(400):
        assert lexicon.find_unknown_words(sample.text_zh) == [], sample.text_zh
        assert lexicon.find_unknown_words(sample.text_en) == [], sample.text_en
    assert lexicon.find_unknown_words("a submarine on the grass") == ["submarine"]


def test_stages_follow_one_another_by_position():
    stages = [
        CurriculumStage(scene_weights={"single": 1.0}, grid_px=(32,), until_position=10),
        CurriculumStage(scene_weights={"count": 1.0}, grid_px=(16,)),
    ]
    drawn = samples(20, stages=stages)
    assert {sample.scene.scene_type for sample in drawn[:10]} == {"single"}
    assert {sample.scene.scene_type for sample in drawn[10:]} == {"count"}
    assert all(item.x_px % 32 == 0 and item.size_px % 32 == 0 for s in drawn[:10] for item in s.scene.instances)


def test_an_object_tinted_red_is_red_where_it_was_coloured():
    balloon = next(t.id for t in load_sprite_classes() if "balloon" in t.names_en)
    red = get_sprite(balloon, size_px=96, colour=0).astype(float)
    body = red[20:40, 40:56, :3].mean((0, 1))
    assert body[0] > 150
    assert body[1] < 100
    assert body[2] < 100


def test_tinting_leaves_grey_pixels_as_they_are():
    grey = np.full((4, 4, 4), 180, np.uint8)
    np.testing.assert_array_equal(tint(grey, (255, 0, 0)), grey)


def test_one_core_makes_a_thousand_samples_a_second():
    world = StickerWorld(size_px=64, stages=[ALL_KINDS])
    for position in range(2000):  # fills the sprite cache
        world.get_image_sample(1, position).image  # noqa: B018
    rates = []
    for block in range(3):
        started = time.process_time()
        for position in range(2000 + 500 * block, 2500 + 500 * block):
            world.get_image_sample(1, position).image  # noqa: B018
        rates.append(500 / (time.process_time() - started))
    assert max(rates) >= 1000


@pytest.mark.parametrize("size_px", [0, 60, 24])
def test_an_impossible_size_is_refused(size_px):
    with pytest.raises(ValueError, match="multiple of 8"):
        StickerWorld(size_px=size_px)


def test_an_unknown_kind_of_scene_is_refused():
    with pytest.raises(ValueError, match="the scene types are single, count, pair, trio"):
        CurriculumStage(scene_weights={"singel": 1.0})


def test_shares_of_coloured_and_sized_objects_are_as_asked():
    stage = CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), coloured_share=0.3, sized_share=0.6)
    mentions = [sample.scene.mentions[0] for sample in samples(2000, stages=[stage])]
    assert abs(np.mean([mention.colour is not None for mention in mentions]) - 0.3) < 0.05
    assert abs(np.mean([mention.size is not None for mention in mentions]) - 0.6) < 0.05


def test_tidy_scenes_have_one_size_and_place_for_the_same_words():
    stage = CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.7, canonical_share=1.0)
    seen = {}
    for sample in samples(600, stages=[stage]):
        (mention,), (item,) = sample.scene.mentions, sample.scene.instances
        seen.setdefault((mention.size, mention.cell), set()).add((item.x_px, item.y_px, item.size_px))
    assert {size for size, _ in seen} == {"big", "small", None}
    assert all(len(places) == 1 for places in seen.values())
