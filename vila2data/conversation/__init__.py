"""Original text, recaption and specialists' answers as turns that are safe to train on."""

from .safety import find_special, neutralise, neutralise_all
from .turns import Answer, Conversation, compose

__all__ = ["Answer", "Conversation", "compose", "find_special", "neutralise", "neutralise_all"]
