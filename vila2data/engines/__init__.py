"""Who writes text: the Captioner protocol. Engines are found through the entry points
``vila2data.engines``.
"""

from .protocol import (
    Author,
    Captioner,
    EngineConfig,
    FinishReason,
    Request,
    Result,
    Sampling,
    failed,
)

__all__ = [
    "Author",
    "Captioner",
    "EngineConfig",
    "FinishReason",
    "Request",
    "Result",
    "Sampling",
    "failed",
]
