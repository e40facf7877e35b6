-- $1 the digest of a ticket: it is used, and was good unless there is no row.
delete from ledger.ticket
where digest = $1
returning tenant, subject, grants, issuer, token_id, token_ends, least(expires_at, token_ends) > now() as good
