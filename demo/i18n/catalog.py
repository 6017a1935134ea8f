"""The texts of the page. The browser chooses their language by key, through Gradio's `I18n`."""

from dataclasses import dataclass

from dianjing.errors import Language


@dataclass(frozen=True)
class BilingualText:
    """One text in both languages."""

    zh: str
    en: str


HEADER_TEXTS = {
    "head_title": BilingualText("点睛", "Dianjing"),
    "head_subtitle": BilingualText("用中文或英文生成图片和视频", "Images and videos from Chinese or English"),
    "licence_unknown": BilingualText("许可证未知", "licence unknown"),
    "tab_image": BilingualText("图片", "Image"),
    "tab_edit": BilingualText("编辑", "Edit"),
    "tab_animate": BilingualText("动画", "Animate"),
    "tab_video": BilingualText("视频", "Video"),
    "tab_chat": BilingualText("对话", "Chat"),
}
SETTINGS_TEXTS = {
    "advanced": BilingualText("更多设置", "More settings"),
    "prompt": BilingualText("提示词", "Prompt"),
    "enter_generates": BilingualText("Enter 键生成，Shift+Enter 换行", "Enter generates, Shift+Enter breaks the line"),
    "negative_prompt": BilingualText("反向提示词（不要出现的内容）", "Negative prompt (what to avoid)"),
    "size": BilingualText("尺寸", "Size"),
    "size_info": BilingualText("这个模型的训练尺寸；其他尺寸在下方填写", "Sizes of its training; others below"),
    "control_image": BilingualText("要遵循的图片", "An image to follow"),
    "control_scale": BilingualText("遵循的程度", "How closely to follow it"),
    "control_preprocessor": BilingualText("预处理", "Preprocessor"),
    "control_preprocessor_info": BilingualText(
        "从图片提取边缘、线稿等；图片本身就是控制图片时选“–”",
        "Takes edges, lines or the like from the image; “–” for one that shows them already",
    ),
    "control_start": BilingualText("从步数的哪里开始（0 到 1）", "Acts from this part of the steps"),
    "control_end": BilingualText("到步数的哪里结束（0 到 1）", "Acts up to this part of the steps"),
    "picture_prompt": BilingualText("作为提示的图片", "A picture as prompt"),
    "picture_scale": BilingualText("图片的强度", "Strength of the picture"),
    "adapter_info": BilingualText("适配器的强度，0 表示不使用", "Strength of this adapter; 0 switches it off"),
    "width": BilingualText("宽度（像素）", "Width (px)"),
    "height": BilingualText("高度（像素）", "Height (px)"),
    "steps": BilingualText("采样步数", "Steps"),
    "steps_info": BilingualText("步数越多越精细，也越慢", "More steps give finer results and take longer"),
    "guidance": BilingualText("引导系数", "Guidance scale"),
    "guidance_info": BilingualText("越大越贴近提示词", "Higher values follow the prompt more closely"),
    "guidance_mode": BilingualText("引导方式", "Guidance mode"),
    "guidance_mode_info": BilingualText("选项写在冒号之后，例如 apg:eta=0.5", "Options after a colon: apg:eta=0.5"),
    "scheduler": BilingualText("调度器", "Scheduler"),
    "scheduler_info": BilingualText(
        "选项写在冒号之后，例如 EulerDiscreteScheduler:use_karras_sigmas",
        "Options follow a colon, such as EulerDiscreteScheduler:use_karras_sigmas",
    ),
    "steps_choice": BilingualText("步数", "Number of steps"),
    "steps_choice_info": BilingualText("默认少步，用适配器时除外", "Few by default, but not with adapters"),
    "steps_choice_default": BilingualText("默认", "Default"),
    "steps_choice_few": BilingualText("少步", "Few"),
    "steps_choice_own": BilingualText("自定", "As set below"),
    "models_own": BilingualText("模型默认", "The model's own"),
    "seed": BilingualText("随机种子", "Seed"),
    "size_of_image": BilingualText("随图片比例", "as the image"),
    "seed_placeholder": BilingualText("留空则每次随机", "Empty: a new one each time"),
    "visible_label": BilingualText("在角落标注“AI生成”", "Mark “AI” in the corner"),
    "visible_label_info": BilingualText("文件内始终带有隐式标识", "The file itself always carries an AI label"),
    "restore_from_file": BilingualText("恢复设置：拖入在这里生成的文件", "Restore settings: drop a file made here"),
    "cancel": BilingualText("停止", "Stop"),
    "history": BilingualText("历史记录", "History"),
    "delete": BilingualText("删除", "Delete"),
    "download_all": BilingualText("全部下载", "Download all"),
    "clear_all": BilingualText("全部清除", "Clear all"),
    "clear_confirm": BilingualText("确定删除", "Delete all"),
    "clear_keep": BilingualText("保留", "Keep"),
    "examples": BilingualText("示例，点击即生成", "Examples: a click generates"),
}
IMAGE_TEXTS = {
    "image_placeholder": BilingualText("例如：草地上的一只小猫", "For example: a cat on the grass"),
    "image_button": BilingualText("生成图片", "Generate"),
    "make_album": BilingualText("制作表情包", "Make a sticker album"),
    "transparent": BilingualText("透明背景", "Transparent background"),
    "transparent_video_info": BilingualText(
        "只留下描述中的物体；下载 WebP、GIF 或 APNG", "Keeps what the prompt names alone; download WebP, GIF or APNG"
    ),
    "transparent_animation_info": BilingualText(
        "只留下选中的物体；下载 WebP、GIF 或 APNG", "Keeps what is selected alone; download WebP, GIF or APNG"
    ),
    "transparent_info": BilingualText("抠出描述中的物体", "Cuts out what the prompt names"),
    "image_count": BilingualText("图片数量", "Number of images"),
    "image_to_edit": BilingualText("编辑", "Edit"),
    "image_to_animate": BilingualText("制作动画", "Animate"),
    "image_to_settings": BilingualText("使用其设置", "Use its settings"),
    "download": BilingualText("下载", "Download"),
}
EDIT_TEXTS = {
    "edit_picture": BilingualText("要编辑的图片", "The image to edit"),
    "edit_brush": BilingualText("画笔大小（%）", "Brush size (%)"),
    "edit_undo": BilingualText("撤销一笔", "Undo stroke"),
    "edit_words": BilingualText("用文字指出要改的部分", "What may change, in words"),
    "edit_words_info": BilingualText(
        "例如“那只猫”；与画笔二选一，都不用则编辑整张图片",
        "Such as “the cat”; or paint it with the brush; neither: all of the image",
    ),
    "edit_prompt": BilingualText("编辑后的图片内容", "What the edited image shows"),
    "edit_button": BilingualText("编辑图片", "Edit"),
    "edit_strength": BilingualText("改动强度", "Strength"),
    "edit_strength_info": BilingualText("0 保持原图，1 完全重新生成", "0 keeps the image, 1 starts from noise"),
}
ANIMATE_TEXTS = {
    "animate_picture": BilingualText(
        "点击要动的物体，或从物体上拖出路径", "Click on what should move, or drag a path from it"
    ),
    "animate_upload": BilingualText("拖入一张图片，或点击上传", "Drop an image here, or click to choose one"),
    "animate_click": BilingualText("点击的含义", "A click means"),
    "animate_in": BilingualText("要动的", "Moves"),
    "animate_out": BilingualText("不动的", "Stays"),
    "animate_anchor": BilingualText("连接处", "Joint"),
    "animate_undo": BilingualText("撤销", "Undo"),
    "animate_clear": BilingualText("清空", "Clear"),
    "animate_region": BilingualText("区域", "Region"),
    "animate_add": BilingualText("添加区域", "Add region"),
    "animate_camera": BilingualText("镜头运动", "Camera"),
    "animate_remove": BilingualText("删除区域", "Remove"),
    "animate_pace": BilingualText("路径的快慢", "Pace of the path"),
    "animate_pace_info": BilingualText(
        "也可填写到达各点的时刻，从 0 到 1，例如 0 0.7 1", "Or the times at its points, from 0 to 1, such as 0 0.7 1"
    ),
    "pace_even": BilingualText("匀速", "Even"),
    "pace_faster": BilingualText("越来越快", "Faster and faster"),
    "pace_slower": BilingualText("越来越慢", "Slower and slower"),
    "pace_gentle": BilingualText("慢起慢停", "Gentle start and end"),
    "animate_turn": BilingualText("旋转（度）", "Turn (°)"),
    "animate_scale": BilingualText("最终大小", "Final size"),
    "strict_background": BilingualText("背景保持不变", "Keep the background"),
    "strict_background_info": BilingualText(
        "没有区域经过的部分与图片一致", "What no region moves over stays as in the image"
    ),
    "animate_motion": BilingualText("动作", "Motion"),
    "animate_strength": BilingualText("强度", "Strength"),
    "animate_prompt": BilingualText("图片内容（可不填）", "What the image shows (optional)"),
    "animate_frames": BilingualText("帧数", "Frames"),
    "animate_button": BilingualText("生成动画", "Generate"),
    "download_video": BilingualText("下载视频 MP4", "Video MP4"),
    "download_webp": BilingualText("动态贴纸 WebP", "Sticker WebP"),
    "download_apng": BilingualText("透明贴纸 APNG", "Sticker APNG"),
    "download_gif": BilingualText("动态贴纸 GIF", "Sticker GIF"),
}
VIDEO_TEXTS = {
    "video_prompt": BilingualText("提示词：内容和动作", "Prompt: the scene and its motion"),
    "video_placeholder": BilingualText("例如：草地上的小猫在跳", "For example: a cat jumping on the grass"),
    "video_model": BilingualText("模型", "Model"),
    "video_seconds": BilingualText("时长（秒）", "Duration (s)"),
    "video_fps": BilingualText("每秒帧数", "Frames per second"),
    "continuation": BilingualText("首帧之后的帧", "Frames after the first one"),
    "long_video": BilingualText("长视频的分段方式", "Windows of a long video"),
    "long_video_autoregressive": BilingualText("逐段生成", "One after the other"),
    "long_video_joint": BilingualText("同时生成", "All together"),
    "video_button": BilingualText("生成视频", "Generate"),
}
CHAT_TEXTS = {
    "chat_history": BilingualText("对话", "Conversation"),
    "chat_placeholder": BilingualText(
        "先说要生成的图片，例如“画一只小猫”；再说要修改的地方，例如“背景换成夜空”。没有提到的部分保持不变。",
        "Describe an image, such as “a cat on the grass”, and then what to change, such as “add a moon on the "
        "right”. Everything that is not mentioned stays.",
    ),
    "chat_text": BilingualText("消息", "Message"),
    "chat_message": BilingualText("输入消息……", "Type a message ..."),
    "enter_sends": BilingualText("Enter 键发送，Shift+Enter 换行", "Enter sends, Shift+Enter breaks the line"),
    "chat_button": BilingualText("发送", "Send"),
    "chat_undo": BilingualText("撤销", "Undo"),
    "chat_new": BilingualText("新建对话", "New conversation"),
    "chat_fork": BilingualText("复制为新对话", "Fork"),
    "chat_conversation": BilingualText("选择对话", "Conversations"),
    "chat_save": BilingualText("保存到文件", "Save"),
    "chat_load": BilingualText("打开文件", "Open"),
}
LOGIN_TEXTS = {
    "login_user": BilingualText("用户名", "User"),
    "login_password": BilingualText("密码", "Password"),
    "login_key": BilingualText("密钥", "Key"),
    "login_submit": BilingualText("登录", "Log in"),
}
TEXTS = {
    **HEADER_TEXTS,
    **SETTINGS_TEXTS,
    **IMAGE_TEXTS,
    **EDIT_TEXTS,
    **ANIMATE_TEXTS,
    **VIDEO_TEXTS,
    **CHAT_TEXTS,
    **LOGIN_TEXTS,
}

