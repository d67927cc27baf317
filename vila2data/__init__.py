"""Versioned Hugging Face data sets for visual language models, built by the VILA² recipe."""

__version__ = "0.1.0"
