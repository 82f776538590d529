-- Calibration: how far can each arm's probabilities be trusted?
-- `confidence` is the mean probability that an arm gives to what it predicts, `accuracy` the share that is right; their
-- difference is `surplus`, positive for an arm that is surer than it is right, with 95 % bounds by a bootstrap over rows and
-- seeds. `error` is the expected calibration error: the mean distance of both over bins of confidence with about equally many
-- rows (the report `reliability` has the bins), which chance alone makes larger than 0. `low` and `high` bound it, and
-- `by_chance` is what a calibrated arm stays below in 95 % of samples of so many rows. `brier` and `log_loss` score the
-- probabilities themselves, the lower the better; bounds of the difference, search minus arm, are of
-- the same bootstrap. There are no rows for numbers, which have no probabilities.
WITH stated AS (FROM outputs WHERE confidence IS NOT NULL ORDER BY arm, seed, row, label),
of_arm AS (
    SELECT
        arm,
        count(DISTINCT seed) AS seeds,
        count(DISTINCT row) AS rows,
        avg(confidence) AS confidence,
        avg(is_right::INTEGER) AS accuracy,
        mean_interval(list(row), list(seed), list(confidence - is_right::INTEGER)) AS surplus,
        calibration_error(list(bin), list(confidence - is_right::INTEGER)) AS error,
        calibration_error_interval(list(row), list(seed), list(bin), list(confidence), list(is_right)) AS bounds,
        calibration_error_by_chance(list(row), list(bin), list(confidence)) AS by_chance,
        avg(brier) AS brier,
        avg(log_loss) AS log_loss
    FROM stated
    GROUP BY arm
),
changes AS (
    SELECT
        other.arm,
        mean_interval(list(row), list(seed), list(first.log_loss - other.log_loss)) AS log_loss,
        mean_interval(list(row), list(seed), list(first.brier - other.brier)) AS brier
    FROM stated AS first JOIN stated AS other USING (seed, row, label)
    WHERE first.arm = 'search' AND other.arm <> 'search'
    GROUP BY other.arm
)
SELECT
    arm,
    seeds,
    rows,
    confidence,
    accuracy,
    confidence - accuracy AS surplus,
    surplus[1] AS surplus_low,
    surplus[2] AS surplus_high,
    error,
    bounds[1] AS low,
    bounds[2] AS high,
    by_chance,
    CASE WHEN error <= by_chance THEN 'not distinguished from a calibrated arm'
         WHEN surplus[1] > 0 THEN 'too sure'
         WHEN surplus[2] < 0 THEN 'not sure enough'
         ELSE 'too sure of some rows, not sure enough of others' END AS verdict,
    of_arm.brier,
    of_arm.log_loss,
    changes.brier[1] AS brier_low,
    changes.brier[2] AS brier_high,
    changes.log_loss[1] AS log_loss_low,
    changes.log_loss[2] AS log_loss_high
FROM of_arm LEFT JOIN changes USING (arm)
ORDER BY arm = 'search' DESC, log_loss, arm;
