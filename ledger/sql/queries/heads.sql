-- One row per request: its task as it stands, and the transition that already carries the request, if there is one.
--
-- Carried by the caller's key (idem), by (attempt, n), or, with neither, at or behind the first place where an earlier
-- try may have put it (sent_seq, random digest) when the answer to that try was lost. All in one snapshot.
-- A number is found at its distance from the last one when none was skipped and nothing else came since, and else by
-- halving: attempts rise with the sequence, and within them numbers (see `n` in ../schema.sql). An index on them would
-- cost every transition a third more.
select
    here.epoch, here.copy, i.ord, t.tenant, t.task_id, t.kind, t.owner, t.created, t.status, t.seq, t.anchor, t.attempt, t.n, t.progress, t.stage, t.message, t.data_seq, t.result_seq, t.error_seq, t.cancel_stage, t.cancel_seq,
    t.cancel_reason, t.lease_ms,
    coalesce(a.seq, b.seq, c.seq, d.seq) as prior_seq,
    coalesce(a.status, b.status, c.status, d.status) as prior_status,
    coalesce(a.attempt, b.attempt, c.attempt, d.attempt) as prior_attempt,
    coalesce(a.digest, b.digest, c.digest, d.digest) as prior_digest
from ledger.copy here
cross join unnest($1::integer[], $2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::bigint[], $7::uuid[])
    as i (ord, key, attempt, n, idem, sent_seq, digest)
left join ledger.head t on t.key = i.key
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
        and p.key = i.key and p.seq = t.seq - (t.n - i.n) and p.attempt = i.attempt and p.n = i.n
    limit 1 -- keeps the conditions inside, here and below: a row is looked up by key and seq, and only where it is needed
) c on true
left join lateral (
    with recursive half as (
        select 1::bigint as low, t.seq as high
        where c.seq is null and i.n is not null and (i.attempt < t.attempt or (i.attempt = t.attempt and i.n <= t.n))
        union all
        select case when m.before then w.mid + 1 else w.low end, case when m.before then w.high else w.mid end
        from (select low, high, (low + high) / 2 as mid from half where low < high) w
        cross join lateral (
            select coalesce((p.attempt, abs(p.n)) < (i.attempt, i.n), true) as before
            from ledger.transition p
            where p.key = i.key and p.seq = w.mid
            limit 1
        ) m
    )
    select low as seq from half where low = high limit 1
) first on true
left join lateral (
    select p.seq, p.status, p.attempt, p.digest
    from ledger.transition p
    where p.key = i.key and p.seq = first.seq and p.attempt = i.attempt and p.n = i.n
    limit 1
) d on true
