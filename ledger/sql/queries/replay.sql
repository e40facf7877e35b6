-- The transitions after a cursor, for many tasks at once. $1 keys, $2 the sequences they are after, $3 at most so many
-- rows per task, $4 in all, $5 at most so many bytes of payload in all (but always one row).
with page as (
    select
        p.*, i.ord, i.task_id,
        coalesce(octet_length(p.data::text), 0) + coalesce(octet_length(p.result::text), 0)
            + coalesce(octet_length(p.error::text), 0) as size
    from unnest($1::uuid[], $2::bigint[]) with ordinality as g (key, after, ord)
    join lateral (
        select g.ord, t.task_id from ledger.task t where t.key = g.key
    ) i on true
    join lateral (
        select * from ledger.transition t where t.key = g.key and t.seq > g.after order by t.seq limit $3
    ) p on true
    order by i.ord, p.seq
    limit $4
),
measured as (
    select page.*, sum(size) over (order by ord, seq rows unbounded preceding) as bytes
    from page
)
select
    (select epoch from ledger.epoch), ord, task_id, seq, status, attempt, progress, stage, message, data, result, error, cancel,
    reason, at
from measured
where bytes <= $5 or bytes = size
order by ord, seq
