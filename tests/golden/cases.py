"""All golden cases by name, and how near their results come on another machine.

Tolerances are of `results.distance`.
"""

from collections.abc import Callable
from pathlib import Path

from tests.golden import pictures, stickers, talks, trainings, transformer, videos
from tests.golden.results import Results

MADE = Path(__file__).parent / "made"
FINGERPRINT = MADE / "machine.json"

CASES: dict[str, Callable[[Path], Results]] = {
    "transformer-picture": transformer.picture,
    "transformer-video": transformer.video,
    "transformer-half": transformer.half,
    "transformer-gradients": transformer.gradients,
    "pictures-words": pictures.words,
    "pictures-bfloat16": pictures.bfloat16,
    "pictures-controlnet": pictures.controlnet,
    "pictures-lora": pictures.lora,
    "videos-words": videos.words,
    "videos-windows": videos.windows,
    "videos-regions": videos.regions,
    "conversation": talks.conversation,
    "stickers-world": stickers.world,
    "stickers-matching": stickers.matching,
    "masks": stickers.masks,
    "files": stickers.files,
    "train-autoencoder": trainings.autoencoder,
    "train-principal": trainings.principal,
    "train-segmenter": trainings.segmenter,
    "train-pictures": trainings.pictures,
    "train-average": trainings.average,
    "train-film": trainings.film,
    "train-field": trainings.field,
    "train-lora": trainings.lora,
    "train-whole": trainings.whole,
    "train-controlnet": trainings.controlnet,
}
RESUMED: dict[str, Callable[[Path], Results]] = {  # compared with the files of the runs that were not stopped
    "train-autoencoder": trainings.resumed_autoencoder,
    "train-film": trainings.resumed_film,
    "train-lora": trainings.resumed_lora,
}
# The cases were computed again with this CPU's vector units switched off (SSE only, and AVX2), which changes the order
# of sums as another machine does. Farthest were 6e-6 for models and pipelines, 1.3e-4 for trainings, whose optimizer
# divides by the root of small squares, 1.5e-4 for shares that are differences of large sums, and 2.4e-2 in bfloat16;
# masks, pictures of the sticker world and all texts were the same.
TOLERANCE = 1e-4
TRAINING_TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
TOLERANCES = {
    "pictures-bfloat16": HALF_TOLERANCE,
    "transformer-half": HALF_TOLERANCE,
    "stickers-matching": TRAINING_TOLERANCE,
    "masks": TRAINING_TOLERANCE,  # a few pixels on an edge
}


def tolerance(name: str) -> float:
    return TOLERANCES.get(name, TRAINING_TOLERANCE if name.startswith("train-") else TOLERANCE)
