-- One row per request: its task as it stands, and the transition that already carries the request, if there is one.
--
-- Carried by (attempt, n), by the caller's key (idem), or, with neither, at or behind the first place where an earlier
-- try may have put it (sent_seq, random digest) when the answer to that try was lost. All in one snapshot.
select
    i.ord, t.tenant, t.task_id, t.kind, t.owner, t.created, t.status, t.seq, t.attempt, t.n, t.progress, t.stage,
    t.message, t.data_seq, t.result_seq, t.error_seq, t.cancel_stage, t.cancel_seq, t.cancel_reason,
    coalesce(a.seq, b.seq, c.seq) as prior_seq,
    coalesce(a.status, b.status, c.status) as prior_status,
    coalesce(a.attempt, b.attempt, c.attempt) as prior_attempt,
    coalesce(a.digest, b.digest, c.digest) as prior_digest
from unnest($1::integer[], $2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::bigint[], $7::uuid[])
    as i (ord, key, attempt, n, idem, sent_seq, digest)
left join ledger.task t on t.key = i.key
left join lateral (
    select p.seq, p.status, p.attempt, p.digest
    from ledger.transition p
    where i.idem is null and i.n is null -- else the digest is of the content, and another report may say the same
        and p.key = i.key and p.seq >= i.sent_seq and p.digest = i.digest
    order by p.seq
    limit 1
) a on true
left join lateral (
    select p.seq, p.status, p.attempt, p.digest
    from ledger.transition p
    where p.key = i.key and p.idem = i.idem
) b on true
left join lateral (
    select p.seq, p.status, p.attempt, p.digest
    from ledger.transition p
    where p.key = i.key and p.attempt = i.attempt and p.n = i.n
        -- a number beyond the last accepted one cannot be there: spare the search
        and (i.attempt < t.attempt or i.n <= t.n)
    order by p.seq
    limit 1
) c on true
