-- $1 keys: how far each task has come.
select key, seq, status from ledger.task where key = any ($1::uuid[])
