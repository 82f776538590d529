-- Errors: which rows does each arm get wrong, and is surest of?
-- The first 20 of each arm. `wrong` counts the seeds on which the arm gets the row wrong, `predicted` is what it says most
-- often then, and `confidence` the probability that it gives to that, a mean over these seeds. `also_wrong` counts the other
-- arms that are wrong on most seeds. A row that all arms get wrong, and surely, may carry a wrong label. For numbers,
-- `confidence` is null, and the rows are those with the largest mean `error`. `text` is the beginning of the row's text as
-- far as the prepared data are there and have texts.
WITH of_row AS (
    SELECT
        arm, label, row,
        any_value(truth) AS truth,
        mode(predicted) FILTER (NOT is_right) AS predicted,
        count(*) FILTER (NOT is_right) AS wrong,
        count(*) AS seeds,
        avg(confidence) FILTER (NOT is_right) AS confidence,
        any_value(true_number) AS true_number,
        avg(predicted_number) AS predicted_number,
        avg(abs(predicted_number - true_number)) AS error
    FROM outputs
    GROUP BY arm, label, row
),
placed AS (
    SELECT
        *,
        count(*) FILTER (2 * wrong > seeds) OVER (PARTITION BY label, row) - (2 * wrong > seeds)::INTEGER AS also_wrong,
        row_number() OVER (
            PARTITION BY arm ORDER BY error DESC NULLS LAST, wrong * coalesce(confidence, 0) / seeds DESC, row, label
        ) AS place
    FROM of_row
)
SELECT
    arm,
    place,
    row,
    label,
    coalesce(truth, format('{:.4g}', true_number)) AS truth,
    coalesce(predicted, format('{:.4g}', predicted_number)) AS predicted,
    confidence,
    error,
    wrong,
    seeds,
    CASE WHEN error IS NULL THEN also_wrong END AS also_wrong,
    CASE WHEN length(text) > 300 THEN left(text, 299) || '…' ELSE text END AS text
FROM placed LEFT JOIN row_texts USING (row)
WHERE place <= 20 AND (wrong > 0 OR error > 0)
ORDER BY arm = 'search' DESC, arm, place;
