"""Motion: control by regions and phrases, the flow it predicts, the warped first frame and what video adds to `DiT`."""

MOTION_PREFIXES = ("motion_blocks.", "motion_conditioner.")  # parameters of `DiT` that an image model does not have
