"""Objects of images cut out with an alpha channel, from backgrounds that are not known."""
