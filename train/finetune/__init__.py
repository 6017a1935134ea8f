"""Training a published or embedded model on pictures of one's own."""
