-- $1 keys: those of tasks that a transaction which is still open has written to in SQL; see ledger.hold in
-- ../migrations/0005_sql_api.sql. Waits for nobody.
select key
from unnest($1::uuid[]) as key
where not pg_try_advisory_xact_lock(('x' || left(replace(key::text, '-', ''), 16))::bit(64)::bigint)
