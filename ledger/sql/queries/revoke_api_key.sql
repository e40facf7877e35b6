-- $1 an id. No row where there is no such key; a repeat changes nothing.
update ledger.api_key
set revoked_at = coalesce(revoked_at, now())
where id = $1
returning id, tenant, subject, grants, digest, created_at, expires_at, revoked_at
