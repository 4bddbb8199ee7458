/*
title = "Incidents as they stand"
question = "What is wrong now, and what was lately? One row for each incident, its newest. `is_open` tells those that are not over. `checked` is the end of the last window that the rule ran over: an open incident of a rule that has not run for long is no news of now."

[columns]
rule = "Name of the rule."
incident = "Name of the incident."
state = "`pending`, `firing`, `resolved` or `withdrawn`."
is_open = "Whether it is pending or firing."
severity = "`critical`, `warning` or `info`."
title = "What the rule looks for."
summary = "What was found, in a sentence."
node = "Node it is about."
host = "Host it is about; empty where it is about none."
key = "The columns and values that tell it from others of the rule."
found = "The row that showed it last."
techniques = "ATT&CK techniques, with commas between them."
began = "First window in which it held."
fired = "When it was raised; NULL for one that never was."
lapsed = "First window in which it held no more; NULL while it holds."
ended = "When it was over; NULL until then."
changed = "When its record changed last."
checked = "End of the last window that its rule ran over; NULL when that is more than a week ago."
*/
WITH newest AS (
  SELECT rule, incident, max(sequence) AS sequence FROM alert GROUP BY rule, incident
),
ran AS (
  SELECT rule, max(window_ends) AS checked FROM schedule_run
  WHERE state = 'done' AND ts >= now() - INTERVAL '7 days' GROUP BY rule
)
SELECT a.rule, a.incident, a.state, a.state IN ('pending', 'firing') AS is_open, a.severity, a.title, a.summary,
  a.node, a.host, a.key, a.found, a.techniques, a.began, a.fired, a.lapsed, a.ended, a.ts AS changed, r.checked
FROM alert a
JOIN newest n ON n.rule = a.rule AND n.incident = a.incident AND n.sequence = a.sequence
LEFT JOIN ran r ON r.rule = a.rule
