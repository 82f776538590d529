-- Confusion: which label does each arm take for which?
-- Of each arm's configuration on fresh seeds (without these, on those of the search). `rows` are those of the label
-- `truth`; `predicted_rows` how many of them get the label `predicted`, a mean over the seeds, and `share` the same as a
-- part of `rows`. `low` and `high` bound the share with 95 % confidence: Wilson's interval for as many observations as there
-- are rows, or fewer where seeds differ by more than that explains. More seeds are not more rows. `label` says of a task
-- with several labels which one `truth` and `predicted` are of. There are no rows for numbers.
WITH truths AS (
    SELECT arm, label, truth, seed, count(*) AS rows FROM outputs WHERE truth IS NOT NULL GROUP BY arm, label, truth, seed
),
pairs AS (SELECT DISTINCT arm, label, truth, predicted FROM outputs WHERE truth IS NOT NULL),
counts AS (
    SELECT arm, label, truth, predicted, seed, count(*) AS rows FROM outputs GROUP BY arm, label, truth, predicted, seed
),
shares AS (
    SELECT
        arm, label, truth, predicted,
        count(*) AS seeds,
        avg(truths.rows) AS rows,
        avg(coalesce(counts.rows, 0)) AS predicted_rows,
        list(coalesce(counts.rows, 0) / truths.rows ORDER BY seed) AS p
    FROM pairs JOIN truths USING (arm, label, truth) LEFT JOIN counts USING (arm, label, truth, predicted, seed)
    GROUP BY arm, label, truth, predicted
)
SELECT
    arm,
    label,
    truth,
    predicted,
    rows,
    predicted_rows,
    list_avg(p) AS share,
    share_interval(p, rows)[1] AS low,
    share_interval(p, rows)[2] AS high,
    seeds
FROM shares
ORDER BY arm = 'search' DESC, arm, label, rows DESC, truth, share DESC, predicted;
