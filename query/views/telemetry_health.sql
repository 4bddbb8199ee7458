/*
title = "Health of the telemetry"
question = "Does what hosts tell arrive, whole and in time? One row for each registered host. Rows expected and received are those of the agent's account of itself, of `system` and of `accelerator`, in the sixty whole minutes that ended two minutes ago. What waits in the spool is backlog and will come late; what is lost will not come. Rows that come twice are taken once; attempts offered again are the most there can have been."

[columns]
node = "The node."
host = "The host."
state = "`up`, `down` or `unknown`, as in `host_now`."
last_seen = "Newest row of its agent; NULL if there is none of the last hour."
age_seconds = "How long ago that was: the freshness."
expected_rows = "Rows there would be if none were missing; NULL where no minute of the hour is known."
received_rows = "Rows that came."
completeness_ratio = "Received for expected, at most 1."
missing_minutes = "Minutes of the sixty of which the agent's account is missing."
late_minutes = "Minutes that were reckoned again because rows came late, its own or others'."
lost_records = "Records of the last day that its spool or the broker lost."
retried_records = "Attempts that the broker did not acknowledge, so that the record was offered again: as many may have come twice."
waiting_records = "Records in its spool now; NULL when it is not fresh."
lag_seconds = "Age of the oldest of them: how late the latest will be; 0 when none waits, NULL when it is not fresh."
failing_probes = "Probes whose newest sample went wrong; NULL when it is not fresh."
clock_offset_seconds = "How far the kernel believes its clock to be off; NULL when nothing keeps it."
*/
WITH minute AS (
  SELECT node, host, ts, 'agent' AS name, device, samples, expected, revision, retried FROM (
    SELECT node, host, ts, '' AS device, samples, expected, revision, records_retried_increase AS retried
    FROM agent_1m WHERE probe = 'all'
  )
  UNION ALL
  SELECT node, host, ts, 'system', '', samples, expected, revision, NULL FROM system_1m
  UNION ALL
  SELECT node, host, ts, 'accelerator', device, samples, expected, revision, NULL FROM accelerator_1m
),
series AS (
  SELECT node, host, name, device,
    60.0 * avg(expected) AS expected,
    sum(samples) AS received,
    count(DISTINCT ts) AS minutes,
    count(DISTINCT ts) FILTER (WHERE revision > 0) AS late,
    sum(retried) AS retried
  FROM minute
  WHERE ts >= date_trunc('minute', now()) - INTERVAL '62 minutes'
    AND ts < date_trunc('minute', now()) - INTERVAL '2 minutes'
  GROUP BY node, host, name, device
),
came AS (
  SELECT node, host,
    sum(expected) AS expected,
    sum(received) AS received,
    60 - max(minutes) FILTER (WHERE name = 'agent') AS missing,
    max(late) FILTER (WHERE name = 'agent') AS late,
    sum(retried) AS retried
  FROM series
  GROUP BY node, host
),
gone AS (
  SELECT node, host, sum(records) AS records
  FROM loss
  WHERE ts >= now() - INTERVAL '1 day'
  GROUP BY node, host
),
probe AS (
  SELECT node, host, probe,
    last(succeeded, ts) AS succeeded,
    last(spool_records, ts) AS spool_records,
    last(coalesce(spool_oldest_seconds, 0.0), ts) AS spool_oldest_seconds,
    last(clock_offset_microseconds, ts) AS clock_offset_microseconds
  FROM agent
  WHERE ts >= fresh_since() AND ts <= now() + INTERVAL '1 minute'
  GROUP BY node, host, probe
),
own AS (
  SELECT node, host,
    max(spool_records) FILTER (WHERE probe = 'all') AS waiting,
    max(spool_oldest_seconds) FILTER (WHERE probe = 'all') AS lag,
    count(*) FILTER (WHERE probe <> 'all' AND NOT succeeded) AS failing,
    max(clock_offset_microseconds) FILTER (WHERE probe = 'all') / 1000000.0 AS clock_offset
  FROM probe
  GROUP BY node, host
)
SELECT h.node, h.host, h.state, h.last_seen, h.age_seconds,
  c.expected AS expected_rows,
  coalesce(c.received, 0) AS received_rows,
  CASE WHEN c.expected > 0.0 THEN least(c.received / c.expected, 1.0) END AS completeness_ratio,
  coalesce(c.missing, 60) AS missing_minutes,
  coalesce(c.late, 0) AS late_minutes,
  coalesce(g.records, 0) AS lost_records,
  c.retried AS retried_records,
  o.waiting AS waiting_records,
  o.lag AS lag_seconds,
  o.failing AS failing_probes,
  o.clock_offset AS clock_offset_seconds
FROM host_now h
LEFT JOIN came c ON c.node = h.node AND c.host = h.host
LEFT JOIN gone g ON g.node = h.node AND g.host = h.host
LEFT JOIN own o ON o.node = h.node AND o.host = h.host
