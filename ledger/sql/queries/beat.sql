-- $1 keys, $2 attempts (null: any), $3 conditions on the row (null: none): these workers are still there. No transition. A
-- beat of an attempt that was replaced keeps nothing alive. Returned are those whose row is being written, which this statement does not wait for: one task
-- that somebody holds must not cost the others their beats.
with leased as materialized (
    select t.key, b.attempt
    from unnest($1::uuid[], $2::integer[], $3::text[]) as b (key, attempt, condition)
    join ledger.task t on t.key = b.key
    where t.status in ('running', 'cancelling') and (b.attempt is null or b.attempt = t.attempt)
        and (b.condition is null or b.condition in ('owner:' || t.owner, 'kind:' || t.kind))
),
free as materialized (
    select t.key
    from leased l
    join ledger.task t on t.key = l.key
    where t.status in ('running', 'cancelling') and (l.attempt is null or l.attempt = t.attempt)
    for no key update of t skip locked
),
heard as (
    update ledger.task t set beat_at = now()
    from free f
    where t.key = f.key
)
select key, attempt from leased where key not in (select key from free)
