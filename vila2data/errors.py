"""Errors of the package; each message says what was wrong, what is accepted and what to do next."""


class Vila2DataError(Exception):
    """Base of every error that the package raises on purpose; the command line exits with 1."""

    exit_status = 1


class BadInput(Vila2DataError):
    """What the user gave cannot be used; the command line exits with 2."""

    exit_status = 2


class RecipeError(BadInput):
    """A recipe holds one or more mistakes; the message lists all of them."""


class MissingExtra(BadInput):
    """An optional dependency is needed and not installed."""


class CorpusError(BadInput):
    """A folder is not a corpus, or the corpus changed under a run."""


class BuildError(BadInput):
    """A build does not exist, is not complete, or would be overwritten."""


class RunRefused(BadInput):
    """A run folder belongs to another recipe, or another process works on it."""


class RunFailed(Vila2DataError):
    """Work that was started could not be finished; what is finished stays and is not repeated."""


class SchemaMismatch(Vila2DataError):
    """A table does not have the columns and types that its data set promises."""


class CountsDoNotBalance(Vila2DataError):
    """A step lost or invented rows: read differs from written + rejected."""
