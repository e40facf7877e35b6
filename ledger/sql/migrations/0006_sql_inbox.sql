-- What is said in SQL on its way to the gateways, and what they make of it.

-- When the gateways were last told of something said in SQL, in ms. A sequence, because all see at once what one has set.
create sequence ledger.bell minvalue 0 start 0;

-- What was said in SQL and no gateway has read: changes of attached tables, and hints at transitions (key and seq).
create table ledger.inbox (
    id         bigint  primary key generated always as identity,
    attachment integer,
    task_id    text,
    word       text,    -- the status, in the words of the table
    is_new     boolean, -- whether nothing was said of this task before
    progress   double precision,
    stage      text,
    message    text,
    owner      text,
    data       json,
    result     json,
    error      json,
    key        uuid,
    seq        bigint
);

-- The tables that are mirrored. Each has a trigger function of its own, ledger.mirror_ID, which names the columns, and a sequence
-- ledger.unmade_ID, which counts what could not be mirrored.
create table ledger.attachment (
    id          integer     primary key generated always as identity,
    relation    regclass    not null unique,
    tenant      text        not null,
    spec        jsonb       not null, -- what attach was called with
    attached_at timestamptz not null default now()
);

-- Why something could not be mirrored: each reason once, and a hundred for a table at most.
create table ledger.unmade (
    attachment integer     not null,
    code       text        not null,
    detail     text        not null,
    first_at   timestamptz not null default clock_timestamp(),
    primary key (attachment, code, detail)
);

-- Whether it is time to tell the gateways, which then look for half a second: transactions that notify commit one after the
-- other, so that must not become the rule.
create function ledger.may_ring() returns boolean
language plpgsql
as $$
declare
    now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
begin
    if abs(now_ms - coalesce(pg_sequence_last_value('ledger.bell'), 0)) < 100 then -- no query: it is asked for each change
        return false;
    end if;
    perform setval('ledger.bell', now_ms);
    return true;
end $$;

-- Hints to all gateways at the commit, `[key, seq]` with commas between them, as gateway/bus/hints.py reads them.
create function ledger.notify(hints text) returns void
language sql
begin atomic
    select pg_notify('ledgerwire_hints',
        format('{"v":1,"node":"sql","epoch":"%s","hints":[%s]}', (select epoch from ledger.epoch), hints));
end;

-- Tells the gateways of a transition at the commit: at once, or where they look anyway.
create function ledger.tell(key uuid, seq bigint) returns void
language plpgsql
as $$
begin
    if current_setting('ledgerwire.told', true) <> '' or not ledger.may_ring() then
        insert into ledger.inbox (key, seq) values (key, seq);
    else
        perform set_config('ledgerwire.told', 'yes', true);
        perform ledger.notify(format('["%s",%s]', replace(key::text, '-', ''), seq));
    end if;
end $$;

-- Counts a change that was not mirrored; whether the reason is new. Waits for nobody: where another transaction has just noted
-- the same it only counts.
create function ledger.note_unmade(attachment integer, code text, detail text) returns boolean
language plpgsql
as $$
#variable_conflict use_variable
begin
    perform nextval(format('ledger.unmade_%s', attachment));
    detail := left(detail, 200);
    if exists (select from ledger.unmade u where u.attachment = attachment and u.code = code and u.detail = detail)
        or (select count(*) from ledger.unmade u where u.attachment = attachment) >= 100
        or not pg_try_advisory_xact_lock(hashtextextended(format('ledgerwire %s %s %s', attachment, code, detail), 0))
    then
        return false;
    end if;
    insert into ledger.unmade values (attachment, code, detail) on conflict do nothing;
    return found;
end $$;

-- Makes the transitions of one change of an attached table; the last answer.
create function ledger.mirror(said ledger.inbox, tenant text, spec jsonb) returns ledger.answer
language plpgsql
as $$
declare
    status text := spec -> 'map' ->> said.word;
    asked ledger.request := row(
        'report', null, false, null, null, null, status, said.progress, left(said.stage, 256), left(said.message, 2048),
        array_remove(array[
            case when spec ->> 'progress' is not null and said.progress is null then 'progress' end,
            case when spec ->> 'stage' is not null and said.stage is null then 'stage' end,
            case when spec ->> 'message' is not null and said.message is null then 'message' end
        ], null),
        ledger.one_line(said.data), ledger.one_line(said.result), ledger.one_line(said.error), spec ->> 'kind',
        left(said.owner, 128), null, null, null, null
    );
    answer ledger.answer;
    born ledger.request;
begin
    if not spec -> 'map' ? said.word then
        return ledger.rejected('unmapped', said.word);
    elsif status is null then
        return answer; -- a word that is not to be mirrored
    end if;
    answer := ledger.unfit(said.task_id, null, asked);
    if answer.code is not null then
        return answer;
    elsif said.is_new then
        born.what := 'create';
        born.kind := asked.kind;
        born.owner := asked.owner;
        born.digest := ledger.digest(format('attached %s', said.attachment));
        born.idem := born.digest;
        answer := ledger.settle(tenant, said.task_id, born);
        if answer.ok and status = 'pending' and num_nonnulls(said.progress, said.stage, said.message, said.data, said.result,
            said.error) = 0
        then
            return answer;
        end if; -- and if it is there already, by another way, this is a report of it
    end if;
    return ledger.settle(tenant, said.task_id, asked);
end $$;

-- Reads the inbox, so many entries at most, in the order in which they were said: makes the transitions, and tells the gateways.
-- One at a time does so; null for the others. A task whose place an open transaction holds is left for the next time.
create function ledger.read_inbox(most integer, out entries integer, out unmade text[])
language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    said ledger.inbox;
    attachment ledger.attachment;
    answer ledger.answer;
    key uuid;
    held uuid[] := '{}';
    hints text[] := '{}';
begin
    if not exists (select from ledger.inbox) then
        entries := 0;
        return;
    elsif not pg_try_advisory_xact_lock(hashtextextended('ledgerwire inbox', 0)) then
        return;
    end if;
    entries := 0;
    perform set_config('lock_timeout', '20ms', true);
    for said in select * from ledger.inbox order by id loop
        exit when entries >= most;
        answer := null;
        key := said.key;
        if said.attachment is not null then
            if attachment.id is distinct from said.attachment then
                select * into attachment from ledger.attachment a where a.id = said.attachment;
            end if;
            key := ledger.task_key(attachment.tenant, said.task_id);
            continue when key = any (held);
            begin
                answer := ledger.mirror(said, attachment.tenant, attachment.spec);
            exception
                when lock_not_available or deadlock_detected or serialization_failure then
                    held := held || key;
                    perform set_config('lock_timeout', '1ms', true);
                    continue;
                when others then
                    answer := ledger.rejected(sqlstate, sqlerrm);
            end;
            if answer.code is not null and ledger.note_unmade(said.attachment, answer.code, coalesce(said.word, '')) then
                unmade := unmade || format('%s: %s (%s)', attachment.relation, answer.code, said.word);
            end if;
        end if;
        if coalesce(said.seq, answer.seq) is not null then
            hints := hints || format('["%s",%s]', replace(key::text, '-', ''), coalesce(said.seq, answer.seq));
        end if;
        delete from ledger.inbox i where i.id = said.id;
        entries := entries + 1;
    end loop;
    if hints <> '{}' then
        perform ledger.notify(array_to_string(hints, ','));
    end if;
end $$;
