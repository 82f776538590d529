-- Ranking of objectives: which objectives had the largest weights early (first 10 % of the steps) and late (last 50 %)?
-- As AANG's Figure 5 (https://arxiv.org/abs/2205.14082). Means over the search's complete trials whose weights changed, and
-- `late_sd`, the standard deviation over these trials. Where weights are nearly equal, their ranks say nothing.
WITH moving AS (
    SELECT trial_id, min(step) AS first, max(step) AS last
    FROM weights JOIN trials USING (trial_id)
    WHERE kind = 'objective' AND trials.state = 'complete' AND arm = 'search' AND role = 'search'
    GROUP BY trial_id
    HAVING count(DISTINCT step) > 1
),
means AS (
    SELECT
        trial_id,
        name,
        avg(weight) FILTER (WHERE step <= greatest(0.1 * last, first)) AS early,
        avg(weight) FILTER (WHERE step > 0.5 * last) AS late
    FROM weights JOIN moving USING (trial_id)
    WHERE kind = 'objective'
    GROUP BY trial_id, name
),
over_trials AS (
    SELECT name, avg(early) AS early, avg(late) AS late, stddev_samp(late) AS late_sd, count(*) AS trials
    FROM means
    GROUP BY name
)
SELECT
    row_number() OVER (ORDER BY late DESC, name) AS late_rank,
    row_number() OVER (ORDER BY early DESC, name) AS early_rank,
    name,
    early,
    late,
    late_sd,
    trials
FROM over_trials
ORDER BY late_rank;
