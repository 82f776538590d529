-- Baselines: does the search's winner beat them, on the same fresh seeds?
-- The best configuration of each arm again on seeds that chose nothing. `difference` is search less baseline, paired by
-- seed, in points of score; `low` and `high` bound it with 95 % confidence (Student's t on the paired differences).
WITH confirmed AS (
    SELECT arm, number, seed, score, ended
    FROM trials
    WHERE role = 'confirm' AND state = 'complete'
),
chosen AS (
    SELECT arm, number, avg(score) AS chosen_at
    FROM trials
    WHERE role = 'search' AND state = 'complete'
    GROUP BY arm, number
),
latest AS (SELECT arm, arg_max(number, ended) AS number FROM confirmed GROUP BY arm),
repetitions AS (SELECT arm, number, seed, score FROM confirmed JOIN latest USING (arm, number)),
means AS (
    SELECT arm, count(*) AS seeds, avg(score) AS mean, stddev_samp(score) AS sd FROM repetitions GROUP BY arm
),
paired AS (
    SELECT
        baseline.arm,
        count(*) AS pairs,
        avg(search.score - baseline.score) AS difference,
        stddev_samp(search.score - baseline.score) / sqrt(count(*)) AS error
    FROM repetitions AS search JOIN repetitions AS baseline USING (seed)
    WHERE search.arm = 'search' AND baseline.arm <> 'search'
    GROUP BY baseline.arm
),
bounded AS (
    SELECT *, error * coalesce(
        [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
         2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042][pairs - 1],
        1.960 + 2.45 / (pairs - 1)
    ) AS half
    FROM paired
)
SELECT
    best.arm,
    coalesce(latest.number, best.number) AS configuration,
    chosen_at,
    coalesce(seeds, 0) AS seeds,
    mean,
    sd,
    difference,
    difference - half AS low,
    difference + half AS high,
    CASE WHEN coalesce(seeds, 0) = 0 THEN 'not repeated on fresh seeds'
         WHEN best.arm = 'search' THEN NULL
         WHEN difference IS NULL THEN 'no seed in common'
         WHEN half IS NULL THEN 'one seed tells nothing'
         WHEN difference - half > 0 THEN 'the search is better'
         WHEN difference + half < 0 THEN 'the baseline is better'
         ELSE 'no difference found' END AS verdict
FROM best
LEFT JOIN latest ON latest.arm = best.arm
LEFT JOIN chosen ON chosen.arm = best.arm AND chosen.number = coalesce(latest.number, best.number)
LEFT JOIN means ON means.arm = best.arm
LEFT JOIN bounded ON bounded.arm = best.arm
ORDER BY best.arm = 'search' DESC, mean DESC, best.arm;
