"""Words of edits in English and Chinese by their sense, and stopwords: the data of the tokenizer."""

ENGLISH_WORDS = {
    "undo": (
        "undo, go back, revert, take that back, take it back, never mind, nevermind, cancel that, cancel, "
        "roll back, as it was before, the previous picture, the previous one, back to before, step back, "
        "restore, rewind, scrap that, forget that, undo that, the way it was, scratch that, previous one, "
        "last change, the last step, one step back, undo it, put it back, bring it back, better before, mistake, "
        "the one before, what we had, how it was, the old one, earlier, previous, previously, reverse, ignore that, "
        "the last one, last picture, changed my mind, don't do that, backwards, back up, return to, "
        "as it was, from before, like before, before this, before that, oops, regret, reset, return, last edit, "
        "last step, last thing, last version, the last picture, backtrack, take back, one back, better earlier, "
        "a step back, un-do, withdraw, retract, go backwards, the one you had, didn't mean that, wrong move"
    ),
    "redraw": (
        "another picture, another version, another try, try again, draw it again, redraw, once more, "
        "do it again, a different version, same again, again, one more time, give it another go"
    ),
    "new": "new picture, start over, start again, from scratch, new drawing, new scene, fresh start, a new one",
    "add": (
        "add, put in, include, insert, bring in, throw in, drop in, give it, also, as well, "
        "too, how about adding, place, put, join, joins, set, extra, appear, pop in, squeeze in, squeeze, "
        "fit in, fit, accompany, accompanied by, throw, toss in, stick in"
    ),
    "draw": "draw, paint",
    "one_more": "another one, one more, another, more of, more",
    "remove": (
        "remove, delete, erase, take away, take out, get rid of, without, no more, lose, clear, hide, drop, "
        "don't want, do not want, don't need, do not need, rid, cut out, away with, kick out, no longer, "
        "dispose of, should go, must go, has to go, can go, discard, eliminate, wipe, goodbye to, leave out, "
        "be gone, disappear, vanish, ditch, dump, scrap, forget about, do without, don't like, do not like, banish, "
        "shouldn't be, should not be"
    ),
    "take": "take, get, cut, kick, throw, pull",
    "out": "out, away, gone, off",
    "replace": (
        "replace, swap, substitute, exchange, turn, change, switch, make, become, becomes, transform, "
        "convert, trade, instead of, rather than, have, let, in place of"
    ),
    "inverse_replace": "instead of, rather than, in place of, substitute, over, better than, takes the place of",
    "same_position": "in its place, in their place, where, place of",
    "total": "up to, a total of, total, altogether, in total, in all",
    "negation": "not, isn't, is not, wasn't, aren't, rather not",
    "into": "with, by, for, into, to, as, instead",
    "move": (
        "move, shift, drag, slide, push, send, relocate, bring, place, put, set, carry, go, goes, belongs, "
        "sit, stand, hop, pull, position, should be, belong, nudge"
    ),
    "bigger": (
        "too small, too little, too tiny, bigger, larger, enlarge, grow, scale up, blow up, magnify, "
        "increase, more space, huger, much bigger, so small, so tiny, so little, that small, that tiny, as small, "
        "this small, expand, size up, up a size, a size up, sizes up, up in size, upsize, boost"
    ),
    "smaller": (
        "too big, too large, too huge, smaller, shrink, reduce, tinier, scale down, littler, decrease, so big, "
        "so large, so huge, that big, that large, as big, as large, this big, less big, size down, down a size, "
        "a size down, sizes down, down in size, downsize, compress, diminish"
    ),
    "scale": "scale, size, sized, resize",
    "big": "big, large, huge, giant, enormous, great big",
    "small": "small, little, tiny, mini",
    "background": "background, backdrop, scene, scenery, setting, place, behind",
    "prefer": "prefer, i'd prefer, i would prefer, like better",
    "recolour": "paint, colour, color, dye, tint, recolour, recolor",
    "pronoun": "it, that, this one, that one, him, her, them, they, these, those, this, its, he, she",
    "indefinite": "a, an, some",
    "request": (
        "i want, i would like, i'd like, there should be, there is, let there be, show, with, need, needs, "
        "have, get, give me, i'd love, want, wants, wanted"
    ),
    "number 1": "one, 1, a single, just one, only one",
    "number 2": "two, 2, pair of, couple of, twice",
    "number 3": "three, 3",
    "number 4": "four, 4",
    "position top left": "top left, upper left, top left corner, upper left corner, top-left, upper-left",
    "position top right": "top right, upper right, top right corner, upper right corner, top-right, upper-right",
    "position bottom left": ("bottom left, lower left, bottom left corner, lower left corner, bottom-left, lower-left"),
    "position bottom right": (
        "bottom right, lower right, bottom right corner, lower right corner, bottom-right, lower-right"
    ),
    "position top": "at the top, top, to the top, on top, up, upwards, upper part, higher",
    "position bottom": "at the bottom, bottom, to the bottom, down, downwards, lower part, lower",
    "position left": "on the left, to the left, left side, left-hand side, left",
    "position right": "on the right, to the right, right side, right-hand side, right",
    "position center": "in the middle, middle, center, centre, in the center, in the centre, to the middle",
    "relation left": "to the left of, left of, on the left of, on the left side of, to the left side of",
    "relation right": (
        "to the right of, right of, on the right of, on the right side of, next to, beside, by the side of, "
        "to the right side of, alongside, near"
    ),
    "relation above": "above, over, on top of, onto, atop, on the top of",
    "relation below": "below, under, beneath, underneath",
}
CHINESE_WORDS = {
    "undo": (
        "撤销, 撤回, 退回, 上一步, 取消, 还原, 恢复, 算了, 反悔, 后悔了, 回到刚才, 回到上一张, 倒回去, "
        "刚才那样, 回退, 变回去, 改回去, 退一步, 返回, 前一张, 回到之前, 复原, 恢复原样, 刚才那张, 上一张, "
        "上一个版本, 原来的, 原来那张, 退后一步, 刚才的, 前一步, 退回去, 变回, 改错了, 弄错了, 收回, 之前的, 之前那张, "
        "刚刚那张, 刚刚的, 不算, 作废, 前一版, 上一版, 倒退, 当我没说, 先前的, 先前那张, 不改了, 别改了, 重置"
    ),
    "redraw": (
        "换一张, 重画, 重新画, 再画一张, 再来一张, 再来一幅, 再试一次, 重来一遍, 另画一张, 重新来一张, 再画一次"
    ),
    "new": "重新开始, 从头开始, 新的一张, 另起一张, 画一张新的, 从头再来, 全新的",
    "add": (
        "加, 加上, 添, 添上, 添加, 增加, 增添, 放上, 放, 来, 再, 还要, 补, 补上, 摆, 摆上, 多, "
        "配上, 插入, 再画, 再加, 再来, 再放, 再添, 多加, 安排, 弄, 还想要, 还缺, 缺, 少了, 少, 配, 塞, 塞进, "
        "多来"
    ),
    "draw": "画, 画上",
    "one_more": "再来一个, 再加一个, 再来, 多一个, 又一个, 另一个, 再添一个, 还要一个, 再多",
    "remove": (
        "去掉, 删, 删掉, 删除, 移除, 移走, 拿走, 拿掉, 擦掉, 擦去, 不要, 不要了, 去除, 消失, 抹掉, 抹去, "
        "取走, 撤掉, 清除, 除掉, 弄走, 赶走, 走开, 带走, 拿开, 没有, 不需要, 去了, 撤走, 不想要, 取下, 挪走, "
        "搬走, 扔掉, 别画, 别要, 没了, 弄没, 不见, 不想看到, 不想见到, 别放, 去掉吧, 剔除, 隐藏, 藏起来, 拿去"
    ),
    "replace": (
        "换成, 改成, 变成, 不如, 替换成, 替换为, 换为, 改为, 换作, 换, 替换, 改, 变, 替, 成为, 变为, 调换成, "
        "更换成, 更换为, 设为, 设成, 当作, 换上, 换到, 画成, 做成, 弄成, 搞成, 改画, 改画成, 变身, 变身成, 化作, 化成"
    ),
    "inverse_replace": "代替, 取代, 替代, 顶替, 替掉, 换掉, 替换掉, 取而代之, 顶掉",
    "same_position": "的位置, 的位置上, 的地方, 原位, 原处, 那里, 那儿, 所在",
    "total": (
        "加到, 增加到, 增到, 增至, 添到, 补到, 补足, 凑够, 凑足, 凑到, 凑成, 凑齐, 加成, 补成, 添成, 加够, 补够, "
        "加起来, 数量, 合计, 总数, 一共, 总共, 共"
    ),
    "negation": "不是, 不该是, 不应该是, 并不是, 并非, 而非, 比, 画错了, 画错, 搞错了, 搞错, 不对",
    "into": "成, 为, 成了",
    "move": (
        "移到, 移, 移动, 移动到, 挪到, 挪, 搬到, 搬, 放到, 放在, 摆到, 摆在, 推到, 拖到, 拉到, 去, 到, 移去, "
        "站到, 跑到, 挪去, 换到, 调到, 应该在, 靠, 往, 朝, 向, 飞到, 走到, 跳到, 待在, 送到, 移至, 挪至, 置于"
    ),
    "bigger": (
        "大一点, 大点, 大一些, 大些, 变大, 放大, 更大, 再大, 弄大, 加大, 扩大, 画大, 调大, 变得更大, 大一号, "
        "长大, 增大, 太小, 太小了, 改大, 这么小, 那么小, 过小, 偏小, 有点小, 小了点, 小了, 撑大, 拉大"
    ),
    "smaller": (
        "小一点, 小点, 小一些, 小些, 变小, 缩小, 更小, 再小, 弄小, 减小, 画小, 调小, 小一号, 太大, 太大了, 缩, 改小, "
        "这么大, 那么大, 过大, 偏大, 有点大, 大了点, 大了, 收小, 缩短"
    ),
    "big": "大大的, 很大的, 巨大的, 大, 大的, 巨大, 巨型, 特别大的",
    "small": "小小的, 很小的, 迷你的, 小, 小的, 迷你, 小小, 微型",
    "background": "背景, 场景, 后面, 底色, 地点, 环境",
    "recolour": "涂, 涂成, 染, 染成, 刷, 刷成, 颜色, 上色",
    "pronoun": "它, 它们, 他, 她, 这个, 那个, 这只, 那只, 这些, 那些, 它俩, 其",
    "number 1": "一, 1",
    "number 2": "两, 2, 二, 俩, 一对, 双",
    "number 3": "三, 3, 仨",
    "number 4": "四, 4",
    "position top left": "左上角, 左上方, 左上, 左上边",
    "position top right": "右上角, 右上方, 右上, 右上边",
    "position bottom left": "左下角, 左下方, 左下, 左下边",
    "position bottom right": "右下角, 右下方, 右下, 右下边",
    "position top": "上方, 上面, 顶部, 上边, 顶上, 最上面, 上部, 顶端",
    "position bottom": "下方, 下面, 底部, 下边, 底下, 最下面, 下部, 底端",
    "position left": "左边, 左侧, 左面, 左方, 左, 左手边",
    "position right": "右边, 右侧, 右面, 右方, 右, 右手边, 旁边, 边上, 身边, 身旁",
    "position center": "中间, 正中间, 中央, 正中, 中心, 正中央, 当中, 正中心",
    "request": "有, 要, 想要, 出现, 喜欢, 想看, 看到, 希望有, 应该有",
}
PREPOSITIONS = ("at", "in", "on", "to", "into", "towards")  # before "the" and an English position


