"""`bagpipe experiment ...`: several jobs one after another, and one table of them.

`suite` says what is run, `measure` what a run's records mean, `table` and `plot` how it is shown: pure functions.
`session` runs it, through `local` (processes here) or `remote` (BagpipeJobs on a cluster).
"""
