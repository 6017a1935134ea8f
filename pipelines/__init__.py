"""From a prompt to a labelled file."""
