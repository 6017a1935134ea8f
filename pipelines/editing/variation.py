"""Variations: edits of a whole image without a prompt, and which images the bundled model can vary."""

from typing import Any

from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.video.refinement import MAX_AUTOENCODER_ERROR, measure_autoencoder_error


def check_variation(pipe: Any, image: Image.Image) -> None:
    """Check that a model can vary an image without a prompt: the bundled one only images like its own.

    Raises: DianjingError for an image that the bundled model's autoencoder does not reproduce, such as a photograph.
    """
    if pipe.prompt_normalizer is None:
        return
    size = pipe.choose_start_size(image.size)
    error = measure_autoencoder_error(pipe.vae, image.resize(size, Image.Resampling.LANCZOS))
    if error > MAX_AUTOENCODER_ERROR:
        raise DianjingError("variation_needs_prompt", error=f"{error:.2f}", limit=f"{MAX_AUTOENCODER_ERROR:g}")
