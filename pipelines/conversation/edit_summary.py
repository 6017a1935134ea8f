"""Summaries of edits in a few words of English or Chinese."""

from dianjing.pipelines.conversation.captions import (
    NUMBER_WORDS_EN,
    NUMBER_WORDS_ZH,
    POSITION_PHRASES_EN,
    POSITION_PHRASES_ZH,
    build_noun_phrase,
)
from dianjing.pipelines.conversation.edits import (
    AddObject,
    Edit,
    MoveObject,
    NewScene,
    ObjectSpec,
    RecolourObject,
    Regenerate,
    RemoveObject,
    ReplaceObject,
    ResizeObject,
    SetBackground,
    SetObjectCount,
    Undo,
)
from dianjing.pipelines.conversation.scene import Box, Scene, SceneObject
from dianjing.pipelines.prompting.concepts import ConceptVocabulary

RELATION_WORDS_ZH = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}
RELATION_WORDS_EN = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def summarize_edit(edit: Edit, scene: Scene | None, concept_vocabulary: ConceptVocabulary, *, language: str) -> str:
    """Summarize an edit of `scene`, the scene before it, such as "added a dog" or 加了一只小狗."""
    zh = language == "zh"
    if isinstance(edit, NewScene):
        return "生成了新的图片" if zh else "generated a new image"
    if isinstance(edit, Regenerate):
        return "用新的噪声重新生成了图片" if zh else "generated it again from other noise"
    if scene is None or isinstance(edit, Undo):
        return "撤销了上一步" if zh else "undid the last change"
    if isinstance(edit, SetBackground):
        known = concept_vocabulary.find_background(edit.background)
        name = edit.background if known is None else known.name_zh if zh else known.name_en
        return f"背景换成了{name}" if zh else f"changed the background to {name}"
    if isinstance(edit, AddObject):
        phrase = _build_spec_phrase(edit.spec, concept_vocabulary, language)
        return f"加了{phrase}" if zh else f"added {phrase}"
    return _summarize_object_edit(edit, scene, concept_vocabulary, zh=zh)


def _summarize_object_edit(
    edit: RemoveObject | ReplaceObject | MoveObject | ResizeObject | SetObjectCount | RecolourObject,
    scene: Scene,
    concept_vocabulary: ConceptVocabulary,
    *,
    zh: bool,
) -> str:
    name = _get_object_name(scene.objects[edit.target].name, concept_vocabulary, zh=zh)
    if isinstance(edit, RemoveObject):
        return f"去掉了{name}" if zh else f"removed the {name}"
    if isinstance(edit, ReplaceObject):
        phrase = _build_spec_phrase(edit.spec, concept_vocabulary, "zh" if zh else "en")
        return f"把{name}换成了{phrase}" if zh else f"replaced the {name} with {phrase}"
    if isinstance(edit, ResizeObject):
        return (
            f"把{name}变{'大' if edit.direction == 'bigger' else '小'}了" if zh else f"made the {name} {edit.direction}"
        )
    if isinstance(edit, SetObjectCount):
        number = NUMBER_WORDS_ZH[edit.count] if zh else NUMBER_WORDS_EN[edit.count]
        return f"{name}变成了{number}个" if zh else f"there are now {number} of the {name}"
    if isinstance(edit, RecolourObject):
        colour = concept_vocabulary.find_colour(edit.colour)
        colour_name = edit.colour if colour is None else colour.name_zh if zh else colour.name_en
        return f"把{name}变成了{colour_name}" if zh else f"made the {name} {colour_name}"
    return _summarize_move(edit, name, scene, concept_vocabulary, zh=zh)


def _summarize_move(
    edit: MoveObject, object_name: str, scene: Scene, concept_vocabulary: ConceptVocabulary, *, zh: bool
) -> str:
    if edit.position is not None:
        if zh:
            return f"把{object_name}移到了{POSITION_PHRASES_ZH[edit.position]}"
        return f"moved the {object_name}: {POSITION_PHRASES_EN[edit.position]}"
    assert edit.anchor is not None
    assert edit.relation is not None
    other = _get_object_name(scene.objects[edit.anchor].name, concept_vocabulary, zh=zh)
    if zh:
        return f"把{object_name}移到了{other}的{RELATION_WORDS_ZH[edit.relation]}"
    return f"moved the {object_name} {RELATION_WORDS_EN[edit.relation]} the {other}"


def _get_object_name(name: str, concept_vocabulary: ConceptVocabulary, *, zh: bool) -> str:
    known = concept_vocabulary.find_object(name)
    return name if known is None else known.names_zh[0] if zh else known.names_en[0]


def _build_spec_phrase(spec: ObjectSpec, concept_vocabulary: ConceptVocabulary, language: str) -> str:
    scene_object = SceneObject(name=spec.name, colour=spec.colour, boxes=(Box(x=0, y=0, side=1),))
    return build_noun_phrase(scene_object, concept_vocabulary, language=language, count=spec.count, size=spec.size)
