-- Group commit of anything: compare-and-set of task heads, and the transitions of those that were applied. One
-- statement, one commit.
--
-- Array literals. $1..$24: one element per task, sorted by key. `expected` is the sequence the decision was made at (0:
-- no row yet), `heard` whether a worker spoke, `due_ms` when the reaper must look (negative: no more).
-- $25..$39: one element per transition; payloads are joined by the unit separator. $40, $41: as $10, $11 in advance.sql.
-- A task that has moved on since the decision is left alone, and nothing of it is written; where it does so at this very
-- moment, the statement fails by the primary key. New tasks first, then transitions, then existing tasks, each in key
-- order: two batches cannot deadlock. `applied` is null when all were applied, else the keys of those that were.
with history as materialized (
    select epoch, copy, ($40::text is null or epoch = $40) and ($41::text is null or copy = $41) as same from ledger.copy
),
head as materialized (
    select *
    from unnest(
        $1::text::uuid[], $2::text::bigint[], $3::text::text[], $4::text::text[], $5::text::text[], $6::text::text[],
        $7::text::boolean[], $8::text::text[], $9::text::bigint[], $10::text::integer[], $11::text::integer[],
        $12::text::double precision[], $13::text::text[], $14::text::text[], $15::text::bigint[], $16::text::bigint[],
        $17::text::bigint[], $18::text::text[], $19::text::bigint[], $20::text::text[], $21::text::integer[],
        $22::text::bigint[], $23::text::bigint[], $24::text::boolean[]
    ) as h (
        key, expected, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message,
        data_seq, result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason, lease_ms, deadline_ms, due_ms, heard
    )
),
born as (
    insert into ledger.task (
        key, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message, data_seq,
        result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason, lease_ms, deadline_at, due_at, beat_at
    )
    select
        key, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message, data_seq,
        result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason, lease_ms,
        now() + deadline_ms * interval '1 ms',
        case when due_ms >= 0 then now() + due_ms * interval '1 ms' end,
        case when heard then now() end
    from head
    where expected = 0 and (select same from history)
    on conflict (key) do nothing
    returning key
),
applied as materialized (
    select key from born
    union all
    select h.key
    from head h
    join ledger.head t on t.key = h.key
    where h.expected > 0 and t.seq = h.expected and (select same from history)
),
grown as (
    update ledger.task t
    set kind = h.kind, owner = h.owner, created = h.created, status = h.status, seq = h.seq, attempt = h.attempt,
        n = h.n, progress = h.progress, stage = h.stage, message = h.message, data_seq = h.data_seq,
        result_seq = h.result_seq, error_seq = h.error_seq, cancel_stage = h.cancel_stage, cancel_seq = h.cancel_seq,
        cancel_reason = h.cancel_reason, lease_ms = h.lease_ms,
        deadline_at = coalesce(now() + h.deadline_ms * interval '1 ms', t.deadline_at),
        due_at = case
            when h.due_ms < 0 then null
            when h.due_ms is null then t.due_at
            else least(t.due_at, now() + h.due_ms * interval '1 ms')
        end,
        updated_at = now(),
        -- The row itself is newer than what this statement sees of it, where a beat was written meanwhile.
        beat_at = case
            when h.heard then now()
            else greatest(t.beat_at, (select beat_at from ledger.head where key = h.key))
        end
    from head h
    where h.expected > 0 and t.key = h.key and case when h.key in (select key from applied) then true end
),
noted as (
    insert into ledger.transition (
        key, seq, status, attempt, n, progress, stage, message, cancel, reason, digest, idem, data, result, error
    )
    select
        s.key, s.seq, s.status, s.attempt, s.n, s.progress, s.stage, s.message, s.cancel, s.reason, s.digest, s.idem,
        s.data, s.result, s.error
    from unnest(
        $25::text::uuid[], $26::text::bigint[], $27::text::text[], $28::text::integer[], $29::text::integer[],
        $30::text::double precision[], $31::text::text[], $32::text::text[], $33::text::text[], $34::text::text[],
        $35::text::uuid[], $36::text::uuid[], string_to_array($37::text, e'\x1f', '')::json[],
        string_to_array($38::text, e'\x1f', '')::json[], string_to_array($39::text, e'\x1f', '')::json[]
    ) as s (
        key, seq, status, attempt, n, progress, stage, message, cancel, reason, digest, idem, data, result, error
    )
    where case when s.key in (select key from applied) then true end -- looked up by hash; as a join it would be a loop
)
select
    now() as at, (select epoch from history), (select copy from history),
    case
        when (select count(*) from applied) < (select count(*) from head) then array(select key from applied)
    end as applied
