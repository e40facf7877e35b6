-- Leases, deadlines, and one index less. What each column is for is said in ../schema.sql.

alter table ledger.task
    add column lease_ms integer,
    add column deadline_at timestamptz,
    add column due_at timestamptz,
    drop constraint task_cancel_stage_check,
    add constraint task_cancel_stage_check
        check (cancel_stage in ('recorded', 'delivered', 'honoured', 'forced', 'refused', 'too_late'));

-- Tasks at work begin with a whole lease, and are looked at at once.
update ledger.task set beat_at = now(), due_at = now() where status in ('running', 'cancelling');

-- A gateway of the version before does not know the column: have somebody look at the tasks that it begins.
alter table ledger.task alter column due_at set default now();

create index task_due on ledger.task (due_at) where due_at is not null;

-- With less room, one report in ten found its page full and had to write every index of the table anew.
alter table ledger.task set (fillfactor = 60);

-- A worker's repeat is found by halving, as its numbers rise with the sequence; a transition without one has the last one
-- before it, negated. See heads.sql.
drop index ledger.transition_by_n;

update ledger.transition t
set n = -l.last
from (
    select key, seq, coalesce(max(n) over (partition by key, attempt order by seq), 0) as last
    from ledger.transition
) l
where t.n is null and t.key = l.key and t.seq = l.seq;
