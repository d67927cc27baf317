"""Who writes text: the Captioner protocol. Engines are found through the entry points
``vila2data.engines``.
"""

from .protocol import (
    OWN_SETTING,
    Author,
    Captioner,
    EngineConfig,
    FinishReason,
    Request,
    Result,
    Sampling,
    TellsBusy,
    failed,
)

__all__ = [
    "OWN_SETTING",
    "Author",
    "Captioner",
    "EngineConfig",
    "FinishReason",
    "Request",
    "Result",
    "Sampling",
    "TellsBusy",
    "failed",
]
