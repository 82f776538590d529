-- Leaderboard: which configurations did best?
-- A configuration's score is its mean over the seeds on which it is complete; without such a seed, the score of its best trial.
SELECT rank, arm, number, trial_id, state, score, sd, seeds, best_step, steps, seconds, params
FROM configurations
ORDER BY rank;
