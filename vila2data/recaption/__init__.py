"""One round of captions over a corpus."""
