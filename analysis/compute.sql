-- Compute: where did the time go?
-- Seconds in training, summed over all attempts. Trials that run at the same time are all counted in full.
SELECT
    arm,
    role,
    state,
    count(*) AS trials,
    sum(steps)::BIGINT AS steps,
    sum(seconds) AS seconds,
    sum(seconds) / nullif(sum(sum(seconds)) OVER (), 0) AS share
FROM trials
GROUP BY arm, role, state
ORDER BY arm = 'search' DESC, arm, role DESC, state;
