/*
title = "Allocations held now"
question = "Who holds which accelerator now? One row for each host, accelerator, allocation and source: the newest of the last 62 minutes: what is held is told anew every hour, and what came two minutes ago is still fresh. Accelerators go by the name they have in `accelerator`, whatever the source calls them."

[columns]
node = "Node of the host."
host = "Host of the accelerator."
device = "The accelerator, or the whole card of a partition, as in `accelerator.device`; as the source names it where no row of the last two minutes has that name."
named = "The accelerator as the source names it; `none` for an allocation without accelerators."
source = "Who says so: `cgroup`, `endpoint` or `file`."
allocation = "Name of the allocation."
scheduler = "Who schedules it."
job = "Number of the job."
user = "Whose it is, by the prolog's word."
project = "Project or account, by the prolog's word."
pod = "UID of the Kubernetes pod."
began = "When it began; NULL for what was there before the agent first looked."
told = "When it was told last."
*/
WITH newest AS (
  SELECT node, host, source, allocation, device,
    last(state, ts) AS state,
    last(scheduler, ts) AS scheduler,
    last(job, ts) AS job,
    last("user", ts) AS "user",
    last(project, ts) AS project,
    last(pod, ts) AS pod,
    last(began, ts) AS began,
    max(ts) AS told
  FROM allocation
  WHERE ts >= fresh_since() - INTERVAL '1 hour' AND ts <= now() + INTERVAL '1 minute' AND state <> 'refused'
  GROUP BY node, host, source, allocation, device
)
SELECT n.node, n.host, coalesce(a.device, n.device) AS device, n.device AS named, n.source, n.allocation,
  n.scheduler, n.job, n."user", n.project, n.pod, n.began, n.told
FROM newest n
LEFT JOIN accelerator_alias a ON a.node = n.node AND a.host = n.host AND a.alias = n.device
WHERE n.state = 'held'
