-- What a database role may call: ledger.create, report, cancel, bound to one tenant.

-- A payload on one line: line ends would end a frame of server-sent events. In JSON they stand between its parts only.
create function ledger.one_line(payload json) returns json
language sql immutable parallel safe
return case when payload::text ~ e'[\n\r\t]' then translate(payload::text, e'\n\r\t', '   ')::json else payload end;

-- Deeper than readers in other languages go. To count what opens is enough for nearly all payloads.
create function ledger.is_deep(payload json) returns boolean
language sql immutable parallel safe
return case
    when length(payload::text) - length(translate(payload::text, '[{', '')) > 254
        then jsonb_path_exists(payload::jsonb, 'strict $.**{255}')
    else false
end;

-- Why a request cannot be one, whatever its task; null where it can. The bounds are those of gateway/protocol/messages.py.
create function ledger.unfit(task_id text, key text, asked ledger.request) returns ledger.answer
language plpgsql stable
as $$
declare
    why text;
begin
    if task_id is null or task_id !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$' collate "C" then
        return ledger.rejected('bad_task_id', 'A task id has 1 to 128 of the characters A-Z a-z 0-9 . _ : - and begins with'
            ' a letter or digit.');
    end if;
    why := case
        when asked.status not in ('pending', 'running', 'completed', 'failed', 'cancelled')
            then 'A status is pending, running, completed, failed or cancelled.'
        when asked.cancel not in ('delivered', 'refused') then 'An answer to a cancel request is delivered or refused.'
        when not asked.progress between 0 and 100 then 'Progress is 0 to 100.'
        when asked.attempt < 1 or asked.n < 1 then 'Attempts and numbers begin at 1.'
        when asked.attempt is not null and asked.new_attempt then 'Say `attempt` or `new_attempt`, not both.'
        when asked.n is not null and asked.attempt is null then '`n` counts within an attempt: say `attempt` too.'
        when asked.n is not null and key is not null then 'Say `n` or `key`, not both: either makes the report repeatable.'
        when asked.cancel is not null and asked.status is not null
            then 'Say `cancel` or `status`: an answer to a cancel request has no status.'
        when not asked.clear <@ array['progress', 'stage', 'message'] then '`clear` names progress, stage or message.'
        when length(key) not between 1 and 128 then 'A key has 1 to 128 characters.'
        when greatest(length(asked.kind), length(asked.owner)) > 128 then 'Kind and owner have 128 characters at most.'
        when length(asked.stage) > 256 then 'A stage has 256 characters at most.'
        when greatest(length(asked.message), length(asked.reason)) > 2048 then 'A text has 2048 characters at most.'
        when not asked.lease_ms between 100 and 86400000 then 'A lease is 100 ms to a day.'
        when not asked.deadline_ms between 1 and 2592000000 then 'A deadline is 1 ms to 30 days away.'
        when octet_length(asked.data::text) > 16384 then '`data` has 16384 bytes at most.'
        when octet_length(asked.result::text) > 32768 then '`result` has 32768 bytes at most.'
        when octet_length(asked.error::text) > 16384 then '`error` has 16384 bytes at most.'
        when ledger.is_deep(asked.data) or ledger.is_deep(asked.result) or ledger.is_deep(asked.error)
            then 'A payload nests 254 deep at most.'
    end;
    return case when why is not null then ledger.rejected('bad_request', why) end;
end $$;

-- Of what a report says, as gateway/protocol/requests.py makes it: so a repeat may come by another way.
create function ledger.digest_of(asked ledger.request) returns uuid
language sql stable
return ledger.digest(concat(
    '{"status":', coalesce(to_json(asked.status)::text, 'null'),
    case when 'progress' = any (asked.clear) then ',"progress":null' else
        ',"progress":' || asked.progress || case when asked.progress::text ~ '[.e]' then '' else '.0' end end,
    case when 'stage' = any (asked.clear) then ',"stage":null' else ',"stage":' || to_json(asked.stage) end,
    case when 'message' = any (asked.clear) then ',"message":null' else ',"message":' || to_json(asked.message) end,
    ',"kind":', coalesce(to_json(asked.kind)::text, 'null'), ',"owner":', coalesce(to_json(asked.owner)::text, 'null'),
    ',"cancel":', coalesce(to_json(asked.cancel)::text, 'null'), ',"lease_ms":', coalesce(asked.lease_ms::text, 'null'),
    ',"deadline_ms":', coalesce(asked.deadline_ms::text, 'null'), ',"payload_bytes":[',
    coalesce(octet_length(asked.data::text), -1), ',', coalesce(octet_length(asked.result::text), -1), ',',
    coalesce(octet_length(asked.error::text), -1), ']}', asked.data, asked.result, asked.error
));

