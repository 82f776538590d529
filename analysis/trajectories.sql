-- Weight trajectories: how did the best trial's weights change, stage by stage, and where was its best evaluation?
-- As AANG's Figure 4 (https://arxiv.org/abs/2205.14082). If the method has a softmax for each stage, its values are shown;
-- otherwise the objectives' weights, summed over the objectives that use a primitive. Stage 'task' is lambda_e. For branch
-- methods, 'alpha' is the coefficient with which a branch was merged and 'weight' the resulting weight of its task
-- (alphaVIL's Figure 3, https://arxiv.org/abs/2405.07769); 'gain' is the effect of training on a task alone (DIW).
WITH stages(stage, place) AS (VALUES ('data', 1), ('transform', 2), ('representation', 3), ('output', 4)),
logged AS (
    SELECT step, kind, stage, name, weight, best_step
    FROM weights JOIN best USING (trial_id)
    WHERE best.arm = 'search'
),
shares AS (
    SELECT 'task' AS stage, name, step, weight, best_step FROM logged WHERE kind = 'task'
    UNION ALL
    SELECT stage, name, step, weight, best_step FROM logged WHERE kind IN ('primitive', 'branch')
    UNION ALL
    SELECT stages.stage, split_part(name, '/', place) AS name, step, sum(weight), any_value(best_step)
    FROM logged, stages
    WHERE kind = 'objective' AND NOT EXISTS (FROM logged WHERE kind = 'primitive')
    GROUP BY stages.stage, place, split_part(name, '/', place), step
)
SELECT stage, name, step, weight, best_step
FROM shares
ORDER BY list_position(['alpha', 'weight', 'gain', 'task', 'data', 'transform', 'representation', 'output'], stage), name, step;
