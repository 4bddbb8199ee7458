/*
title = "Availability by the hour"
question = "How many seconds of the hour was each registered host up, down, unknown, in maintenance? The sums of its minutes, the last of which is known eleven minutes after it ends."
every = "1h"
window = "1h"
wait = "12m"
restate = "7d"
sink = "table:availability_1h"
*/
SELECT $from AS ts, node, host,
  SUM(up_seconds) AS up_seconds,
  SUM(down_seconds) AS down_seconds,
  SUM(unknown_seconds) AS unknown_seconds,
  SUM(maintenance_seconds) AS maintenance_seconds
FROM availability_1m
WHERE ts >= $from AND ts < $to
GROUP BY node, host
