-- Disagreements: on how many rows is only one of two arms right, the search's winner or a baseline?
-- A row counts for the arm that is right on more seeds, and for neither if both are right equally often; of several labels,
-- the one that has more of them right. `p` is that of McNemar's exact test: how likely is so uneven a split of
-- `only_search` and `only_arm` if a row is as likely to fall on either side; `p_holm` is the same for all arms together.
-- This asks whether other rows would tell the same of these trainings, where `arms` asks whether other seeds would on these
-- rows. `difference` is the share of rows that are right, search minus arm; `low` and `high` bound it with 95 % confidence
-- by a bootstrap over rows and seeds. For numbers an arm is right that is nearer, and `difference` is how much nearer the
-- search's winner is in the mean.
WITH scored AS (
    SELECT
        arm, seed, row,
        avg(CASE WHEN true_number IS NULL THEN is_right::INTEGER ELSE -abs(predicted_number - true_number) END) AS merit
    FROM outputs
    GROUP BY arm, seed, row
),
paired AS (
    SELECT other.arm, row, seed, first.merit - other.merit AS d
    FROM scored AS first JOIN scored AS other USING (seed, row)
    WHERE first.arm = 'search' AND other.arm <> 'search'
),
of_row AS (SELECT arm, row, count(*) AS seeds, avg(d) AS d FROM paired GROUP BY arm, row),
counts AS (
    SELECT
        arm,
        max(seeds) AS seeds,
        count(*) AS rows,
        count(*) FILTER (d > 1e-9) AS only_search,
        count(*) FILTER (d < -1e-9) AS only_arm
    FROM of_row
    GROUP BY arm
),
differences AS (
    SELECT arm, avg(d) AS difference, mean_interval(list(row), list(seed), list(d)) AS bounds
    FROM (FROM paired ORDER BY arm, seed, row)
    GROUP BY arm
),
tested AS (SELECT *, mcnemar_p(only_search, only_arm) AS p FROM counts),
corrected AS (
    SELECT arm, list_extract(holm(list(p) OVER ()), list_position(list(p) OVER (), p)) AS p_holm
    FROM tested
    WHERE p IS NOT NULL
)
SELECT
    arm,
    seeds,
    rows,
    only_search,
    only_arm,
    rows - only_search - only_arm AS alike,
    p,
    p_holm,
    CASE WHEN p_holm < 0.05 AND only_search > only_arm THEN 'the search is right on more rows'
         WHEN p_holm < 0.05 THEN 'the arm is right on more rows'
         ELSE 'no difference found' END AS verdict,
    difference,
    bounds[1] AS low,
    bounds[2] AS high
FROM tested LEFT JOIN corrected USING (arm) LEFT JOIN differences USING (arm)
ORDER BY difference DESC, arm;
