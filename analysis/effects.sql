-- Effects of objectives: what do objectives and their primitives add to the score?
-- `effect` is what having a primitive or an objective in a trial's space adds to the response, all else equal; where every
-- trial has all of them (`measure` is weight), what a tenth more of the auxiliary weight at the end of training goes with,
-- which may have come of what else the trial does. The effect of a `pair` is how much more one primitive adds where the
-- other one is there. By ridge regression on all of a kind and on the other dimensions; with few configurations without
-- these, and with fewer still one by one. `low` and `high` bound an effect with 95 % confidence, by a bootstrap over
-- configurations and seeds, for this effect alone. `response` is as in `importance`: in points of the score, or the share
-- of the other configurations that one beats. Names joined by = are of the same trials.
SELECT
    kind,
    name,
    effect,
    low,
    high,
    CASE WHEN low > 0 THEN 'helps' WHEN high < 0 THEN 'harms' ELSE 'not distinguished from nothing' END AS verdict,
    measure,
    present,
    configurations,
    response
FROM objective_effects
ORDER BY list_position(['primitive', 'pair', 'objective'], kind), low DESC, name;
