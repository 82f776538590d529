-- Leaderboard: which configurations did best?
-- A configuration's score is its mean over the seeds on which it is complete; without such a seed, the score of its best trial.
-- With selection it is the mean over its folds, `error` the standard error of this mean, corrected for the rows that
-- trainings on other folds share, and `dropped` a configuration that lost the race for further folds.
SELECT rank, arm, number, trial_id, state, score, sd, error, seeds, best_step, steps, seconds, params
FROM configurations
ORDER BY rank;
