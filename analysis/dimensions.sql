-- Dimensions: which values were drawn, and what did each trial score?
-- One row for each trial and dimension; `number` is null if the value is not a number.
WITH drawn AS (
    SELECT arm, trial_id, state, score, params, unnest(json_keys(params)) AS dimension
    FROM trials
    WHERE role = 'search' AND arm = 'search'
)
SELECT
    dimension,
    json_extract_string(params, '$."' || dimension || '"') AS value,
    try_cast(json_extract_string(params, '$."' || dimension || '"') AS DOUBLE) AS number,
    score,
    state,
    trial_id
FROM drawn
ORDER BY dimension, number, value, trial_id;
