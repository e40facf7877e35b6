-- $1 keys: their workers are still there. No transition.
update ledger.task t set beat_at = now()
from (
    select key from ledger.task
    where key = any ($1::uuid[]) and status in ('pending', 'running', 'cancelling')
    order by key
    for update
) l
where t.key = l.key
