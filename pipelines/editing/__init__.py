"""Edits of a given image: what may change, by mask, click, words or a larger canvas, and how it is changed."""
