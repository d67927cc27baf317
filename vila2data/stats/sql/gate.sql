-- What did not pass, by config and reason.
-- Run after the statements of `vila2data sql BUILD`.
SELECT config,
       reject_reason,
       count(*) AS rows,
       round(avg(num_words), 1) AS mean_words
FROM rejects
GROUP BY config, reject_reason
ORDER BY min(task <> 'general'), min(round), config, rows DESC, reject_reason;
