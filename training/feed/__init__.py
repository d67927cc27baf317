"""From builds and corpora to batches: what is trained on, and in which order, is decided and
written down before the first step.
"""
