"""Parsers of instructions: a text and the scene so far become edits, by rules or by a chat model."""
