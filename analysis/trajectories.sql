-- Weight trajectories: how did the best trial's weights move, stage by stage, and where was its best evaluation?
-- AANG's Figure 4 (https://arxiv.org/abs/2205.14082). Each stage's own softmax where the method has one, else the
-- objectives' weights summed over the objectives that use a primitive. Stage 'task' is lambda_e. Of methods that mix
-- branches, 'alpha' is how much of a branch was taken and 'weight' what its task then weighed: alphaVIL's Figure 3
-- (https://arxiv.org/abs/2405.07769); 'gain' what a look at a task alone brought (DIW).
WITH stages(stage, place) AS (VALUES ('data', 1), ('transform', 2), ('representation', 3), ('output', 4)),
said AS (
    SELECT step, kind, stage, name, weight, best_step
    FROM weights JOIN best USING (trial_id)
    WHERE best.arm = 'search'
),
shares AS (
    SELECT 'task' AS stage, name, step, weight, best_step FROM said WHERE kind = 'task'
    UNION ALL
    SELECT stage, name, step, weight, best_step FROM said WHERE kind IN ('primitive', 'branch')
    UNION ALL
    SELECT stages.stage, split_part(name, '/', place) AS name, step, sum(weight), any_value(best_step)
    FROM said, stages
    WHERE kind = 'objective' AND NOT EXISTS (FROM said WHERE kind = 'primitive')
    GROUP BY stages.stage, place, split_part(name, '/', place), step
)
SELECT stage, name, step, weight, best_step
FROM shares
ORDER BY list_position(['alpha', 'weight', 'gain', 'task', 'data', 'transform', 'representation', 'output'], stage), name, step;
