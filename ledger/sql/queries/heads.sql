-- One row per request: its task as it stands, and the transition that already carries the request, if there is one.
--
-- Carried by the caller's key (idem), by (attempt, n), or, with neither, at or behind the first place where an earlier
-- try may have put it (sent_seq, random digest) when the answer to that try was lost. All in one snapshot.
-- Numbers rise within an attempt, nearly always by one, so the distance of n from the last one says where to look; an
-- index on them would cost every transition a third more. What is not there is looked for among the newest 1,000.
select
    (select epoch from ledger.epoch), i.ord, t.tenant, t.task_id, t.kind, t.owner, t.created, t.status, t.seq, t.attempt,
    t.n, t.progress, t.stage, t.message, t.data_seq, t.result_seq, t.error_seq, t.cancel_stage, t.cancel_seq,
    t.cancel_reason, t.lease_ms,
    coalesce(a.seq, b.seq, c.seq, d.seq) as prior_seq,
    coalesce(a.status, b.status, c.status, d.status) as prior_status,
    coalesce(a.attempt, b.attempt, c.attempt, d.attempt) as prior_attempt,
    coalesce(a.digest, b.digest, c.digest, d.digest) as prior_digest
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
    where i.attempt = t.attempt and i.n <= t.n
        and p.key = i.key and p.seq between t.seq - (t.n - i.n) - 100 and t.seq - (t.n - i.n) + 100
        and p.attempt = i.attempt and p.n = i.n
    limit 1 -- keeps the conditions inside: what need not be looked for is not
) c on true
left join lateral (
    select p.seq, p.status, p.attempt, p.digest
    from ledger.transition p
    where c.seq is null and (i.attempt < t.attempt or i.n <= t.n)
        and p.key = i.key and p.seq > t.seq - 1000
        and p.attempt = i.attempt and p.n = i.n
    limit 1
) d on true
