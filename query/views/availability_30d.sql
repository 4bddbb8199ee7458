/*
title = "Availability of nodes in 30 days"
question = "How much of the last 30 days was each node there? As `availability(from, to)` says, up to the last hour that is over."

[columns]
region = "Region of the node, as of now."
node = "The node."
hosts = "Hosts that were reckoned."
hours = "Hours that were reckoned, of 720; the others are not known."
up_seconds = "Host seconds in which it was up."
down_seconds = "Host seconds in which there is evidence that it was not."
maintenance_seconds = "Host seconds of announced maintenance."
unknown_seconds = "Host seconds of which nobody knows."
availability_ratio = "up / (up + down + maintenance); NULL when nothing is known."
reliability_ratio = "up / (up + down); NULL when nothing is known."
unknown_ratio = "unknown / all."
keeps_to_target = "Whether availability is at least 0.80, reliability 0.85 and unknown at most 0.10, as EGI asks of its sites."
*/
SELECT * FROM availability(now() - INTERVAL '30 days', now())
