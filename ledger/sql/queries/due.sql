-- The reaper looks at tasks that are due: what is over is told, and each is made due again at its next moment (null:
-- never). $1 lease, $2 grace, $3 cancel grace, in ms; $4 since when the ledger could be reached; $5 so many at most.
--
-- Three moments end a task: its deadline; a cancel request without an end for $3; a worker silent for lease and grace.
-- While the ledger was away nobody could speak, so the last two count from $4 at the earliest. A task that was cancelled
-- before anybody began has no lease. What is over (`why`) is due again in a second, in case its end is not written.
-- Rows that are being written are passed over: this statement waits for nobody, so it cannot deadlock. `due` may hold a
-- row newer than the snapshot, whose cancel is then not to be seen yet: it was recorded just now.
with due as materialized (
    select key, tenant, task_id, status, seq, cancel_seq, lease_ms, beat_at, deadline_at
    from ledger.task
    where due_at <= now()
    order by due_at
    limit $5::integer
    for no key update skip locked
),
moments as (
    select
        d.key, d.tenant, d.task_id, coalesce(progress.seq, d.seq) as seq,
        case when d.status in ('pending', 'running', 'cancelling') then d.deadline_at end as expires_at,
        case when d.status = 'cancelling' then
            greatest(coalesce(asked.at, now()), $4::timestamptz) + $3::bigint * interval '1 ms'
        end as forced_at,
        case when d.status = 'running' or before.status = 'running' then
            greatest(d.beat_at, progress.at, $4::timestamptz)
            + (coalesce(d.lease_ms, $1::bigint) + $2::bigint) * interval '1 ms'
        end as lost_at
    from due d
    left join ledger.transition asked on d.status = 'cancelling' and asked.key = d.key and asked.seq = d.cancel_seq
    left join ledger.transition before
        on d.status = 'cancelling' and before.key = d.key and before.seq = d.cancel_seq - 1
    left join lateral (
        select seq, at
        from ledger.transition
        where d.status = 'running' and key = d.key and seq > d.seq
        order by seq desc
        limit 1
    ) progress on true
),
judged as materialized (
    select m.*, least(expires_at, forced_at, lost_at) as next_at
    from moments m
),
moved as (
    update ledger.task t
    set due_at = case when j.next_at <= now() then now() + interval '1 s' else j.next_at end
    from judged j
    where t.key = j.key
)
select
    tenant, task_id, seq,
    case
        when next_at > now() or next_at is null then null
        when next_at = expires_at then 'deadline'
        when next_at = forced_at then 'cancel'
        else 'lease'
    end as why
from judged
