-- $1 keys: how far each task has come. $2 as in snapshots.sql.
select
    key, seq, status,
    coalesce(clock_timestamp() > beat_at + coalesce(lease_ms, $2::integer) * interval '1 ms', false) as late
from ledger.task where key = any ($1::uuid[])
