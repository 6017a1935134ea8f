"""What people say to change a picture of the sticker world, for measuring how well they are understood.

{a} is a new object with its article, {x} and {y} are objects that are there, {xs} is the plural, {n} a number, {m} a
measure word, {c} a colour, {side} a side of {y}; {place} and {where} are phrases such as "on the left", "at sea".
They are kept apart from the rules that read them (dianjing.pipelines.conversation.rules): do not tune those on these.
"""

SIDES_EN = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
SIDES_ZH = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}
PHRASES_EN = {
    "background": (
        "let's see how it looks {where}", "now picture everything {where}", "can you set the scene {where}?",
        "actually, this should happen {where}", "take us somewhere else: {where}", "everything stays, only {where} now",
    ),
    "add": (
        "there's still space, so add {a}", "it needs {a}", "please include {a} as well", "how about {a} too?",
        "could you draw {a} next to all that?", "and {a}, if you can",
    ),
    "add beside": (
        "draw {a} {side} the {y}", "there ought to be {a} {side} the {y}", "{side} the {y}, add {a}",
    ),
    "remove": (
        "please remove the {x}", "i've changed my mind about the {x}, delete it", "get rid of the {x}",
        "the {x} has to go", "without the {x}, please", "the {x} is not needed, take it away",
    ),
    "replace": (
        "replace the {x} with {a}", "can the {x} become {a}?", "change the {x} to {a}", "i meant {a}, not the {x}",
        "switch the {x} with {a}", "put {a} where the {x} is",
    ),
    "move": (
        "move the {x}: {place}", "i think the {x} belongs {place}", "slide the {x} over so it is {place}",
        "let the {x} stand {place}", "the {x} would look nicer {place}",
    ),
    "move beside": (
        "move the {x} {side} the {y}", "could the {x} stand {side} the {y}?", "the {x} belongs {side} the {y}",
    ),
    "bigger": (
        "the {x} could be a lot bigger", "i can hardly see the {x}, make it bigger", "a larger {x}, please",
        "let the {x} grow", "increase the size of the {x}",
    ),
    "smaller": (
        "the {x} takes up too much room, make it smaller", "reduce the {x} a little", "let the {x} shrink",
        "i'd like the {x} smaller", "the {x} is far too large",
    ),
    "count": (
        "i need {n} {xs}", "change it so there are {n} {xs}", "make it {n} {xs}", "{n} {xs} would be better",
        "draw {n} {xs} altogether",
    ),
    "recolour": (
        "make the {x} {c}", "change the colour of the {x} to {c}", "the {x} ought to be {c}", "give me the {x} in {c}",
        "dye the {x} {c}",
    ),
    "another": ("add another one", "another {x}, please", "i want one more {x}", "one {x} more"),
    "undo": ("take that back", "please undo the last step", "cancel that", "never mind, go back", "revert it"),
}  # fmt: skip
PHRASES_ZH = {
    "background": (
        "把背景换成{background}", "现在让一切发生在{where}", "背景要{background}", "换个地方，去{where}",
        "改到{where}怎么样？",
        "其他不动，背景变成{background}",
    ),
    "add": ("请加上{a}", "再添{a}", "画面里还应该有{a}", "我还想加{a}", "另外放{a}进去", "要是有{a}就更好了"),
    "add beside": ("在{y}的{side}加{a}", "{y}的{side}应该有{a}", "请把{a}画在{y}的{side}"),
    "remove": ("请删除{x}", "把{x}去掉", "{x}可以拿掉了", "不需要{x}", "我改主意了，不要{x}", "让{x}消失"),
    "replace": ("把{x}换成{a}", "我想把{x}改为{a}", "{x}变成{a}", "不是{x}，是{a}", "{a}比{x}好，换一下",
        "请用{a}代替{x}"),
    "move": ("请把{x}移到{place}", "{x}往{place}移", "把{x}放在{place}", "{x}换到{place}去", "{x}的位置改到{place}"),
    "move beside": ("把{x}移到{y}的{side}", "{x}放在{y}{side}", "请让{x}站在{y}的{side}"),
    "bigger": ("让{x}变大", "把{x}画大一些", "{x}不够大", "{x}要更大", "请放大{x}"),
    "smaller": ("让{x}变小", "把{x}画小一些", "{x}占的地方太多了，缩小一点", "{x}要更小", "请缩小{x}"),
    "count": ("改成{n}", "应该有{n}", "画{n}", "需要{n}", "数量不对，是{n}"),
    "recolour": ("把{x}改成{c}", "{x}的颜色换成{c}", "{x}应该是{c}的", "给{x}染上{c}", "让{x}变成{c}"),
    "another": ("再画一{m}", "多画一{m}{x}", "同样的再来一{m}", "{x}再添一{m}"),
    "undo": ("回到上一步", "撤回刚才的改动", "还是原来的好", "算了，恢复吧", "后悔了，撤销"),
}  # fmt: skip
