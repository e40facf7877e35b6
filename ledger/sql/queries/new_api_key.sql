-- A key, lasting $6 (null: for ever).
insert into ledger.api_key (id, tenant, subject, grants, digest, expires_at)
values ($1, $2, $3, $4, $5, now() + $6::interval)
returning id, tenant, subject, grants, digest, created_at, expires_at, revoked_at
