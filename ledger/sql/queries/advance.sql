-- Group commit of progress: transitions of running tasks, and nothing else. One statement, one commit.
--
-- Array literals, one element per transition, sorted by key and sequence: two batches cannot deadlock. $9 is joined by the
-- unit separator. The primary key is the comparison: where somebody else has appended to one of the tasks since the
-- decision, the statement fails. Nothing is written where the ledger's history is no more the one of the decision, $10, or
-- the copy of it another one, $11 (null: not known yet), so that no memory can be ahead of what is there.
-- `applied` is null when all were applied, else empty.
with history as materialized (
    select epoch, copy, ($10::text is null or epoch = $10) and ($11::text is null or copy = $11) as same from ledger.copy
),
noted as (
    insert into ledger.transition (key, seq, status, attempt, n, progress, stage, message, digest, data)
    select key, seq, 'running', attempt, n, progress, stage, message, digest, data
    from unnest(
        $1::text::uuid[], $2::text::bigint[], $3::text::integer[], $4::text::integer[],
        $5::text::double precision[], $6::text::text[], $7::text::text[], $8::text::uuid[],
        string_to_array($9::text, e'\x1f', '')::json[]
    ) as s (key, seq, attempt, n, progress, stage, message, digest, data)
    where (select same from history)
)
select now() as at, epoch, copy, case when not same then '{}'::uuid[] end as applied
from history
