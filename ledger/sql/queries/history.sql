-- A tenant's tasks, newest first. $2 owner, $3 statuses, $4 kind: null for all. $5, $6: after this row, $7 so many. $8 and the
-- times as in snapshots.sql. $9 and `large` as in replay.sql.
select
    (select epoch from ledger.epoch where only_one), t.key, t.tenant, t.task_id, t.kind, t.owner, t.status, t.seq, t.attempt,
    t.progress, t.stage, t.message, case when s.size <= $9 then d.data end as data,
    case when s.size <= $9 then r.result end as result, case when s.size <= $9 then e.error end as error, t.cancel_stage,
    t.cancel_seq, t.cancel_reason, date_part('epoch', t.created_at), date_part('epoch', t.updated_at),
    date_part('epoch', t.beat_at), t.deadline_at,
    (date_part('epoch', clock_timestamp() - t.beat_at) * 1000)::bigint as beat_age_ms,
    coalesce(clock_timestamp() > t.beat_at + coalesce(t.lease_ms, $8::integer) * interval '1 ms', false) as late,
    case when s.size > $9 then s.size end as large
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
left join lateral (
    select data, octet_length(data::text) as size
    from ledger.transition where t.data_seq > 0 and key = t.key and seq = t.data_seq limit 1
) d on true
left join lateral (
    select result, octet_length(result::text) as size
    from ledger.transition where t.result_seq > 0 and key = t.key and seq = t.result_seq limit 1
) r on true
left join lateral (
    select error, octet_length(error::text) as size
    from ledger.transition where t.error_seq > 0 and key = t.key and seq = t.error_seq limit 1
) e on true
cross join lateral (select coalesce(d.size, 0) + coalesce(r.size, 0) + coalesce(e.size, 0) as size) s
order by t.created_at desc, t.key desc
