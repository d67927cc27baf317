"""What must hold in every ``coyo-recap`` build, checked in SQL over the stored rows alone."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb

from vila2data.build.manifest import REJECTS_SUFFIX, FunnelStep
from vila2data.build.tables import ROWS_PER_RANGE, key_ranges
from vila2data.build.views import sql_name, sql_text

_SHOWN = 3  # keys that break a rule

TRAINING_TEXT = r"""
SELECT count(*) AS conversations,
       round(avg(words), 2) AS mean_words,
       round(stddev_pop(words), 2) AS std_words
FROM (SELECT len(regexp_extract_all(messages[2].content, '\S+')) AS words FROM conversations)
"""

# What Python's str.split takes for white space; RE2's \s knows ASCII only.
_WORD = r"[^\s\v\x1c-\x1f\x{85}\pZ]+"

_CAPTION_RULES = {
    "a key stands twice": "SELECT key FROM {table} GROUP BY key HAVING count(*) > 1",
    "a caption is empty": "SELECT key FROM {table} WHERE trim(caption) = ''",
    "num_chars is not the caption's": "SELECT key FROM {table} WHERE num_chars <> length(caption)",
    "num_words is not the caption's": (
        f"SELECT key FROM {{table}} WHERE num_words <> len(regexp_extract_all(caption, '{_WORD}'))"
    ),
    "the task or round is not the config's": (
        "SELECT key FROM {table} WHERE {config} <> CASE WHEN round = 0 THEN 'original' "
        "WHEN task = 'general' THEN 'round' || round ELSE task END"
    ),
    "a generated caption did not end by itself": (
        "SELECT key FROM {table} WHERE round > 0 AND finish_reason IS DISTINCT FROM 'stop'"
    ),
    "a generated caption does not name its captioner, engine, prompt or seed": (
        "SELECT key FROM {table} WHERE round > 0 AND "
        "(captioner IS NULL OR engine IS NULL OR prompt_id IS NULL OR seed IS NULL)"
    ),
    "an image is not the one of the original": (
        "SELECT c.key FROM {table} c LEFT JOIN all_originals o ON o.key = c.key "
        "AND o.image_sha256 IS NOT DISTINCT FROM c.image_sha256 WHERE o.key IS NULL"
    ),
}
_REJECT_RULES = {
    "a reject has no reason": "SELECT key FROM {table} WHERE coalesce(reject_reason, '') = ''",
}
_CONVERSATION_RULES = {
    "a key stands twice": "SELECT key FROM conversations GROUP BY key HAVING count(*) > 1",
    "roles do not alternate": (
        "SELECT key FROM conversations WHERE [m.role FOR m IN messages] <> "
        "flatten([['user', 'assistant'] FOR i IN range(len(messages) // 2)]) OR len(messages) = 0"
    ),
    "tasks or question_ids do not match the turns": (
        "SELECT key FROM conversations "
        "WHERE len(tasks) <> len(messages) // 2 OR len(question_ids) <> len(tasks)"
    ),
    "there is not exactly one <image>, at the start": (
        "SELECT key FROM conversations WHERE NOT starts_with(messages[1].content, '<image>') "
        "OR len(regexp_extract_all(array_to_string([m.content FOR m IN messages], ' '), '(?i)<image>')) <> 1"
    ),
    "a special token or role label was left in": (
        "SELECT key FROM conversations WHERE regexp_matches(array_to_string([m.content FOR m IN messages[2:]], "
        r"chr(10)), '<\|[^<>|\n]{1,40}\|>|</?s>|\[/?INST\]|\b(USER|ASSISTANT|SYSTEM|HUMAN|GPT)[ \t]*:')"
    ),
    "the training text is not its template's": (
        "SELECT v.key FROM conversations v JOIN all_originals o USING (key) LEFT JOIN newest n USING (key) "
        "WHERE v.tasks[1] IN ('original', 'general') "
        # Texts that could have been neutralised are compared by the tests; all others must agree to
        # the letter.
        r"AND NOT regexp_matches(o.original || coalesce(n.caption, ''), '[<>\[\]:]') "
        "AND v.messages[2].content <> CASE WHEN n.key IS NULL THEN trim(o.original) "
        "WHEN n.template_id = 'recaption_only' OR trim(o.original) = '' THEN trim(n.caption) "
        "ELSE trim(o.original) || chr(10) || trim(n.caption) END"
    ),
    "a specialist's answer is missing or not its own": (
        "SELECT key FROM (SELECT key, unnest(tasks) AS task FROM conversations) "
        "FULL JOIN (SELECT DISTINCT key, task, 1 AS told FROM captions WHERE task <> 'general') USING (key, task) "
        "WHERE task NOT IN ('original', 'general') AND told IS NULL "
        "UNION SELECT key FROM (SELECT key, task FROM captions WHERE task <> 'general') "
        "WHERE (key, task) NOT IN (SELECT (key, unnest(tasks)) FROM conversations)"
    ),
}
_HELPERS = """
CREATE TEMP VIEW all_originals AS
    SELECT key, image_sha256, original FROM original
    UNION ALL SELECT key, image_sha256, original FROM "original-rejects"
    WHERE reject_reason <> 'duplicate_key';
