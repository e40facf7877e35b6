-- Progress writes one row, its transition, and leaves the task's row alone. What the views are for is said in ../schema.sql.

create view ledger.head as
select
    t.key, t.tenant, t.task_id, t.kind, t.owner, t.created, t.status, coalesce(p.seq, t.seq) as seq, t.seq as anchor,
    t.attempt, case when p.seq is null then t.n else abs(p.n) end as n,
    case when p.seq is null then t.progress else p.progress end as progress,
    case when p.seq is null then t.stage else p.stage end as stage,
    case when p.seq is null then t.message else p.message end as message,
    case when p.brings_data then p.seq else t.data_seq end as data_seq, t.result_seq, t.error_seq,
    t.cancel_stage, t.cancel_seq, t.cancel_reason, t.created_at, coalesce(p.at, t.updated_at) as updated_at,
    greatest(t.beat_at, p.at) as beat_at, t.lease_ms, t.deadline_at, t.due_at
from ledger.task t
left join lateral (
    select seq, n, progress, stage, message, data is not null as brings_data, at
    from ledger.transition
    where t.status = 'running' and key = t.key and seq > t.seq
    order by seq desc
    limit 1
) p on true;

create view ledger.copy as
select
    e.epoch,
    concat_ws(
        '@', pg_relation_filenode('ledger.transition'), d.oid, extract(epoch from pg_postmaster_start_time())
    ) as copy
from ledger.epoch e
join pg_database d on d.datname = current_database()
where e.only_one; -- as the planner knows, one row
