"""`bagpipe experiment ...`: several jobs one after another, and one table of them.

`suite` makes the list of runs, `measure` computes times from a run's records, `table` and `plot` show them: pure
functions. `session` carries the runs out, through `local` (processes here) or `remote` (BagpipeJobs on a cluster).
"""