create function ledger.settle_and_tell(tenant text, task_id text, asked ledger.request) returns ledger.answer
language plpgsql
as $$
declare
    answer ledger.answer := ledger.settle(tenant, task_id, asked);
begin
    if answer.ok and not answer.repeat then
        perform ledger.tell(ledger.task_key(tenant, task_id), answer.seq);
    end if;
    return answer;
end $$;

-- Announces a task, as `create` of docs/protocol.md. The same again is a repeat.
create function ledger.create(
    task_id text, kind text default null, owner text default null, data json default null, key text default null,
    lease_ms integer default null, deadline_ms bigint default null
) returns ledger.answer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    tenant text := ledger.my_tenant();
    asked ledger.request;
    refusal ledger.answer;
begin
    asked.what := 'create';
    asked.kind := kind;
    asked.owner := owner;
    asked.data := ledger.one_line(data);
    asked.lease_ms := lease_ms;
    asked.deadline_ms := deadline_ms;
    asked.digest := ledger.digest(concat(
        '["create",', coalesce(to_json(kind)::text, 'null'), ',', coalesce(to_json(owner)::text, 'null'), ',',
        coalesce(to_json(asked.data::text)::text, 'null'), ',', coalesce(lease_ms::text, 'null'), ',',
        coalesce(deadline_ms::text, 'null'), ']'
    ));
    asked.idem := case when key is null then asked.digest else ledger.digest('key' || chr(31) || key) end;
    refusal := ledger.unfit(task_id, key, asked);
    return case when refusal.code is null then ledger.settle_and_tell(tenant, task_id, asked) else refusal end;
end $$;

-- Says what has changed of a task, as `report` of docs/protocol.md. What is null stays as it is; `clear` names what becomes null.
create function ledger.report(
    task_id text, status text default null, progress double precision default null, stage text default null,
    message text default null, data json default null, result json default null, error json default null,
    attempt integer default null, n integer default null, key text default null, kind text default null,
    owner text default null, cancel text default null, lease_ms integer default null, deadline_ms bigint default null,
    new_attempt boolean default false, clear text[] default '{}'
) returns ledger.answer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    tenant text := ledger.my_tenant();
    asked ledger.request := row(
        'report', attempt, coalesce(new_attempt, false), n,
        case when key is not null then ledger.digest('key' || chr(31) || key) end, null, status, progress, stage, message,
        coalesce(clear, '{}'), ledger.one_line(data), ledger.one_line(result), ledger.one_line(error), kind, owner, cancel,
        lease_ms, deadline_ms, null
    );
    refusal ledger.answer := ledger.unfit(task_id, key, asked);
begin
    if refusal.code is not null then
        return refusal;
    elsif n is not null or key is not null then
        asked.digest := ledger.digest_of(asked);
    end if;
    return ledger.settle_and_tell(tenant, task_id, asked);
end $$;

-- Asks for the end of a task, as `cancel` of docs/protocol.md.
create function ledger.cancel(task_id text, reason text default null, key text default null) returns ledger.answer
language plpgsql security definer set search_path = pg_catalog, pg_temp set plan_cache_mode = force_generic_plan
set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    tenant text := ledger.my_tenant();
    asked ledger.request;
    refusal ledger.answer;
begin
    asked.what := 'cancel';
    asked.reason := reason;
    if key is not null then
        asked.idem := ledger.digest('key' || chr(31) || key);
        asked.digest := ledger.digest(concat('["cancel",', coalesce(to_json(reason)::text, 'null'), ']'));
    end if;
    refusal := ledger.unfit(task_id, key, asked);
    return case when refusal.code is null then ledger.settle_and_tell(tenant, task_id, asked) else refusal end;
end $$;
