-- Quality signals by config, as means and shares; each is a stored column, computed when the caption was written.
-- Run after the statements of `vila2data sql BUILD`.
SELECT config,
       count(*) AS captions,
       round(avg(num_chars), 1) AS mean_chars,
       round(avg(num_sentences), 2) AS mean_sentences,
       round(avg(distinct_ratio), 4) AS distinct_ratio,
       round(avg(repeated_ngram_share), 4) AS repeated_ngram_share,
       round(avg(compression_ratio), 3) AS compression_ratio,
       round(avg(list_format::INT), 4) AS list_share
FROM captions
GROUP BY config
ORDER BY min(task <> 'general'), min(round), config;
