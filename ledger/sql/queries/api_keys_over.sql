-- $1 ids: those of them that are no keys any more.
select i.id
from unnest($1::text[]) as i (id)
where not exists (
    select from ledger.api_key k
    where k.id = i.id and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())
)
