-- A ticket for $9 seconds, unless the principal has $8 already. Some of those that were never used go, a few at a time.
with swept as (
    delete from ledger.ticket
    where digest in (
        select digest from ledger.ticket where expires_at <= now() order by expires_at limit 100 for update skip locked
    )
)
insert into ledger.ticket (digest, tenant, subject, grants, issuer, token_id, token_ends, expires_at)
select $1, $2, $3, $4, $5, $6, $7, now() + $9::double precision * interval '1 second'
where (
    select count(*) from ledger.ticket where tenant = $2 and subject = $3 and expires_at > now()
) < $8
returning digest