MOTION_SUGGESTIONS = (
    BilingualText("跳", "jump"),
    BilingualText("向右移动", "move right"),
    BilingualText("向左移动", "move left"),
    BilingualText("摇摆", "sway"),
    BilingualText("旋转", "spin"),
    BilingualText("变大", "grow"),
)

STATUS_TEXTS = {
    "waiting": BilingualText("排队中，前面还有 {position} 个任务", "In the queue behind {position} others"),
    "starting": BilingualText("即将开始", "Starting"),
    "step": BilingualText("第 {step} 步，共 {total} 步", "Step {step} of {total}"),
    "window": BilingualText(
        "第 {step} 步，共 {total} 步 · 第 {window} 段，共 {windows} 段",
        "Step {step} of {total} · window {window} of {windows}",
    ),
    "done": BilingualText("已完成，用时 {seconds} 秒", "Done in {seconds} s"),
    "cancelled": BilingualText("已停止，保留了未完成的结果", "Stopped; the unfinished result is kept"),
    "stopped": BilingualText("已停止", "Stopped"),
    "unknown_words": BilingualText(
        "这个模型不认识，已忽略：{words}。", "This model does not know, and left out: {words}."
    ),
    "truncated": BilingualText(
        "提示词太长，编码器只读取前 {max_tokens} 个词元，没有读到：“{text}”",
        "The prompt is too long: an encoder reads its first {max_tokens} tokens, and not “{text}”",
    ),
    "settings_restored": BilingualText("设置已恢复", "The settings are restored"),
    "settings_restored_without_image": BilingualText(
        "设置已恢复。要恢复区域，请先打开那张图片，再拖入一次文件。",
        "The settings are restored. To restore the regions, open the image of this animation and drop the file again.",
    ),
    "clear_question": BilingualText("要删除全部 {count} 项吗？", "Delete all {count}?"),
    "caption": BilingualText("{width} × {height} · 种子 {seed}", "{width} × {height} · seed {seed}"),
    "unfinished": BilingualText("未完成", "unfinished"),
    "chat_name": BilingualText("对话 {number}", "Conversation {number}"),
}


