-- $1 an id: the key, unless it is over.
select id, tenant, subject, grants, digest, created_at, expires_at, revoked_at
from ledger.api_key
where id = $1 and revoked_at is null and (expires_at is null or expires_at > now())