CREATE TEMP VIEW newest AS
    SELECT key, arg_max(caption, round) AS caption, arg_max(template_id, round) AS template_id
    FROM captions WHERE task = 'general' AND round > 0 GROUP BY key;
"""

_FUNNEL = """
SELECT (SELECT count(*) FROM all_originals), (SELECT count(*) FROM conversations),
       (SELECT count(*) FROM "original-rejects" WHERE reject_reason <> 'duplicate_key'
        AND key NOT IN (SELECT key FROM captions WHERE round > 0)),
       (SELECT count(DISTINCT key) FROM rejects
        WHERE round > 0 AND starts_with(reject_reason, 'image_')
        AND key IN (SELECT key FROM original)
        AND key NOT IN (SELECT key FROM captions WHERE round > 0))
"""


def problems(connection: duckdb.DuckDBPyConnection, configs: Sequence[str]) -> list[str]:
    """Broken rules, each with the number of rows and some of their keys."""
    broken: Counter[tuple[str, str]] = Counter()
    shown: dict[tuple[str, str], list[str]] = {}
    for within in _ranges(connection):
        with _only(connection, [*configs, "captions", "rejects"], within):
            for config in configs:
                for what, query in _rules(config).items():
                    sql = query.replace("{table}", sql_name(config))
                    sql = sql.replace("{config}", sql_text(config))
                    count, keys = connection.execute(
                        f"SELECT count(*), list(key ORDER BY key)[:{_SHOWN}] "
                        f"FROM ({sql}) AS broken(key)"
                    ).fetchall()[0]
                    broken[config, what] += count
                    shown.setdefault((config, what), []).extend(keys or ())
    return [
        f"{config}: {what}: {count} rows, such as {', '.join(map(str, shown[config, what][:_SHOWN]))}"
        for (config, what), count in broken.items()
        if count
    ]


def conversation_funnel(connection: duckdb.DuckDBPyConnection) -> list[FunnelStep]:
    """Images that became conversations; those without any usable text did not, nor those that an
    engine could not decode.
    """
    counted: Counter[str] = Counter()
    tables = ["original", "original-rejects", "conversations", "captions", "rejects"]
    for within in _ranges(connection):
        with _only(connection, tables, within):
            found = connection.execute(_FUNNEL).fetchall()[0]
        counted.update(
            dict(zip(("read", "written", "no_text", "image_refused"), found, strict=True))
        )
    rejected = {name: counted[name] for name in ("image_refused", "no_text") if counted[name]}
    return [FunnelStep("conversations", counted["read"], counted["written"], rejected)]


def _rules(config: str) -> dict[str, str]:
    if config == "conversations":
        return _CONVERSATION_RULES
    return _REJECT_RULES if config.endswith(REJECTS_SUFFIX) else _CAPTION_RULES


def _ranges(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """A row is compared with rows of its own key alone."""
    keys = 'SELECT key FROM original UNION ALL SELECT key FROM "original-rejects"'
    yield from key_ranges(connection, keys, ROWS_PER_RANGE)


@contextmanager
def _only(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[str], within: str
) -> Iterator[None]:
    """Temporary views that hide the rest of each table, and what is computed from them."""
    (database,) = connection.execute("SELECT current_database()").fetchall()[0]
    names = [sql_name(table) for table in tables]
    try:
        for name in names:
            connection.execute(
                f"CREATE TEMP VIEW {name} AS SELECT * FROM {database}.main.{name} WHERE {within}"
            )
        connection.execute(_HELPERS)
        yield
    finally:
        for name in (*names, "all_originals", "newest"):
            connection.execute(f"DROP VIEW IF EXISTS temp.main.{name}")
