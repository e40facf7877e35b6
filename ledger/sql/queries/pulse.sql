-- The reaper's pulse. $1 the advisory lock of the one reaper, $2 whether this session has it already.
--
-- It leaves a mark in the log and commits it: a server that cannot commit (a standby, a full disk, a synchronous replica
-- that is gone) takes no reports either, and that time must not count against the workers. `due_in` in seconds, null for
-- never.
select
    now() as at,
    case when $2::boolean then true else pg_try_advisory_lock($1::bigint) end as holds,
    extract(epoch from (select min(due_at) from ledger.task) - now())::double precision as due_in,
    pg_logical_emit_message(true, 'ledgerwire', 'pulse') as mark
