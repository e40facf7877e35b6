-- Group commit: compare-and-set of task heads, and the transitions of those that were applied. One statement, one commit.
--
-- $1..$20: one element per task, sorted by key. `expected` is the sequence the decision was made at (0: no row yet).
-- $21..$35: one element per transition.
-- Returns a row for each task that was applied; a task that has moved on since the decision is missing, and nothing of
-- it was written. New tasks first, then existing ones, each in key order: two batches cannot deadlock.
with head as materialized (
    select *
    from unnest(
        $1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[], $8::text[],
        $9::bigint[], $10::integer[], $11::integer[], $12::double precision[], $13::text[], $14::text[],
        $15::bigint[], $16::bigint[], $17::bigint[], $18::text[], $19::bigint[], $20::text[]
    ) as h (
        key, expected, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message,
        data_seq, result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason
    )
),
born as (
    insert into ledger.task (
        key, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message,
        data_seq, result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason
    )
    select
        key, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message,
        data_seq, result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason
    from head
    where expected = 0
    order by key
    on conflict (key) do nothing
    returning key
),
locked as (
    select t.key
    from ledger.task t
    join head h on t.key = h.key and t.seq = h.expected
    where h.expected > 0
    order by t.key
    for update of t
),
grown as (
    update ledger.task t
    set kind = h.kind, owner = h.owner, created = h.created, status = h.status, seq = h.seq, attempt = h.attempt,
        n = h.n, progress = h.progress, stage = h.stage, message = h.message, data_seq = h.data_seq,
        result_seq = h.result_seq, error_seq = h.error_seq, cancel_stage = h.cancel_stage,
        cancel_seq = h.cancel_seq, cancel_reason = h.cancel_reason, updated_at = now()
    from locked l
    join head h on h.key = l.key
    where t.key = l.key and t.seq = h.expected
    returning t.key
),
applied as (
    select key from born
    union all
    select key from grown
),
noted as (
    insert into ledger.transition (
        key, seq, status, attempt, n, progress, stage, message, data, result, error, cancel, reason, digest, idem
    )
    select
        s.key, s.seq, s.status, s.attempt, s.n, s.progress, s.stage, s.message, s.data, s.result, s.error,
        s.cancel, s.reason, s.digest, s.idem
    from applied a
    join unnest(
        $21::uuid[], $22::bigint[], $23::text[], $24::integer[], $25::integer[], $26::double precision[],
        $27::text[], $28::text[], $29::json[], $30::json[], $31::json[], $32::text[], $33::text[], $34::uuid[],
        $35::uuid[]
    ) as s (
        key, seq, status, attempt, n, progress, stage, message, data, result, error, cancel, reason, digest, idem
    ) on s.key = a.key
)
select key, now() as at from applied
