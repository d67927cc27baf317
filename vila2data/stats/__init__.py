"""Statistics of builds: ``.sql`` files that a DuckDB user can run alone, and the thin runner."""

from .run import Result, run_sql, statements, statistics

__all__ = ["Result", "run_sql", "statements", "statistics"]
