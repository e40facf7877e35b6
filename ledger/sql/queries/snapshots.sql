-- $1 keys: the tasks with the payloads in force. $2 the lease, in ms, of those that did not say theirs.
select
    (select epoch from ledger.epoch), t.key, t.tenant, t.task_id, t.kind, t.owner, t.status, t.seq, t.attempt, t.progress,
    t.stage, t.message, d.data, r.result, e.error, t.cancel_stage, t.cancel_seq, t.cancel_reason, t.created_at,
    t.updated_at, t.beat_at, t.deadline_at, (extract(epoch from clock_timestamp() - t.beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > t.beat_at + coalesce(t.lease_ms, $2::integer) * interval '1 ms', false) as late
from ledger.head t
left join ledger.transition d on d.key = t.key and d.seq = t.data_seq
left join ledger.transition r on r.key = t.key and r.seq = t.result_seq
left join ledger.transition e on e.key = t.key and e.seq = t.error_seq
where t.key = any ($1::uuid[])
