-- The transitions after a cursor, for many tasks at once. $1 keys, $2 the sequences they are after, $3 at most so many
-- rows per task, $4 in all. Payloads of more than $5 bytes are left out; `large` says how many they have. The time is in seconds
-- since 1970.
select
    (select epoch from ledger.epoch where only_one), g.ord, t.task_id, p.seq, p.status, p.attempt, p.progress, p.stage,
    p.message, case when p.size <= $5 then p.data end as data, case when p.size <= $5 then p.result end as result,
    case when p.size <= $5 then p.error end as error, p.cancel, p.reason, p.at, case when p.size > $5 then p.size end as large
from unnest($1::uuid[], $2::bigint[]) with ordinality as g (key, after, ord)
join ledger.task t on t.key = g.key
join lateral (
    select
        seq, status, attempt, progress, stage, message, data, result, error, cancel, reason, date_part('epoch', at) as at,
        coalesce(octet_length(data::text), 0) + coalesce(octet_length(result::text), 0)
            + coalesce(octet_length(error::text), 0) as size
    from ledger.transition t
    where t.key = g.key and t.seq > g.after
    order by t.seq
    limit $3
) p on true
order by g.ord, p.seq
limit $4
