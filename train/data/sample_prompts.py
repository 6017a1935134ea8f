"""The prompts of the sample grid of a fine-tuning run: those of its run file, or captions of its data."""

from collections.abc import Sequence

from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.data.index import DatasetIndex
from dianjing.train.data.samples import SampleRecord

MAX_PROMPTS = 4  # from captions


def choose_prompts(records: Sequence[SampleRecord]) -> tuple[str, ...]:
    """Different captions from all parts of the data, alternately Chinese and English where there are both."""
    captions: list[str] = []
    stride = max(1, len(records) // MAX_PROMPTS)
    for index, record in enumerate([*records[::stride], *records]):
        pair = (record.text_zh, record.text_en) if index % 2 == 0 else (record.text_en, record.text_zh)
        caption = pair[0] or pair[1]
        if caption and caption not in captions:
            captions.append(caption)
    return tuple(captions[:MAX_PROMPTS])


def get_sample_prompts(config: FinetuneRunConfig, index: DatasetIndex) -> tuple[str, ...]:
    """The prompts of the run file, which may be none; if it does not mention them, captions of the data."""
    prompts = config.samples.prompts
    return choose_prompts(index.list_records()) if prompts is None else prompts


def set_sample_prompts(config: FinetuneRunConfig, index: DatasetIndex) -> FinetuneRunConfig:
    """The config of a run with the prompts of `get_sample_prompts`."""
    samples = config.samples.model_copy(update={"prompts": get_sample_prompts(config, index)})
    return config.model_copy(update={"samples": samples})
