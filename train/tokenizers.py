"""The two tokenizers of a Hunyuan-DiT folder, built from captions deterministically.

They are built, not trained: the trainers of the tokenizers library break ties by hash order, so two runs of them
differ. BERT gets every word and every Chinese character; T5 gets every English word, and Chinese names as single
pieces, so that an object's name is one or two tokens in either.
"""

import json
from collections import Counter
from collections.abc import Iterable
from math import log
from pathlib import Path
from string import ascii_lowercase, digits, punctuation

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

WORD_BOUNDARY = "▁"
RARE_PENALTY_NATS = 10.0  # log probability of the rarest word minus that of a character


def make_bert_tokenizer(captions: Iterable[str], *, model_max_length: int) -> BertTokenizer:
    """A WordPiece tokenizer of words and Chinese characters, which spells unknown words letter by letter."""
    core = BertTokenizer().backend_tokenizer
    words = _count_words(core, captions)
    letters = _collect_characters(words)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    pieces += [f"##{letter}" for letter in letters if letter.isascii() and letter.isalnum()]
    pieces += _sort_by_count(words)
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocab, model_max_length=model_max_length)


def make_t5_tokenizer(
    captions: Iterable[str], *, names: Iterable[str] = (), model_max_length: int
) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer of English words, Chinese names, and characters for the rest.

    The class is PreTrainedTokenizerFast: T5Tokenizer rebuilds itself on loading and would lose the lower-casing.
    """
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    core = Tokenizer(models.Unigram(special, unk_id=2))
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(WORD_BOUNDARY)]
    )
    captions = list(captions)
    words = _count_words(core, captions)
    text = "\n".join(captions)
    counts = {word: words[word] for word in _sort_by_count(words) if word.isascii() or word[1:].isascii()}
    counts |= {name: text.count(name) + 1 for name in sorted(set(names)) if len(name) > 1}
    total = sum(counts.values())
    scores = {piece: log(count / total) for piece, count in counts.items()}
    rare = min(scores.values(), default=0.0) - RARE_PENALTY_NATS
    scores |= {letter: rare for letter in [WORD_BOUNDARY, *_collect_characters(words)] if letter not in scores}
    core.model = models.Unigram([*special, *scores.items()], unk_id=2)
    core.decoder = decoders.Metaspace(WORD_BOUNDARY)
    core.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=model_max_length
    )


def extend_bert_tokenizer(tokenizer: BertTokenizer, texts: Iterable[str]) -> BertTokenizer:
    """Add every word of `texts` to a tokenizer; known pieces keep their ids."""
    vocab = dict(tokenizer.vocab)
    words = _count_words(tokenizer.backend_tokenizer, texts)
    for piece in dict.fromkeys([*_collect_characters(words), *_sort_by_count(words)]):
        vocab.setdefault(piece, len(vocab))
    return BertTokenizer(vocab=vocab, model_max_length=tokenizer.model_max_length)


def extend_t5_tokenizer(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Add every English word and Chinese character of `texts` to a tokenizer; known pieces keep their ids."""
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    words = _count_words(tokenizer.backend_tokenizer, texts)
    pieces = [word for word in _sort_by_count(words) if word[1:].isascii()]
    known = {piece for piece, _ in core["model"]["vocab"]}
    rarest = min(score for _, score in core["model"]["vocab"])
    for new, score in ((pieces, rarest + RARE_PENALTY_NATS), (_collect_characters(words), rarest)):
        core["model"]["vocab"] += [[piece, score] for piece in new if piece not in known]
        known |= set(new)
    extended = Tokenizer.from_str(json.dumps(core))
    return PreTrainedTokenizerFast(
        tokenizer_object=extended,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=tokenizer.model_max_length,
    )


def extend_tokenizers(source: Path, folder: Path, texts: Iterable[str]) -> None:
    """Write tokenizer/ and tokenizer_2/ of `source` to `folder`, extended with the words of `texts`."""
    texts = list(texts)
    bert = AutoTokenizer.from_pretrained(source / "tokenizer")
    t5 = AutoTokenizer.from_pretrained(source / "tokenizer_2")
    extend_bert_tokenizer(bert, texts).save_pretrained(folder / "tokenizer")
    extend_t5_tokenizer(t5, texts).save_pretrained(folder / "tokenizer_2")


def save_tokenizers(
    folder: Path, captions: Iterable[str], *, names: Iterable[str], text_len: int, text_len_t5: int
) -> None:
    """Build tokenizer/ (BERT) and tokenizer_2/ (T5) from captions, and write them to `folder`."""
    captions = list(captions)
    make_bert_tokenizer(captions, model_max_length=text_len).save_pretrained(folder / "tokenizer")
    make_t5_tokenizer(captions, names=names, model_max_length=text_len_t5).save_pretrained(folder / "tokenizer_2")


def _count_words(core: Tokenizer, captions: Iterable[str]) -> Counter[str]:
    normalize, split = core.normalizer.normalize_str, core.pre_tokenizer.pre_tokenize_str
    return Counter(word for text in captions for word, _ in split(normalize(text)))


def _sort_by_count(words: Counter[str]) -> list[str]:
    return sorted(words, key=lambda word: (-words[word], word))


def _collect_characters(words: Iterable[str]) -> list[str]:
    characters = {character for word in words for character in word}
    return sorted({*ascii_lowercase, *digits, *punctuation, *characters} - {WORD_BOUNDARY})
