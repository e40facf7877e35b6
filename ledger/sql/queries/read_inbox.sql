-- What was said in SQL becomes transitions and hints, $1 entries at most. `entries` is null where another node is at it;
-- `unmade` are changes of attached tables that cannot be mirrored, each reason once. See ../migrations/0006_sql_inbox.sql.
select entries, unmade from ledger.read_inbox($1)
