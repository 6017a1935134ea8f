"""A picture drawn turn by turn, in words that refer back: what is not mentioned stays."""
