-- Values: what does each value of a dimension score, and how far is it from the best one?
-- Complete trials of the search. Values drawn from a range are grouped into intervals with about equally many trials.
-- `error` is the standard error of the mean. `reference` is the dimension's value with the highest mean. `difference` is
-- the value's score minus the reference's, over `pairs` of trials with the same seed and equal values of all other
-- dimensions, if there are any. `low` and `high` bound it with 95 % confidence (Student's t) for this value alone,
-- treating pairs on the same seed as independent. With selection pairs are of the same fold too, with the correction of
-- `arms`. The reference was chosen by these same scores, and there are many
-- values, so only a difference far from 0 is meaningful. `paper` is what `source` printed, for its own data and budget.
WITH declared AS (SELECT arg_max(spec, time) AS spec FROM searches),
drawn AS (
    SELECT
        trial_id, seed, score, params,
        coalesce(CAST(plan ->> '$.fold' AS INTEGER), -1) AS fold,
        coalesce(1 / (nullif(CAST(plan ->> '$.folds' AS INTEGER), 0) - 1), 0) AS overlap,
        unnest(json_keys(params)) AS dimension
    FROM trials
    WHERE role = 'search' AND arm = 'search' AND state = 'complete' AND isfinite(score)
),
valued AS (
    SELECT
        *,
        json_extract_string(params, '$."' || dimension || '"') AS word,
        try_cast(json_extract_string(params, '$."' || dimension || '"') AS DOUBLE) AS number,
        json_merge_patch(params, json_object(dimension, NULL)) AS others
    FROM drawn
),
edges AS (
    SELECT
        dimension,
        CASE WHEN count(*) < 20 THEN quantile_disc(number, [1 / 3, 2 / 3])
             ELSE quantile_disc(number, [0.2, 0.4, 0.6, 0.8]) END AS edges
    FROM valued CROSS JOIN declared
    GROUP BY dimension, spec
    HAVING count(number) = count(*) AND count(DISTINCT word) > 3 AND spec ->> '$.sampler' IS DISTINCT FROM 'grid'
       AND (count(DISTINCT word) > 12 OR json_exists(spec, '$.dimensions."' || dimension || '".float'))
),
placed AS (
    SELECT
        *,
        CASE WHEN edges IS NULL THEN word ELSE len(list_filter(edges, lambda edge: edge < number))::VARCHAR END AS place
    FROM valued LEFT JOIN edges USING (dimension)
),
summed AS (
    SELECT
        dimension,
        place,
        CASE WHEN any_value(edges) IS NULL THEN place
             WHEN min(number) = max(number) THEN format('{:.3g}', min(number))
             ELSE format('{:.3g} to {:.3g}', min(number), max(number)) END AS value,
        avg(number) AS number,
        count(*) AS trials,
        count(DISTINCT seed) AS seeds,
        avg(score) AS mean,
        stddev_samp(score) AS sd,
        stddev_samp(score) / sqrt(count(*)) AS error,
        max(score) AS best
    FROM placed
    GROUP BY dimension, place
),
ranked AS (
    SELECT *, first(place) OVER by_mean AS reference_place, first(value) OVER by_mean AS reference
    FROM summed
    WINDOW by_mean AS (
        PARTITION BY dimension ORDER BY mean DESC, number, value ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
),
cells AS (
    SELECT dimension, place, others, seed, fold, avg(score) AS score, max(overlap) AS overlap
    FROM placed
    GROUP BY dimension, place, others, seed, fold
),
paired AS (
    SELECT
        dimension,
        ranked.place,
        list(cells.score - reference.score ORDER BY seed, others, fold) AS d,
        max(cells.overlap) AS overlap
    FROM ranked
    JOIN cells USING (dimension, place)
    JOIN cells AS reference USING (dimension, others, seed, fold)
    WHERE reference.place = reference_place AND ranked.place <> reference_place
    GROUP BY dimension, ranked.place
)
SELECT
    dimension,
    value,
    trials,
    seeds,
    mean,
    sd,
    error,
    best,
    json_extract_string(spec, '$.paper.values."' || dimension || '"."' || value || '"') AS paper,
    reference,
    len(d) AS pairs,
    list_avg(d) AS difference,
    paired_interval(d, 1, overlap)[1] AS low,
    paired_interval(d, 1, overlap)[2] AS high,
    CASE WHEN paper IS NOT NULL
         THEN concat_ws(', ', spec ->> '$.paper.source', spec ->> '$.paper.metric') END AS source
FROM ranked CROSS JOIN declared LEFT JOIN paired USING (dimension, place)
ORDER BY dimension, number, value;
