-- $1 keys: how far each task has come. $2 as in snapshots.sql.
select
    key, seq, status, (extract(epoch from clock_timestamp() - beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > beat_at + coalesce(lease_ms, $2::integer) * interval '1 ms', false) as late
from ledger.task where key = any ($1::uuid[])
