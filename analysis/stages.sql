-- Stages: what did each phase of training contribute in an arm's best trials?
-- `score` is the best select-dev score within each phase, `before` the best until then, and `kept` the better of both. All
-- are means over the seeds of the arm's best configuration; these are the fresh seeds if it was confirmed. `better` counts
-- the seeds on which the phase reached a new best. A second stage on the end task starts from the best state so far (AANG,
-- https://arxiv.org/abs/2205.14082); a second run starts from scratch. A phase that does not train the end task has no
-- scores.
WITH of_arm AS (
    SELECT arm, number, max(trials.role) FILTER (WHERE trials.role = 'confirm') AS confirmed
    FROM trials JOIN (SELECT arm, number FROM best) USING (arm, number)
    WHERE state = 'complete'
    GROUP BY arm, number
),
chosen AS (
    SELECT trial_id, arm
    FROM trials JOIN of_arm USING (arm, number)
    WHERE state = 'complete' AND role = coalesce(confirmed, 'search')
),
phases AS (
    SELECT arm, trial_id, phase, min(step) AS begun, max(step) AS last, max(evaluations.score) AS score
    FROM evaluations JOIN chosen USING (trial_id)
    WHERE split = 'select_dev'
    GROUP BY arm, trial_id, phase
),
in_order AS (
    SELECT
        *,
        row_number() OVER this_trial AS stage,
        max(score) OVER (this_trial ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
    FROM phases
    WINDOW this_trial AS (PARTITION BY arm, trial_id ORDER BY begun)
)
SELECT
    arm,
    stage,
    phase,
    count(*) AS seeds,
    max(last) AS until,
    avg(before) AS before,
    avg(score) AS score,
    avg(greatest(before, score)) AS kept,
    count(*) FILTER (WHERE score > before) AS better
FROM in_order
GROUP BY arm, stage, phase
ORDER BY arm = 'search' DESC, arm, stage;
