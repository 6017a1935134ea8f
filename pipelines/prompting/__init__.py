"""Reading of prompts: known words, concepts and motions, video prompts, and where their subjects are in an image."""
