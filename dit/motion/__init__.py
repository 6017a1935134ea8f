"""Motion: control by regions and phrases, the flow it predicts, the warped first frame and what video adds to `DiT`."""
