-- Caption length by config: VILA² Table 1 (words, mean ± population standard deviation).
-- Run after the statements of `vila2data sql BUILD`.
SELECT config,
       count(*) AS captions,
       round(avg(num_words), 2) AS mean_words,
       round(stddev_pop(num_words), 2) AS std_words,
       min(num_words) AS min_words,
       median(num_words)::INT AS median_words,
       max(num_words) AS max_words,
       round(avg(num_tokens), 2) AS mean_tokens,
       string_agg(DISTINCT captioner, ', ' ORDER BY captioner) AS captioners
FROM captions
GROUP BY config
ORDER BY min(task <> 'general'), min(round), config;
