"""What people say to change a picture of the sticker world, for measuring how well they are understood.

{a} is a new object with its article, {x} and {y} are objects that are there, {xs} is the plural, {n} a number, {m} a
measure word, {c} a colour, {side} a side of {y}; {place} and {where} are phrases such as "on the left", "at sea".
They are kept apart from the rules that read them (dianjing.pipelines.conversation.parsing.rules): do not tune those on these.
"""

SIDE_PHRASES_EN = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


SIDE_PHRASES_ZH = {"left": "左边", "right": "右边", "above": "上面", "below": "下面"}


EDIT_PARAPHRASES_EN = {
    "background": (
        "imagine the very same picture {where}",
        "new backdrop, please: {where}",
        "keep what's there, but have it {where}",
        "could all of this be {where} instead?",
        "a different setting would be nice, say {where}",
        "please shift the whole scene so it's {where}",
        "this picture would be nicer {where}",
    ),
    "add": (
        "put in {a} too, please",
        "can we also have {a}?",
        "i think {a} is still missing",
        "throw in {a}",
        "bring in {a} as well",
        "oh, and don't forget {a}",
    ),
    "add beside": (
        "can you fit in {a} {side} the {y}?",
        "the spot {side} the {y} is empty, put {a} there",
        "{side} the {y} i'd like to see {a}",
        "pop {a} in, {side} the {y}",
    ),
    "remove": (
        "erase the {x}",
        "let's do without the {x}",
        "could you take out the {x}?",
        "leave out the {x}, please",
        "on second thought, i don't want the {x} in there",
        "wipe the {x} off the picture",
        "the {x} shouldn't be in the picture at all",
    ),
    "replace": (
        "use {a} in place of the {x}",
        "sorry, the {x} was supposed to be {a}",
        "exchange the {x} for {a}",
        "take the {x} out and put {a} in its place",
        "could you draw {a} rather than the {x}?",
        "where the {x} is now, i want {a}",
        "transform the {x} into {a}",
    ),
    "move": (
        "the {x} is in the wrong spot, it goes {place}",
        "could you position the {x} {place}?",
        "drag the {x} over so that it ends up {place}",
        "i want the {x} to be {place}",
        "reposition the {x}: {place}, please",
    ),
    "move beside": (
        "position the {x} {side} the {y}",
        "the {x} would be better off {side} the {y}",
        "bring the {x} over so it's {side} the {y}",
        "can you get the {x} to be {side} the {y}?",
    ),
    "bigger": (
        "scale the {x} up",
        "could you make the {x} twice as big?",
        "the {x} is way too small for me",
        "the {x} ought to be larger than that",
        "why is the {x} so tiny? bigger, please",
    ),
    "smaller": (
        "scale the {x} down",
        "make the {x} half as big",
        "the {x} doesn't have to be that big",
        "cut the {x} down in size",
        "could you draw the {x} a bit smaller?",
    ),
    "count": (
        "there have to be exactly {n} {xs}",
        "{n} {xs} in all, please",
        "can we have {n} {xs} in total?",
        "the number of {xs} should be {n}",
        "let's go for a total of {n} {xs}",
    ),
    "recolour": (
        "could you turn the {x} {c}?",
        "i want the {x} to be {c}",
        "the {x} would look good in {c}",
        "{c} is the colour i want for the {x}",
        "recolour the {x}: {c}",
        "the {x} in {c}, please",
    ),
    "another": (
        "can i have one more?",
        "one more of the same, please",
        "let's have another {x}",
        "an extra {x} would be great",
    ),
    "undo": (
        "undo what you just did",
        "bring back the version before this one",
        "oops, i didn't want that change",
        "put it back the way it was",
        "no wait, it was better before",
    ),
}


EDIT_PARAPHRASES_ZH = {
    "background": (
        "背景不好看，改成{background}",
        "背景我想用{background}",
        "整个画面能不能换到{where}？",
        "这一幕放到{where}试试",
        "东西都留着，背景给我弄成{background}",
        "我觉得整个场面在{where}更合适",
        "麻烦换个背景，{background}就行",
    ),
    "add": (
        "顺便画上{a}",
        "{a}也给我画进去",
        "能多加{a}吗？",
        "我觉得还差{a}",
        "麻烦补上{a}",
        "对了，还得有{a}",
        "空着的地方画{a}吧",
    ),
    "add beside": (
        "{y}的{side}空着，画上{a}吧",
        "能不能在{y}{side}放{a}？",
        "麻烦往{y}的{side}添上{a}",
        "还缺{a}，就放{y}的{side}",
    ),
    "remove": (
        "{x}给我擦掉",
        "帮我把{x}删了",
        "{x}有点多余，拿走吧",
        "画里不要有{x}",
        "能不能把{x}清除掉？",
        "我觉得没有{x}更好",
    ),
    "replace": (
        "我要的是{a}，不是{x}",
        "把{x}拿走，原地画上{a}",
        "能不能拿{a}来换掉{x}？",
        "{x}给我改画成{a}",
        "{x}画错了，应该是{a}",
        "与其要{x}，不如要{a}",
    ),
    "move": (
        "{x}能挪去{place}吗？",
        "{x}的位置不对，应该放到{place}",
        "帮我把{x}拖到{place}",
        "{x}给我摆在{place}",
        "换个位置，{x}到{place}",
        "麻烦将{x}调整到{place}",
    ),
    "move beside": (
        "帮我把{x}调到{y}{side}",
        "{x}的位置要改，改到{y}的{side}",
        "能把{x}搬到{y}的{side}吗？",
        "{x}给我挪去{y}的{side}",
    ),
    "bigger": (
        "{x}小得看不清，弄大点",
        "{x}的尺寸加大一号",
        "能把{x}放得更大吗？",
        "麻烦把{x}的个头调大",
        "{x}还得再大一圈",
    ),
    "smaller": ("{x}太抢眼了，缩小些", "{x}的尺寸减小一号", "能让{x}缩一缩吗？", "帮我把{x}调小", "{x}用不着这么大"),
    "count": (
        "总共要{n}才对",
        "数目改一下，{n}",
        "不多不少，正好{n}",
        "能不能让画里总共有{n}？",
        "总数调成{n}",
        "我想要的是{n}，数量改改",
    ),
    "recolour": (
        "{x}给我刷成{c}",
        "能把{x}弄成{c}的吗？",
        "{x}的颜色我想要{c}",
        "{c}更适合{x}，换上吧",
        "麻烦把{x}调成{c}",
        "{x}用{c}来画",
    ),
    "another": ("还不够，再给我加一{m}", "能多一{m}{x}吗？", "这样的{x}再补一{m}", "就照这样再画一{m}"),
    "undo": (
        "刚才那步不算",
        "变回之前的样子",
        "哎呀，弄错了，退回去",
        "前一版更好，换回来",
        "上一步不要了",
        "把刚才改的还原",
    ),
}
