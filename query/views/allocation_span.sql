/*
title = "Allocations from begin to end"
question = "Who held which accelerator, from when to when? One row for each host, accelerator and allocation of a source, folded from the rows of `allocation`, and as fresh as they are: what is held is told anew every hour."

[parameters]
since = { type = "timestamp", optional = true, help = "What nobody told of from then on is left out; nothing is if it is left out. `first_seen` is then of the rows since." }

[columns]
node = "Node of the host."
host = "Host of the accelerator."
source = "Who said so: `cgroup`, `endpoint` or `file`."
allocation = "Name of the allocation."
device = "The accelerator, or the whole card of a partition, as in `accelerator.device`; as the source names it where no row of the last two minutes has that name."
named = "The accelerator as the source names it; `none` for an allocation without accelerators."
pci_bdf = "Its PCI address, where known."
device_file = "Its device file, where known."
index = "Its number, where the prolog named it so."
scheduler = "Who schedules it."
job = "Number of the job."
user = "Whose it is, by the prolog's word."
uid = "Effective user of the processes that are seen."
project = "Project or account, by the prolog's word."
pod = "UID of the Kubernetes pod."
container = "Id of the container."
unit = "systemd unit."
accelerators = "Accelerators of the allocation on this host."
began = "When it began; NULL for what was there before the agent first looked."
ended = "When it ended; NULL while it is held, or when nobody told."
first_seen = "Time of its first row."
last_seen = "Time of its newest row."
*/
WITH span AS (
  SELECT node, host, source, allocation, device AS named,
    last(pci_bdf, ts) AS pci_bdf,
    last(device_file, ts) AS device_file,
    last("index", ts) AS "index",
    last(scheduler, ts) AS scheduler,
    last(job, ts) AS job,
    last("user", ts) AS "user",
    last(uid, ts) AS uid,
    last(project, ts) AS project,
    last(pod, ts) AS pod,
    last(container, ts) AS container,
    last(unit, ts) AS unit,
    last(accelerators, ts) AS accelerators,
    last(began, ts) AS began,
    last(ended, ts) FILTER (WHERE state = 'ended') AS ended,
    min(ts) AS first_seen,
    max(ts) AS last_seen
  FROM allocation
  WHERE state <> 'refused' AND ($since IS NULL OR ts >= $since)
  GROUP BY node, host, source, allocation, device
)
SELECT s.node, s.host, s.source, s.allocation, coalesce(a.device, s.named) AS device, s.named,
  s.pci_bdf, s.device_file, s."index", s.scheduler, s.job, s."user", s.uid, s.project, s.pod, s.container, s.unit,
  s.accelerators, s.began, s.ended, s.first_seen, s.last_seen
FROM span s
LEFT JOIN accelerator_alias a ON a.node = s.node AND a.host = s.host AND a.alias = s.named
