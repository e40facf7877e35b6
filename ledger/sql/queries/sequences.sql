-- $1 keys: how far each task has come, and in which history; always one row at least. $2 as in snapshots.sql.
select
    e.epoch, t.key, t.seq, t.status, (date_part('epoch', clock_timestamp() - t.beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > t.beat_at + coalesce(t.lease_ms, $2::integer) * interval '1 ms', false) as late
from ledger.epoch e
left join ledger.head t on t.key = any ($1::uuid[])
where e.only_one -- as the planner knows, one row
