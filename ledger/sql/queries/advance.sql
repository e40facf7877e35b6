-- Group commit of progress: one transition for each of many running tasks. One statement, one commit.
--
-- Array literals, one element per task, sorted by key: two batches cannot deadlock. $9 is joined by the unit separator.
-- A task whose sequence is not the one before `seq` has moved on since the decision; nothing of it is written. Nor is
-- anything where the ledger's history is no more the one of the decision: $10, null when it is not known yet.
-- `applied` is null when all were applied, else the keys of those that were.
with history as materialized (
    select epoch, $10::text is null or epoch = $10 as same from ledger.epoch
),
step as materialized (
    select *
    from unnest(
        $1::text::uuid[], $2::text::bigint[], $3::text::integer[], $4::text::integer[],
        $5::text::double precision[], $6::text::text[], $7::text::text[], $8::text::uuid[],
        string_to_array($9::text, e'\x1f', '')::json[]
    ) as s (key, seq, attempt, n, progress, stage, message, digest, data)
),
grown as (
    update ledger.task t
    set seq = s.seq, n = coalesce(s.n, t.n), progress = s.progress, stage = s.stage, message = s.message,
        data_seq = case when s.data is null then t.data_seq else s.seq end, updated_at = now(), beat_at = now()
    from step s
    where t.key = s.key and t.seq = s.seq - 1 and (select same from history)
    returning s.key, s.seq, s.attempt, coalesce(s.n, -t.n) as n, s.progress, s.stage, s.message, s.data, s.digest
),
noted as (
    insert into ledger.transition (key, seq, status, attempt, n, progress, stage, message, data, digest)
    select key, seq, 'running', attempt, n, progress, stage, message, data, digest
    from grown
    returning key
)
select
    now() as at, (select epoch from history),
    case when (select count(*) from noted) < (select count(*) from step) then array(select key from noted) end as applied
