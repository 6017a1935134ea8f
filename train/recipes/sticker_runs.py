"""The training runs of the bundled model: their run files, folders, and what each takes from the ones before it."""

from dataclasses import dataclass

from dianjing.pipelines.segmentation.base import SEGMENTER_FOLDER


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run of the trainer: its run file, its folder, and what it takes from the runs before it.

    base_export: folder of the weights that it starts from, an export or a part of one. vae_key: of the setting that
    names the autoencoder of the run `vae_run`, if it takes that.
    """

    recipe: str
    folder: str
    base_export: str | None = None
    vae_key: str | None = "model.vae"
    vae_run: str = "sticker-vae"


@dataclass(frozen=True, kw_only=True)
class AdapterRun:
    """A run that distills a model to few steps: its run file, its folder, and the folder of the model.

    base_folder: of the run whose adapter it continues, if any.
    """

    recipe: str
    folder: str
    model_folder: str
    base_folder: str | None = None


DECODER_FOLDER = "sticker-decoder-generated"
AVERAGED_DECODER_FOLDER = "sticker-decoder-averaged"  # of the former and the one that it started from
COUPLED_MODEL_FOLDER, CONTRAST_MODEL_FOLDER = "sticker-coupled", "sticker-contrast"
AVERAGED_MODEL_FOLDER = "sticker-averaged"  # of both
SEGMENTER_RUN_FOLDER = "sticker-segmenter"
CRISP_DECODER_FOLDER, LAST_DECODER_FOLDER = "sticker-decoder-crisp", "sticker-decoder-objects-edges"
FEW_STEPS_RUNS = (  # the mean of their adapters is shipped
    AdapterRun(recipe="sticker_few_steps.toml", folder="sticker-few-steps", model_folder=COUPLED_MODEL_FOLDER),
    AdapterRun(
        recipe="sticker_few_steps_own.toml",
        folder="sticker-few-steps-own",
        model_folder=CONTRAST_MODEL_FOLDER,
        base_folder="sticker-few-steps",
    ),
)
AUTOENCODERS = ("autoencoder", "decoder", "sharp_decoder", "wide_decoder", "generated_decoder")
MOTION_STAGES = ("flow_field", "motion")  # trained on clips
WIDE_AUTOENCODER_FOLDER = "sticker-decoder-wide"  # its latents have 32 channels
TRAINING_RUNS = {
    "autoencoder": TrainingRun(recipe="sticker_vae.toml", folder="sticker-vae", vae_key=None),
    "decoder": TrainingRun(recipe="sticker_decoder.toml", folder="sticker-decoder", vae_key="model.encoder_from"),
    "sharp_decoder": TrainingRun(
        recipe="sticker_decoder_sharp.toml",
        folder="sticker-decoder-sharp",
        base_export="sticker-decoder/export/vae",
        vae_key="model.encoder_from",
    ),
    "wide_decoder": TrainingRun(
        recipe="sticker_decoder_wide.toml",
        folder=WIDE_AUTOENCODER_FOLDER,
        vae_key="model.encoder_from",
        vae_run="sticker-decoder-sharp",
    ),
    "text_to_image": TrainingRun(recipe="sticker_dit.toml", folder="sticker-dit"),
    "refine": TrainingRun(recipe="sticker_refine.toml", folder="sticker-refine", base_export="sticker-dit/export"),
    "canonical": TrainingRun(
        recipe="sticker_canonical.toml", folder="sticker-canonical", base_export="sticker-refine/export"
    ),
    "wide": TrainingRun(
        recipe="sticker_wide.toml",
        folder="sticker-wide",
        base_export="sticker-canonical/export",
        vae_run=WIDE_AUTOENCODER_FOLDER,
    ),
    "coupled": TrainingRun(
        recipe="sticker_coupled.toml",
        folder=COUPLED_MODEL_FOLDER,
        base_export="sticker-wide/export",
        vae_run=WIDE_AUTOENCODER_FOLDER,
    ),
    "generated_decoder": TrainingRun(
        recipe="sticker_decoder_generated.toml",
        folder=DECODER_FOLDER,
        base_export=f"{WIDE_AUTOENCODER_FOLDER}/export/vae",
        vae_key=None,
    ),
    "contrast": TrainingRun(
        recipe="sticker_contrast.toml",
        folder=CONTRAST_MODEL_FOLDER,
        base_export=f"{COUPLED_MODEL_FOLDER}/export",
        vae_run=WIDE_AUTOENCODER_FOLDER,
    ),
    "segmenter": TrainingRun(recipe="sticker_segmenter.toml", folder=SEGMENTER_RUN_FOLDER, vae_key=None),
    "flow_field": TrainingRun(
        recipe="sticker_flow_field.toml",
        folder="sticker-flow-field",
        base_export=AVERAGED_MODEL_FOLDER,
        vae_run=WIDE_AUTOENCODER_FOLDER,
    ),
    "motion": TrainingRun(
        recipe="sticker_motion.toml",
        folder="sticker-motion",
        base_export="sticker-flow-field/export",
        vae_run=WIDE_AUTOENCODER_FOLDER,
    ),
}
LAST_DECODERS = (  # trained after one another on latents of the bundle
    TrainingRun(
        recipe="sticker_decoder_ssim.toml",
        folder="sticker-decoder-ssim",
        base_export=AVERAGED_DECODER_FOLDER,
        vae_key=None,
    ),
    TrainingRun(
        recipe="sticker_decoder_crisp.toml",
        folder=CRISP_DECODER_FOLDER,
        base_export="sticker-decoder-ssim/export/vae",
        vae_key=None,
    ),
    TrainingRun(
        recipe="sticker_decoder_objects.toml",
        folder="sticker-decoder-objects",
        base_export=f"{CRISP_DECODER_FOLDER}/export/vae",
        vae_key=None,
    ),
    TrainingRun(
        recipe="sticker_decoder_objects_crisp.toml",
        folder="sticker-decoder-objects-crisp",
        base_export="sticker-decoder-objects/export/vae",
        vae_key=None,
    ),
    TrainingRun(
        recipe="sticker_decoder_objects_edges.toml",
        folder=LAST_DECODER_FOLDER,
        base_export="sticker-decoder-objects-crisp/export/vae",
        vae_key=None,
    ),
)
LAST_SEGMENTER = TrainingRun(
    recipe="sticker_segmenter_reconstructed.toml",
    folder="sticker-segmenter-reconstructed",
    base_export=f"{SEGMENTER_RUN_FOLDER}/export/{SEGMENTER_FOLDER}",
    vae_key="objective.vae",
    vae_run=CRISP_DECODER_FOLDER,
)
