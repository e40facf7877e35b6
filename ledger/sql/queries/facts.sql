-- $1 keys: what grants may depend on; always one row at least.
select e.epoch, t.key, t.owner, t.kind
from ledger.epoch e
left join ledger.task t on t.key = any ($1::uuid[])
where e.only_one -- as the planner knows, one row
