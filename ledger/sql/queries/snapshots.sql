-- $1 keys: the tasks with the payloads in force. $2 the lease, in ms, of those that did not say theirs. The times are seconds
-- since 1970, but for the deadline, which may be so far away that they would not hold its microseconds.
select
    (select epoch from ledger.epoch where only_one), t.key, t.tenant, t.task_id, t.kind, t.owner, t.status, t.seq, t.attempt,
    t.progress, t.stage, t.message, d.data, r.result, e.error, t.cancel_stage, t.cancel_seq, t.cancel_reason,
    date_part('epoch', t.created_at), date_part('epoch', t.updated_at), date_part('epoch', t.beat_at), t.deadline_at,
    (date_part('epoch', clock_timestamp() - t.beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > t.beat_at + coalesce(t.lease_ms, $2::integer) * interval '1 ms', false) as late
from ledger.head t
-- Each a subquery of its own, so that it is not looked for where there is none (0).
left join lateral (
    select data from ledger.transition where t.data_seq > 0 and key = t.key and seq = t.data_seq limit 1
) d on true
left join lateral (
    select result from ledger.transition where t.result_seq > 0 and key = t.key and seq = t.result_seq limit 1
) r on true
left join lateral (
    select error from ledger.transition where t.error_seq > 0 and key = t.key and seq = t.error_seq limit 1
) e on true
where t.key = any ($1::uuid[])
