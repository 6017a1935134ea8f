"""Texts of the demo in Chinese and English: labels and status lines of the page, and error messages."""
