-- Optimism: how much too high would each arm's score be, if the best evaluation of each training counted?
-- Of the trials that repeat an arm's configuration on fresh seeds: `evaluations` of a trial on select-dev, their mean
-- `score` as it counts, and the mean of each trial's highest, `best`; `optimism` is the difference. Scores count at the step
-- where the search found the configuration best, so that an arm with one evaluation, such as a logistic regression, is not at
-- a disadvantage; with `confirm: {score_at: best}` and in runs of earlier versions the highest counts, and `optimism` is 0
-- because it is in `score`. That the step was chosen on the same rows, with other seeds, is left in the score.
WITH confirmed AS (
    SELECT trial_id, arm, number, ended, score FROM trials
    WHERE role = 'confirm' AND state = 'complete' AND isfinite(score)
),
latest AS (SELECT arm, arg_max(number, ended) AS number FROM confirmed GROUP BY arm),
of_trial AS (
    SELECT arm, trial_id, confirmed.score, count(DISTINCT evaluations.step) AS evaluations, max(evaluations.score) AS best
    FROM confirmed JOIN latest USING (arm, number) JOIN evaluations USING (trial_id)
    WHERE split = 'select_dev'
    GROUP BY arm, trial_id, confirmed.score
)
SELECT
    arm,
    count(*) AS seeds,
    max(evaluations) AS evaluations,
    avg(score) AS score,
    avg(best) AS best,
    avg(best - score) AS optimism
FROM of_trial
GROUP BY arm
ORDER BY arm = 'search' DESC, arm;
