"""The texts that stand on the page. The browser chooses the language, by keys, in Gradio's `I18n`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """The same in both languages."""

    zh: str
    en: str


HEAD = {
    "head_title": Text("点睛", "Dianjing"),
    "head_motto": Text("画龙点睛，破壁而飞", "Dot the eye, and the dragon flies"),
    "tab_draw": Text("画图", "Draw"),
    "tab_animate": Text("让它动", "Animate"),
    "tab_film": Text("影片", "Film"),
    "tab_talk": Text("聊着画", "Talk"),
}

SETTINGS = {
    "advanced": Text("更多设置", "More settings"),
    "prompt": Text("画什么", "What to draw"),
    "negative_prompt": Text("不要出现", "What to leave out"),
    "width": Text("宽（像素）", "Width (px)"),
    "height": Text("高（像素）", "Height (px)"),
    "steps": Text("步数", "Steps"),
    "steps_info": Text("越多越细，也越慢", "More is finer, and slower"),
    "guidance": Text("听话程度", "Guidance"),
    "guidance_info": Text("越大越照着话画", "Higher follows the words more closely"),
    "seed": Text("种子", "Seed"),
    "keep_seed": Text("固定种子", "Keep the seed"),
    "visible_label": Text("角上标“AI生成”", "Mark “AI” in the corner"),
    "visible_label_info": Text("文件里总有隐式标识", "The file itself always says so"),
    "drop": Text("找回设置：拖入这里做的文件", "Settings back: drop a file made here"),
    "cancel": Text("停下", "Stop"),
    "made": Text("做过的", "Made so far"),
    "examples": Text("试试看", "Try one"),
}

DRAW = {
    "draw_placeholder": Text("例如：草地上的一只小猫", "For example: a cat on the grass"),
    "draw_button": Text("画", "Draw"),
    "draw_count": Text("几张", "How many"),
    "draw_to_animate": Text("让它动起来", "Bring it to life"),
    "draw_to_settings": Text("用它的设置", "Use its settings"),
    "download": Text("下载", "Download"),
    "clear_all": Text("全部清除", "Clear all"),
}

ANIMATE = {
    "animate_picture": Text("点一下要动的东西", "Click on what should move"),
    "animate_upload": Text("拖入一张图，或点击上传", "Drop a picture here, or click to choose one"),
    "animate_click": Text("点击表示", "A click means"),
    "animate_in": Text("要动的", "This moves"),
    "animate_out": Text("不要这里", "Not this"),
    "animate_undo": Text("撤销一点", "Undo a click"),
    "animate_clear": Text("清空", "Clear"),
    "animate_region": Text("第几处", "Region"),
    "animate_add": Text("再选一处", "Another region"),
    "animate_motion": Text("怎么动", "How it moves"),
    "animate_strength": Text("力度", "Strength"),
    "animate_prompt": Text("图里是什么（可不填）", "What the picture shows (may be left empty)"),
    "animate_frames": Text("帧数", "Frames"),
    "animate_button": Text("动起来", "Animate"),
    "download_video": Text("下载视频 MP4", "Video MP4"),
    "download_webp": Text("动态贴纸 WebP", "Sticker WebP"),
    "download_gif": Text("动态贴纸 GIF", "Sticker GIF"),
    "no_motion": Text(
        "**这个模型只会画静止的图。**它没有运动层，所以这一页现在用不了。换一个会动的模型打开即可："
        "`dianjing demo --model 文件夹`。",
        "**This model draws still pictures only.** It has no motion layers, so this tab cannot be used with it. "
        "Open one that has them: `dianjing demo --model FOLDER`.",
    ),
}

FILM = {
    "film_prompt": Text("拍什么", "What happens"),
    "film_placeholder": Text("例如：草地上的小猫在跳", "For example: a cat jumping on the grass"),
    "film_seconds": Text("几秒", "Seconds"),
    "film_fps": Text("每秒帧数", "Frames per second"),
    "film_button": Text("拍", "Film"),
}

TALK = {
    "talk_chat": Text("对话", "Conversation"),
    "talk_placeholder": Text(
        "说说要画什么，例如“画一只小猫”；再说要改哪里，例如“背景换成夜空”。没提到的都不变。",
        "Say what to draw, such as “a cat on the grass”; then what to change, such as “add a moon on the right”. "
        "What is not mentioned stays.",
    ),
    "talk_say": Text("说一句……", "Say something ..."),
    "talk_button": Text("说", "Say"),
    "talk_undo": Text("退一步", "Undo"),
    "talk_new": Text("新的对话", "New talk"),
    "talk_fork": Text("另开一路", "Fork"),
    "talk_which": Text("哪一路", "Talks"),
    "talk_save": Text("存成文件", "Save"),
    "talk_load": Text("打开文件", "Open"),
}  # fmt: skip

TEXTS = {**HEAD, **SETTINGS, **DRAW, **ANIMATE, **FILM, **TALK}

# one line each: the words of the small embedded model, so that a click on one always works
DRAW_EXAMPLES = (
    "草地上的一只小猫",
    "夜空下的一座房子",
    "三个红色的气球",
    "a penguin on the snow",
    "a dog to the left of a tree",
    "a blue car on the road",
)
FILM_EXAMPLES = ("一只小狗在向右走", "一只蝴蝶在拍翅膀", "a cat jumping on the grass", "a rocket moving up at night")
TALK_EXAMPLES = ("画一只小猫", "背景换成夜空", "draw a dog on the grass", "add a red balloon at the top right")
MOTIONS = (
    Text("跳", "jump"),
    Text("向右移动", "move right"),
    Text("向左移动", "move left"),
    Text("摇摆", "sway"),
    Text("旋转", "spin"),
    Text("变大", "grow"),
)
