-- Failures: which trials failed, and why?
-- `why` is the traceback, `reason` its last line.
SELECT
    trial_id,
    arm,
    string_split(rtrim(why, chr(10) || ' '), chr(10))[-1] AS reason,
    attempts,
    steps,
    seconds,
    params,
    why
FROM trials
WHERE state = 'failed'
ORDER BY ended, trial_id;