def format_status(name: str, language: Language, **values: object) -> str:
    """Fill in one of `STATUS_TEXTS`."""
    return getattr(STATUS_TEXTS[name], language).format(**values)


# texts that the page's script shows
SCRIPT_TEXTS = {
    "connection_lost": BilingualText(
        "与服务器的连接已断开，生成中的任务可能已经停止。服务器恢复后页面会自动重新加载。",
        "The server cannot be reached; what was being generated may be lost. This page loads again once it answers.",
    )
}
# Chinese for texts of Gradio that it does not translate; {0} and {1} stand for what an instance of the text holds
GRADIO_TEXTS_ZH = {
    "More tabs": "更多标签页",
    "Empty value": "还没有内容",
    "number input for {0}": "{0}：数值",
    "range slider for {0}": "{0}：滑块",
    "Reset to default value": "恢复默认值",
    "Click to upload or drop files": "点击上传，或拖入文件",
    "File upload": "上传文件",
    "Upload file": "上传文件",
    "Paste from clipboard": "从剪贴板粘贴",
    "Remove Image": "移除图片",
    "Fullscreen": "全屏",
    "Exit fullscreen mode": "退出全屏",
    "Close": "关闭",
    "Clear": "清空",
    "Remove this file": "移除这个文件",
    "Thumbnail {0} of {1}": "第 {0} 项，共 {1} 项",
    "chatbot conversation": "对话记录",
    "user's message: {0}": "您的消息：{0}",
    "bot's message: {0}": "回复：{0}",
    "Textbox": "文本框",
    "Video": "视频",
    "Error": "错误",
    "Warning": "提示",
    "Info": "信息",
    "Connection Lost": "连接已断开",
    "Connection to the server was lost. Attempting reconnection...": "与服务器的连接已断开，正在重新连接……",
    "Connection errored out.": "连接出错。",
    "Invalid file type: {0}. Only {1} allowed.": "不支持的文件：{0}。只能使用 {1}。",
    "Invalid file types: {0}. Only {1} allowed.": "不支持的文件：{0}。只能使用 {1}。",
    "File(s) exceed the maximum allowed size of {0}: {1}": "文件太大，最大 {0}：{1}",
    "File not allowed: {0}.": "不能打开这个文件：{0}。",
    "Value {0} is less than minimum value {1}.": "{0} 太小，最小是 {1}。",
    "Value {0} is greater than maximum value {1}.": "{0} 太大，最大是 {1}。",
    "processing |": "处理中",
    "queue: {0}/{1} |": "排队：第 {0} 个，共 {1} 个",
    "play-pause-replay-button": "播放或暂停",
    "Adjust volume": "音量",
    "High volume": "音量",
    "full-screen": "全屏",
    "Loading...": "加载中……",
    "Loading content": "正在加载",
    "uploading...": "正在上传……",
    "Scroll to bottom": "滚动到底部",
}


def get_script_texts() -> dict[str, object]:
    """Get the texts of the page's script: its own in both languages, and Chinese for Gradio's."""
    own = {name: {"zh": text.zh, "en": text.en} for name, text in SCRIPT_TEXTS.items()}
    return {"texts": own, "gradio_zh": GRADIO_TEXTS_ZH}
