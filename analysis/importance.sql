-- Importance: which dimensions matter for the score, and how surely?
-- `importance` is the share of the variance of the responses that a dimension explains by itself, less what chance adds, over
-- the search's configurations; `low` and `high` bound it with 95 % confidence, by a bootstrap over configurations and seeds.
-- A dimension whose interval includes 0 cannot be distinguished from one that does nothing. `behind` says whether it matters
-- less than the first one, by the interval of their difference. The `response` is the score. Where the scheduler stopped
-- trials, or the race dropped some, it is `beaten`, the share of the other configurations that one beats, each pair compared
-- at the last step that both took and on the folds that both have: a stopped trial has no final score. Of more than 1000
-- configurations (`total`) so many are drawn at random. A dimension with values that the sampler rarely tried has a wide
-- interval, and what it does together with others is not in its share.
SELECT
    dimension,
    configurations,
    importance,
    low,
    high,
    CASE WHEN low <= 0 THEN 'not distinguished from one that does nothing'
         WHEN behind THEN 'matters, less than the first'
         ELSE 'matters' END AS verdict,
    behind,
    groups,
    response,
    stopped,
    failed,
    total
FROM importances
ORDER BY low DESC, dimension;
