-- Labels: how well does each arm predict each label, and what does the search's winner change?
-- `rows` have the label. `precision`, `recall` and `f1` are means over the seeds that `confusion` counts. The intervals of
-- recall and F1 are Wilson's, for as many observations as there are rows, or fewer where seeds differ by more than that
-- explains; F1 is 2 J / (1 + J) of the share J of rows that have the label and get it, among those that have it or get it.
-- `difference` is the F1 of the search's winner minus that of the arm, on the same rows and seeds; `low` and `high` bound it
-- with 95 % confidence for this label and arm alone, by a bootstrap over rows and seeds, so that of twenty labels that do not
-- differ about one looks as if it did. The training rows are held fixed.
WITH marks AS (
    SELECT arm, seed, row, truth AS label, true AS has, is_right AS gets FROM outputs WHERE label = '' AND truth IS NOT NULL
    UNION ALL
    SELECT arm, seed, row, predicted, false, true FROM outputs WHERE label = '' AND NOT is_right
    UNION ALL
    SELECT arm, seed, row, label, truth = 'yes', predicted = 'yes' FROM outputs
    WHERE label <> '' AND (truth = 'yes' OR predicted = 'yes')
),
seeds AS (SELECT DISTINCT arm, seed FROM outputs),
names AS (SELECT DISTINCT label FROM marks),
of_seed AS (
    SELECT
        seeds.arm, names.label, seeds.seed,
        count(*) FILTER (has) AS has,
        count(*) FILTER (gets) AS gets,
        count(*) FILTER (has AND gets) AS hits,
        count(marks.row) AS either
    FROM seeds CROSS JOIN names LEFT JOIN marks ON (marks.arm, marks.label, marks.seed) = (seeds.arm, names.label, seeds.seed)
    GROUP BY seeds.arm, names.label, seeds.seed
),
of_arm AS (
    SELECT
        arm, label,
        avg(has) AS rows,
        avg(hits / nullif(gets, 0)) AS precision,
        list(hits / has ORDER BY seed) FILTER (has > 0) AS recalls,
        list(coalesce(hits / nullif(either, 0), 0) ORDER BY seed) AS j,
        avg(either) AS either,
        avg(coalesce(2 * hits / nullif(has + gets, 0), 0)) AS f1
    FROM of_seed
    GROUP BY arm, label
),
paired AS (
    SELECT
        coalesce(first.label, second.label) AS label,
        coalesce(second.arm, first.other) AS arm,
        coalesce(first.row, second.row) AS row,
        coalesce(first.seed, second.seed) AS seed,
        coalesce(first.has, second.has) AS has,
        coalesce(first.gets, false) AS by_first,
        coalesce(second.gets, false) AS by_second
    FROM (
        SELECT marks.* EXCLUDE (arm), others.arm AS other
        FROM marks CROSS JOIN (SELECT DISTINCT arm FROM seeds WHERE arm <> 'search') AS others
        WHERE marks.arm = 'search'
    ) AS first
    FULL JOIN (
        FROM marks WHERE arm <> 'search' AND EXISTS (FROM seeds WHERE arm = 'search')
    ) AS second
    ON (first.other, first.label, first.row, first.seed) = (second.arm, second.label, second.row, second.seed)
),
changes AS (
    SELECT
        arm, label,
        f1_difference_interval(list(row), list(seed), list(has), list(by_first), list(by_second)) AS bounds
    FROM (FROM paired ORDER BY arm, label, seed, row)
    GROUP BY arm, label
)
SELECT
    label,
    arm,
    rows,
    precision,
    list_avg(recalls) AS recall,
    share_interval(recalls, rows)[1] AS recall_low,
    share_interval(recalls, rows)[2] AS recall_high,
    f1,
    f1_interval(j, either)[1] AS f1_low,
    f1_interval(j, either)[2] AS f1_high,
    CASE WHEN arm <> 'search' THEN max(f1) FILTER (arm = 'search') OVER (PARTITION BY label) - f1 END AS difference,
    bounds[1] AS low,
    bounds[2] AS high
FROM of_arm LEFT JOIN changes USING (arm, label)
ORDER BY max(rows) OVER (PARTITION BY label) DESC, label, arm = 'search' DESC, arm;
