"""One self-contained page about builds: facts, tables, charts, and samples with their captions."""

from .page import write_report

__all__ = ["write_report"]
