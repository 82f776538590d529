-- Final: how do the arms do on test, their choosing done?
-- The configuration that each arm chose on select-dev, trained on fresh seeds, scored on test by `analyze --final`. `dev`
-- is the same trials' score on select-dev. `difference` is search less the arm, paired by seed; `low` and `high` bound it
-- with 95 % confidence for all arms together (Student's t, Bonferroni), `p` is the sign-flip test's, `p_holm` for all
-- together, and the verdict as in `arms`. `seconds` is what the arm's search took in training, `configurations` what it
-- tried. `paper` is what `source` printed, of its own model, data and budget.
WITH declared AS (SELECT arg_max(spec, time) AS spec FROM searches),
scored AS (
    SELECT arm, number, seed, any_value(trials.score) AS dev, any_value(said.score) AS score
    FROM trials JOIN evaluations AS said USING (trial_id)
    WHERE role = 'confirm' AND state = 'complete' AND said.split = 'test'
    GROUP BY arm, number, seed
),
means AS (
    SELECT arm, number, count(*) AS seeds, avg(dev) AS dev, avg(score) AS test, stddev_samp(score) AS sd
    FROM scored
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
         WHEN p IS NULL THEN 'one seed tells nothing'
         ELSE list_extract(['the arm is better', 'no difference found', 'the search is better'],
                           better(d, p_holm, together) + 2) END AS verdict,
    CASE WHEN paper IS NOT NULL
         THEN concat_ws(', ', spec ->> '$.paper.source', spec ->> '$.paper.metric') END AS source
FROM means
CROSS JOIN declared
LEFT JOIN cost ON cost.arm = means.arm
LEFT JOIN compared('scored') AS compared ON compared.arm = means.arm
ORDER BY means.arm = 'search' DESC, test DESC, means.arm;
