-- Best so far: how did the best score grow, over configurations and over time?
-- Only trials that ran to their end can be best. `seconds` counts time during which the search was running; the gap before
-- it was resumed does not count.
WITH opened AS (
    SELECT
        time AS began,
        lead(time) OVER (ORDER BY time) AS next_began,
        json_extract_string(detail, '$.purpose') AS purpose
    FROM events
    WHERE event = 'opened'
),
sessions AS (
    SELECT began, (SELECT max(time) FROM events WHERE time >= began AND (next_began IS NULL OR time < next_began)) AS ended
    FROM opened
    WHERE purpose = 'search'
),
at_work AS (
    SELECT
        began,
        coalesce(sum(epoch(ended) - epoch(began)) OVER (
            ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS before
    FROM sessions
)
SELECT
    arm,
    row_number() OVER this_arm AS nth,
    trial_id,
    state,
    score,
    max(score) FILTER (WHERE state = 'complete') OVER this_arm AS best,
    before + epoch(trials.ended) - epoch(began) AS seconds
FROM trials
ASOF LEFT JOIN at_work ON trials.ended >= at_work.began
WHERE role = 'search'
WINDOW this_arm AS (PARTITION BY arm ORDER BY trials.ended, trial_id ROWS UNBOUNDED PRECEDING)
ORDER BY arm = 'search' DESC, arm, nth;
