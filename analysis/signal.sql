-- Signal: which objectives did the search's best trial distinguish, and which are noise?
-- The mean of what its weighting observed of each objective (a similarity of gradients, or the effect of a probe) and the
-- mean's standard error, at the end of the trial. An objective is distinguished where it differs from the mean of all
-- objectives by more than sqrt(2 ln(20 n)) standard errors, which chance alone does to one of n objectives in fewer than 5 %
-- of trials. What all steps have in common, such as the same few meta-dev rows, is not in the standard error.
WITH last AS (
    SELECT name, weights.score AS mean, weights.score / weight AS error, weight AS ratio
    FROM weights JOIN best USING (trial_id)
    WHERE best.arm = 'search' AND kind = 'signal' AND weight != 0
    QUALIFY step = max(step) OVER ()
),
compared AS (
    SELECT *, avg(mean) OVER () AS mean_of_all, sqrt(2 * ln(20 * count(*) OVER ())) AS limit_in_errors FROM last
)
SELECT
    name,
    mean,
    error,
    ratio,
    mean_of_all,
    CASE
        WHEN mean - mean_of_all > limit_in_errors * error THEN 'above'
        WHEN mean_of_all - mean > limit_in_errors * error THEN 'below'
        ELSE 'not distinguished'
    END AS verdict
FROM compared
ORDER BY mean DESC, name;
