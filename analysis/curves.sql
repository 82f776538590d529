-- Learning curves: how did each trial's select-dev score grow, and where was it stopped?
-- A trial that has not ended is shown as running.
SELECT
    evaluations.trial_id,
    coalesce(trials.arm, regexp_extract(evaluations.trial_id, '^(.*)-\d+-s\d+-', 1)) AS arm,
    coalesce(trials.state, 'running') AS state,
    evaluations.step,
    evaluations.score,
    evaluations.seconds
FROM evaluations
LEFT JOIN trials USING (trial_id)
WHERE split = 'select_dev' AND coalesce(trials.role, 'search') = 'search'
ORDER BY arm = 'search' DESC, arm, evaluations.trial_id, evaluations.step;