# other names of backgrounds: English name -> aliases
BACKGROUND_ALIASES = {
    "grass": "grassland, lawn, meadow, grassy field, field of grass, 草原, 草坪, 草丛",
    "sea": "ocean, open sea, 海洋, 海, 大洋",
    "night sky": "night, nighttime, starry sky, starry night, stars at night, 星空, 夜晚, 夜里, 晚上, 黑夜, 夜间",
    "snow": "snowy ground, snowfield, snowy, winter, 雪, 雪原, 雪景",
    "beach": "seaside, sandy beach, sand, shore, seashore, coast, 海滩, 海岸, 沙地",
    "desert": "dunes, sand dunes, 大漠, 荒漠",
    "forest": "woods, woodland, jungle, 树林, 丛林, 林子, 林间",
    "mountains": "mountain, hills, peaks, 山, 群山, 大山, 山上, 山前, 雪山, 山区",
    "city": "town, downtown, skyline, 都市, 城, 市区, 街区",
    "sea floor": "underwater, seabed, ocean floor, bottom of the sea, under water, 水底, 深海, 海里",
    "outer space": "space, the cosmos, galaxy, universe, 宇宙, 外太空, 星系, 银河",
    "room": "indoors, inside, living room, 室内, 屋里, 屋子, 客厅, 家里",
    "flower field": "flowers, field of flowers, flower garden, flower meadow, 花海, 花丛, 花园, 花地",
    "blue sky": "sky, clear sky, daytime sky, the clouds, 天空, 天上, 空中, 白云",
    "rain": "rainy day, rainy, raining, rainy weather, 下雨, 雨, 雨里, 雨天, 雨中",
    "road": "street, highway, 公路, 街道, 街上, 大街, 路",
    "grey background": "grey, gray, gray background, 灰色, 灰底",
    "light blue background": "light blue, pale blue, 浅蓝色, 淡蓝色, 天蓝色, 浅蓝",
    "sunset": "dusk, evening glow, sundown, evening, 晚霞, 日落, 黄昏, 傍晚, 落日",
}


