-- Give the ledger's history a new name, but only while it has the name $1 (null: whatever it has).
with last as materialized (
    select epoch from ledger.epoch where $1::text is null or epoch = $1 for update
)
update ledger.epoch e
set epoch = left(replace(gen_random_uuid()::text, '-', ''), 12), started_at = clock_timestamp()
from last
where e.epoch = last.epoch
returning e.epoch, e.started_at, last.epoch as before
