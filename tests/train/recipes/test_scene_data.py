"""Scenes for the adapter of few steps: one layout for each caption."""

from collections import defaultdict

from dianjing.train.recipes.sticker_scene_data import ONE_LAYOUT, SCENES, has_default_layout
from dianjing.train.stickers import StickerWorld

WORLD = StickerWorld(stages=(SCENES[ONE_LAYOUT],))


def test_scenes_of_a_default_layout_that_say_the_same_look_the_same():
    """The number of objects, their relation and their order decide where they are."""
    layouts = defaultdict(set)
    scenes = [WORLD.get_image_sample(3, position).scene for position in range(3000)]
    for scene in filter(has_default_layout, scenes):
        if scene.scene_type != "single":
            boxes = [(each.x_px, each.y_px, each.size_px) for each in scene.instances]
            is_ordered = scene.scene_type == "pair"
            layout = (*(boxes if is_ordered else sorted(boxes)), scene.variant)
            layouts[scene.scene_type, len(boxes), scene.relation].add(layout)
    assert len(layouts) == 8  # two, three and four of a kind; pairs in four relations and without one
    assert all(len(each) == 1 for each in layouts.values()), layouts
    assert any(not has_default_layout(scene) for scene in scenes if scene.variant == 0)
