-- Final: how do the arms score on the test split, when everything has been chosen?
-- Each arm's configuration, as chosen on select-dev, trained on fresh seeds and scored on the test split by
-- `analyze --final`. `dev` is the score of the same trials on select-dev. `difference` is search minus the arm, paired by
-- seed; `low` and `high` bound it with 95 % confidence for all arms together (Student's t, Bonferroni). `p` is that of the
-- sign-flip test, `p_holm` that for all arms together, and the verdict is formed as in `arms`. `seconds` is the time that
-- the arm's search spent in training, `configurations` how many it tried. With selection the trials are those of the folds
-- of fresh partitions, each trained without its fold, and they are compared by fold, as in `arms`. `paper` is what
-- `source` printed, for its own model, data and budget.
WITH declared AS (SELECT arg_max(spec, time) AS spec FROM searches),
scored AS (
    SELECT
        arm, number, seed, any_value(trials.score) AS dev, any_value(evaluation.score) AS score,
        coalesce(CAST(plan ->> '$.fold' AS INTEGER), -1) AS fold,
        coalesce(1 / (nullif(CAST(plan ->> '$.folds' AS INTEGER), 0) - 1), 0) AS overlap
    FROM trials JOIN evaluations AS evaluation USING (trial_id)
    WHERE role = 'confirm' AND state = 'complete' AND evaluation.split = 'test'
    GROUP BY arm, number, seed, plan
),
of_seeds AS (SELECT arm, number, seed, avg(dev) AS dev, avg(score) AS score FROM scored GROUP BY arm, number, seed),
means AS (
    SELECT arm, number, count(*) AS seeds, avg(dev) AS dev, avg(score) AS test, stddev_samp(score) AS sd
    FROM of_seeds
    GROUP BY arm, number
),
cost AS (
    SELECT arm, sum(seconds) AS seconds, count(DISTINCT number) AS configurations
    FROM trials WHERE role = 'search' GROUP BY arm
)
SELECT
    means.arm,
    means.number AS configuration,
    configurations,
    seconds,
    seeds,
    dev,
    test,
    sd,
    json_extract_string(spec, '$.paper.scores."' || means.arm || '"') AS paper,
    list_avg(d) AS difference,
    compared.bounds[1] AS low,
    compared.bounds[2] AS high,
    p,
    p_holm,
    CASE WHEN means.arm = 'search' THEN NULL
         WHEN p IS NULL THEN 'one seed is not enough'
         ELSE list_extract(['the arm is better', 'no difference found', 'the search is better'],
                           judge(d, p_holm, together, compared.overlap) + 2) END AS verdict,
    CASE WHEN paper IS NOT NULL
         THEN concat_ws(', ', spec ->> '$.paper.source', spec ->> '$.paper.metric') END AS source
FROM means
CROSS JOIN declared
LEFT JOIN cost ON cost.arm = means.arm
LEFT JOIN compared('scored') AS compared ON compared.arm = means.arm
ORDER BY means.arm = 'search' DESC, test DESC, means.arm;
