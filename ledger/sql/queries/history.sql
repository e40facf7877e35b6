-- A tenant's tasks, newest first. $2 owner, $3 statuses, $4 kind: null for all. $5, $6: after this row, $7 so many. $8 as in
-- snapshots.sql.
select
    (select epoch from ledger.epoch), t.key, t.tenant, t.task_id, t.kind, t.owner, t.status, t.seq, t.attempt, t.progress,
    t.stage, t.message, d.data, r.result, e.error, t.cancel_stage, t.cancel_seq, t.cancel_reason, t.created_at,
    t.updated_at, t.beat_at, t.deadline_at, (extract(epoch from clock_timestamp() - t.beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > t.beat_at + coalesce(t.lease_ms, $8::integer) * interval '1 ms', false) as late
from (
    (
        select *
        from ledger.head
        where $2::text is null and tenant = $1
            and ($3::text[] is null or status = any ($3))
            and ($4::text is null or kind = $4)
            and (created_at, key) < ($5::timestamptz, $6::uuid)
        order by created_at desc, key desc
        limit $7
    )
    union all
    (
        select *
        from ledger.head
        where tenant = $1 and owner = $2 -- of one of the two nothing is executed: each has an index of its own
            and ($3::text[] is null or status = any ($3))
            and ($4::text is null or kind = $4)
            and (created_at, key) < ($5::timestamptz, $6::uuid)
        order by created_at desc, key desc
        limit $7
    )
) t
left join ledger.transition d on d.key = t.key and d.seq = t.data_seq
left join ledger.transition r on r.key = t.key and r.seq = t.result_seq
left join ledger.transition e on e.key = t.key and e.seq = t.error_seq
order by t.created_at desc, t.key desc