# words without a sense
STOPWORDS_EN = (
    "a about actually against all also an and another are area as at back be bit both but by can change "
    "color colour corner could couple cute d did different do does down draw else everything floating for "
    "from front get go goes good got great had has have here hey hi how i if image in instead into is it's "
    "its just keep kind leave let let's lets like little ll look looking looks love lovely m made make maybe "
    "me mean meant more much must my need needs new next nice no not now of off ok okay on one ones only onto or other "
    "our out pair part perhaps photo picture place please quite rather re really rest s same see shade shall "
    "should show side single sitting size so some spot standing sticker still than thank thanks that the "
    "then there thing things think this time to too turn up us ve version very want we well what when where "
    "which who will with won would wouldn yes you your shouldn couldn needn can didn doesn isn wasn aren end ends t"
)
STOPWORDS_ZH = (
    "一 一下 一张 一起 上 下 不 与 与其 个 中 串 为 也 了 于 些 从 件 份 位 位置 你 使 侧 做 停 先 全 其他 再 列 "
    "别的 到 前 副 加 匹 去 又 双 变 只 可以 台 同 同样 向 吗 吧 呀 呢 和 哈 哦 啊 嘛 团 图 图片 在 地 地方 "
    "块 处 太 头 好 它的 家 对 封 将 就 希望 帮 幅 应该 座 弄 张 往 很 得 想 成 我 扇 把 拿 挂 换 搞 支 改 "
    "放 整个 方 是 更 最好 有 本 朵 束 条 来 杯 枚 架 株 样 样子 样的 根 桶 棵 滴 点 然后 片 现在 用 画 画面 "
    "的 盆 盏 看看 着 碗 站 粒 组 给 罐 而 显得 看起来 看上去 能 艘 色 节 行 被 觉得 角 让 试试 请 "
    "贴纸 跟 辆 边 过 还 这 道 那 部 都 里 里面 需要 面 顶 颗 颜色 麻烦"
)
