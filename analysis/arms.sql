-- Baselines: is the search's best configuration better than the baselines, on the same fresh seeds, and which arm is best?
-- Each arm's best configuration, trained again on seeds that were not used to choose it (`fresh`). In a search without
-- confirmation these are its own seeds, and a verdict then needs arms that had one configuration each. `difference` is
-- search minus baseline, paired by seed, in points of score. `low` and `high` bound it with 95 % confidence for all
-- baselines together (Student's t on the paired differences, Bonferroni), `boot_low` and `boot_high` for each baseline
-- alone (BCa bootstrap). `p` is the probability of so large a difference if the sign of each seed's difference is random
-- (exact sign-flip test); `p_holm` is the same for all baselines together, and a verdict needs it below 0.05. With n
-- seeds, p is at least 2 / 2^n, so 5 seeds cannot reach p < 0.05. The verdict then rests on the interval, which has to
-- exclude 0 while all seeds agree in sign; `rests_on` says which of the two. With selection a fresh seed is a fresh
-- partition into folds: `mean` is over all its folds, `difference` is paired by fold, the interval and `p` are of the t
-- test that is corrected for the rows that trainings on other folds share, and there is no bootstrap. `gain` is the arm minus the first declared
-- baseline, with bounds of the same kind. `place` orders arms by `mean` and claims nothing. `paper` is what `source`
-- printed, for its own data and budget.
WITH declared AS (SELECT arg_max(spec, time) AS spec FROM searches),
confirmed AS (
    SELECT
        arm, number, seed, score, ended,
        coalesce(CAST(plan ->> '$.fold' AS INTEGER), -1) AS fold,
        coalesce(1 / (nullif(CAST(plan ->> '$.folds' AS INTEGER), 0) - 1), 0) AS overlap
    FROM trials
    WHERE role = 'confirm' AND state = 'complete' AND isfinite(score)
),
chosen AS (
    SELECT arm, number, avg(score) AS chosen_at, count(*) OVER (PARTITION BY arm) AS tried
    FROM trials
    WHERE role = 'search' AND state = 'complete'
    GROUP BY arm, number
),
latest AS (SELECT arm, arg_max(number, ended) AS number FROM confirmed GROUP BY arm),
repetitions AS (
    SELECT arm, number, seed, fold, overlap, score, true AS fresh FROM confirmed JOIN latest USING (arm, number)
    UNION ALL
    SELECT
        arm, number, trials.seed,
        coalesce(CAST(trials.plan ->> '$.fold' AS INTEGER), -1) AS fold,
        coalesce(1 / (nullif(CAST(trials.plan ->> '$.folds' AS INTEGER), 0) - 1), 0) AS overlap,
        trials.score, false
    FROM trials JOIN best USING (arm, number)
    WHERE trials.role = 'search' AND trials.state = 'complete' AND isfinite(trials.score)
      AND NOT EXISTS (FROM confirmed)
),
of_seeds AS (
    SELECT arm, seed, avg(score) AS score, any_value(fresh) AS fresh, count(*) FILTER (fold >= 0) AS folds
    FROM repetitions
    GROUP BY arm, seed
),
means AS (
    SELECT arm, count(*) AS seeds, avg(score) AS mean, stddev_samp(score) AS sd, any_value(fresh) AS fresh,
        max(folds) AS folds
    FROM of_seeds
    GROUP BY arm
),
gains AS (
    SELECT arms.arm, list(arms.score - first.score ORDER BY seed, fold) AS g, max(arms.overlap) AS overlap
    FROM repetitions AS arms JOIN repetitions AS first USING (seed, fold), declared
    WHERE first.arm = list_extract(json_keys(spec, '$.baselines'), 1) AND arms.arm <> first.arm
    GROUP BY arms.arm
),
bounded AS (SELECT arm, list_avg(g) AS gain, paired_interval(g, count(*) OVER (), overlap) AS bounds FROM gains)
SELECT
    best.arm,
    coalesce(latest.number, best.number) AS configuration,
    chosen_at,
    coalesce(seeds, 0) AS seeds,
    mean,
    sd,
    json_extract_string(spec, '$.paper.scores."' || best.arm || '"') AS paper,
    list_avg(d) AS difference,
    compared.bounds[1] AS low,
    compared.bounds[2] AS high,
    CASE WHEN coalesce(seeds, 0) = 0 THEN 'not repeated on fresh seeds'
         WHEN NOT fresh AND greatest(tried, (SELECT max(tried) FROM chosen WHERE arm = 'search')) > 1
              THEN 'not repeated on fresh seeds'
         WHEN best.arm = 'search' THEN NULL
         WHEN d IS NULL THEN 'no common seed'
         WHEN p IS NULL THEN 'one seed is not enough'
         ELSE list_extract(['the baseline is better', 'no difference found', 'the search is better'],
                           judge(d, p_holm, together, compared.overlap) + 2) END AS verdict,
    CASE WHEN compared.overlap > 0 THEN 'p_holm' ELSE rests_on(len(d), together) END AS rests_on,
    p,
    p_holm,
    CASE WHEN compared.overlap = 0 THEN bootstrap_interval(d)[1] END AS boot_low,
    CASE WHEN compared.overlap = 0 THEN bootstrap_interval(d)[2] END AS boot_high,
    CASE WHEN mean IS NOT NULL THEN rank() OVER (ORDER BY mean DESC NULLS LAST) END AS place,
    gain,
    bounded.bounds[1] AS gain_low,
    bounded.bounds[2] AS gain_high,
    fresh,
    folds,
    CASE WHEN paper IS NOT NULL
         THEN concat_ws(', ', spec ->> '$.paper.source', spec ->> '$.paper.metric') END AS source
FROM best
CROSS JOIN declared
LEFT JOIN latest ON latest.arm = best.arm
LEFT JOIN chosen ON chosen.arm = best.arm AND chosen.number = coalesce(latest.number, best.number)
LEFT JOIN means ON means.arm = best.arm
LEFT JOIN compared('repetitions') AS compared ON compared.arm = best.arm
LEFT JOIN bounded ON bounded.arm = best.arm
ORDER BY best.arm = 'search' DESC, mean DESC, best.arm;
