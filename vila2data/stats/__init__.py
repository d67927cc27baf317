"""Statistics of builds: ``.sql`` files that a DuckDB user can run alone, and the thin runner; and
the boxes in captions, which SQL cannot read.
"""

from .run import Result, by_config, run_sql, statements, statistics, upright

__all__ = ["Result", "by_config", "run_sql", "statements", "statistics", "upright"]
