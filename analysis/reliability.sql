-- Reliability: of the rows of which an arm is so sure, how many are right?
-- The bins of the report `calibration`: about equally many rows each, by the arm's confidence in what it predicts. `low` and
-- `high` bound the accuracy with 95 % confidence (Wilson's interval for as many observations as there are rows in the bin,
-- or fewer where seeds differ by more than that explains).
WITH of_seed AS (
    SELECT
        arm, bin, seed, count(*) AS outputs, avg(is_right::INTEGER) AS accuracy, sum(confidence) AS confidence,
        min(confidence) AS least, max(confidence) AS most
    FROM outputs
    WHERE confidence IS NOT NULL
    GROUP BY arm, bin, seed
),
of_bin AS (SELECT arm, bin, count(DISTINCT row) AS rows FROM outputs WHERE confidence IS NOT NULL GROUP BY arm, bin)
SELECT
    arm,
    bin,
    any_value(of_bin.rows) AS rows,
    min(least) AS from_confidence,
    max(most) AS to_confidence,
    sum(confidence) / sum(outputs) AS confidence,
    avg(accuracy) AS accuracy,
    share_interval(list(accuracy ORDER BY seed), avg(outputs))[1] AS low,
    share_interval(list(accuracy ORDER BY seed), avg(outputs))[2] AS high
FROM of_seed JOIN of_bin USING (arm, bin)
GROUP BY arm, bin
ORDER BY arm = 'search' DESC, arm, bin;
