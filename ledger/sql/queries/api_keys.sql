-- $1 a tenant, or null for all: its keys, newest first, $2 at most.
select id, tenant, subject, grants, digest, created_at, expires_at, revoked_at
from ledger.api_key
where $1::text is null or tenant = $1
order by created_at desc, id
limit $2
