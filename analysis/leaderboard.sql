-- Leaderboard: which configurations did best?
-- A configuration's score is its mean over the seeds on which it ran to its end. A configuration that ran to its end on no
-- seed shows the best score that it reached.
WITH configurations AS (
    SELECT
        arm,
        number,
        arg_max(trial_id, score) AS trial_id,
        CASE WHEN bool_or(state = 'failed') THEN 'failed'
             WHEN bool_or(state = 'stopped') THEN 'stopped'
             ELSE 'complete' END AS state,
        coalesce(avg(score) FILTER (WHERE state = 'complete'), max(score)) AS score,
        stddev_samp(score) FILTER (WHERE state = 'complete') AS sd,
        count(*) AS seeds,
        arg_max(best_step, score) AS best_step,
        max(steps) AS steps,
        sum(seconds) AS seconds,
        any_value(params) AS params
    FROM trials
    WHERE role = 'search'
    GROUP BY arm, number
)
SELECT
    row_number() OVER (ORDER BY state = 'complete' DESC, state = 'stopped' DESC, score DESC NULLS LAST, arm, number)
        AS rank,
    *
FROM configurations
ORDER BY rank;
