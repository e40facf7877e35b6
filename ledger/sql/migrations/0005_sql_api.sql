-- The decision in SQL: what a request does to a task, in the transaction of its caller. Why: docs/adr/0012-sql-is-an-api.md.

-- Which tenant the tasks of a database role belong to. Written by ledger.bind.
create table ledger.role_tenant (
    role   name primary key,
    tenant text not null
);

-- The answer to a request. `ok`: it is in the ledger, as `seq`; `repeat`: it was there before; `cancel_…`: the task's
-- cancel request while one is open, and always for an answer to a cancel. Else `code` and `message` say why it has no effect.
create type ledger.answer as (
    ok boolean, seq bigint, status text, attempt integer, repeat boolean, cancel_stage text, cancel_seq bigint,
    cancel_reason text, code text, message text
);

-- What is asked of a task. `what`: report, create or cancel; `clear` names what of progress, stage, message is to be null.
create type ledger.request as (
    what text, attempt integer, new_attempt boolean, n integer, idem uuid, digest uuid, status text,
    progress double precision, stage text, message text, clear text[], data json, result json, error json, kind text,
    owner text, cancel text, lease_ms integer, deadline_ms bigint, reason text
);

create function ledger.task_key(tenant text, task_id text) returns uuid
language sql immutable strict parallel safe
return encode(substr(sha256(convert_to(tenant || chr(31) || task_id, 'UTF8')), 1, 16), 'hex')::uuid;

-- A digest as ledger/model.py makes it.
create function ledger.digest(content text) returns uuid
language sql immutable parallel safe
return encode(substr(sha256(convert_to(content, 'UTF8')), 1, 16), 'hex')::uuid;

-- The state machine: the status after a move, null where the move is illegal. NEXT in ledger/machine.py; a test compares.
create function ledger.next_status(status text, move text) returns text
language sql immutable parallel safe
return case
    when status not in ('pending', 'running', 'cancelling') then null
    when move = 'complete' then 'completed'
    when move in ('fail', 'expire') then 'failed'
    when move = 'stop' then 'cancelled'
    when status = 'pending' then
        case move when 'wait' then 'pending' when 'run' then 'running' when 'cancel' then 'cancelling' end
    when move = 'lose' then 'lost'
    when status = 'running' then case move when 'run' then 'running' when 'cancel' then 'cancelling' end
    else case move
        when 'run' then 'cancelling' when 'deliver' then 'cancelling' when 'refuse' then 'running' when 'force' then 'cancelled'
    end
end;

create function ledger.rejected(code text, message text) returns ledger.answer
language sql immutable
return (false, null, null, null, null, null, null, null, code, message)::ledger.answer;

-- The tenant of the role that calls; inside a SECURITY DEFINER function only the setting still knows a SET ROLE.
create function ledger.my_tenant() returns text
language plpgsql stable
as $$
declare
    caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    tenant text;
begin
    select r.tenant into tenant from ledger.role_tenant r where r.role = caller;
    if tenant is null then
        raise insufficient_privilege using
            message = format('Role %s has no tasks here.', caller),
            hint = format('An owner of the ledger says whose they are: select ledger.bind(%L, ''TENANT'')', caller);
    end if;
    return tenant;
end $$;

-- Lets the writers of the gateways see that a transition of this task waits for its commit. The locks of a transaction are
-- bounded, as the server's memory for them is; ledger/sql/queries/held.sql is the other side.
create function ledger.hold(key uuid) returns void
language plpgsql
as $$
declare
    held integer := coalesce(nullif(current_setting('ledgerwire.held', true), ''), '0')::integer;
begin
    if held < 256 then
        perform pg_advisory_xact_lock_shared(('x' || left(replace(key::text, '-', ''), 16))::bit(64)::bigint);
        perform set_config('ledgerwire.held', (held + 1)::text, true);
    end if;
end $$;

-- The transition that carries a request already: by its key, else by its attempt and number (see heads.sql).
create function ledger.prior(head ledger.head, asked ledger.request) returns ledger.transition
language plpgsql
as $$
declare
    found ledger.transition;
    low bigint := 1;
    high bigint := head.seq;
    middle bigint;
begin
    if asked.idem is not null then
        select * into found from ledger.transition p where p.key = head.key and p.idem = asked.idem;
    elsif (asked.attempt, asked.n) <= (head.attempt, head.n) then
        select * into found from ledger.transition p
        where p.key = head.key and p.seq = head.seq - (head.n - asked.n) and p.attempt = asked.attempt and p.n = asked.n;
        while found.key is null and low < high loop
            middle := (low + high) / 2;
            if (select (p.attempt, abs(p.n)) < (asked.attempt, asked.n) from ledger.transition p
                where p.key = head.key and p.seq = middle) then
                low := middle + 1;
            else
                high := middle;
            end if;
        end loop;
        if found.key is null then
            select * into found from ledger.transition p
            where p.key = head.key and p.seq = low and p.attempt = asked.attempt and p.n = asked.n;
        end if;
    end if;
    return found;
end $$;

-- The answer to a request for what is so already.
create function ledger.stands(head ledger.head) returns ledger.answer
language sql immutable
return (
    true, head.seq, head.status, head.attempt, true, case when head.status = 'cancelling' then head.cancel_stage end,
    case when head.status = 'cancelling' then head.cancel_seq end,
    case when head.status = 'cancelling' then head.cancel_reason end, null, null
)::ledger.answer;

-- The answer to a request that is in the ledger already: the place of the first one, and how the cancel request stands now.
create function ledger.repeated(head ledger.head, asked ledger.request, prior ledger.transition) returns ledger.answer
language plpgsql immutable
as $$
begin
    if asked.what = 'cancel' and head.cancel_seq is distinct from prior.seq then
        return (true, prior.seq, prior.status, prior.attempt, true, 'refused', prior.seq, asked.reason, null, null)::ledger.answer;
    elsif asked.what = 'cancel' or head.status = 'cancelling' then
        return (true, prior.seq, prior.status, prior.attempt, true, head.cancel_stage, head.cancel_seq, head.cancel_reason,
            null, null)::ledger.answer;
    end if;
    return (true, prior.seq, prior.status, prior.attempt, true, null, null, null, null, null)::ledger.answer;
end $$;

-- Decides one request as ledger/decide.py does, and appends what it changes, in the caller's transaction. The primary key
-- (key, seq) is the comparison, as it is for the writers of the gateways: where somebody has taken the place in between, the
-- task is looked at again. New task first, then transition, then task: as in append.sql, so that they cannot deadlock.
create function ledger.settle(tenant text, task_id text, asked ledger.request) returns ledger.answer
language plpgsql
as $$
#variable_conflict use_variable
declare
    task_key uuid := ledger.task_key(tenant, task_id);
    before ledger.head;
    after ledger.head;
    prior ledger.transition;
    known boolean;
    plain boolean;
    move text;
    stage text; -- of the cancel request, where this reaches one
    moment timestamptz;
    due timestamptz;
begin
    for _ in 1..100 loop
        select * into before from ledger.head h where h.key = task_key;
        known := found;
        if known then
            if (before.tenant, before.task_id) <> (tenant, task_id) then
                raise 'two tasks with one key: sha256 has collided';
            end if;
            prior := ledger.prior(before, asked);
            if prior.key is not null and prior.digest <> asked.digest then
                return ledger.rejected('key_reused', case when asked.idem is null
                    then format('Attempt %s of task %s already used n=%s for another report.', asked.attempt, task_id, asked.n)
                    else format('This key was already used in task %s for another request.', task_id) end);
            elsif prior.key is not null then
                return ledger.repeated(before, asked, prior);
            end if;
        else
            before := row(task_key, tenant, task_id, null, null, false, 'pending', 0, 0, 0, 0, null, null, null, 0, 0, 0);
        end if;
        after := before;
        stage := null;
        plain := false;
        if asked.what = 'cancel' then
            if before.status not in ('pending', 'running', 'cancelling') then
                if before.cancel_stage is null or before.cancel_stage = 'refused' then
                    before.cancel_stage := 'too_late';
                    before.cancel_seq := before.seq;
                    before.cancel_reason := null;
                end if;
                return (true, before.seq, before.status, before.attempt, true, before.cancel_stage, before.cancel_seq,
                    before.cancel_reason, null, null)::ledger.answer;
            elsif before.status = 'cancelling' then
                return (true, before.cancel_seq, before.status, before.attempt, true, before.cancel_stage,
                    before.cancel_seq, before.cancel_reason, null, null)::ledger.answer;
            end if;
            stage := 'recorded';
            after.status := ledger.next_status(before.status, 'cancel');
            after.cancel_seq := before.seq + 1;
            after.cancel_reason := asked.reason;
        elsif asked.what = 'create' then
            if before.created then
                return ledger.rejected('task_exists', format(
                    'Task %s was already created, with other content or another key; choose another task_id.', task_id));
            elsif before.cancel_stage = 'forced' and before.seq = 2 then
                return ledger.stands(before);
            elsif before.status not in ('pending', 'running', 'cancelling') then
                return ledger.rejected('task_ended', format('Task %s was reported to its end (%s) before it was created;'
                    ' nothing of this create is kept. Create a task before its worker begins.', task_id, before.status));
            elsif before.status = 'cancelling' and before.seq = 1 then
                stage := 'honoured'; -- a tombstone: nobody has begun the task, and now nobody will
                after.status := 'cancelled';
            end if;
            after.created := true;
        else
            plain := before.status = 'running' and coalesce(asked.status, 'running') = 'running' and not asked.new_attempt
                and (asked.attempt = before.attempt or (asked.attempt is null and asked.n is null))
                and (asked.n is null or asked.n > before.n)
                and (asked.kind is null or before.kind is not null) and (asked.owner is null or before.owner is not null)
                and num_nonnulls(asked.result, asked.error, asked.cancel, asked.idem, asked.lease_ms, asked.deadline_ms) = 0
                and (asked.data is not null or before.data_seq <= before.anchor);
            plain := coalesce(plain, false);
            if not plain then
                if asked.attempt < before.attempt then
                    return ledger.rejected('fenced', format('Attempt %s of task %s was replaced by attempt %s; stop working'
                        ' on it.', asked.attempt, task_id, before.attempt));
                elsif asked.attempt > before.attempt::bigint + 1000 then
                    return ledger.rejected('bad_request', format('Attempt %s of task %s is too far ahead of attempt %s;'
                        ' say new_attempt to open the next one.', asked.attempt, task_id, before.attempt));
                elsif before.status not in ('pending', 'running', 'cancelling') then
                    return ledger.rejected('task_ended', format('Task %s ended as %s at sequence %s; a terminal state never'
                        ' changes.', task_id, before.status, before.seq));
                elsif asked.attempt = before.attempt and asked.n <= before.n then
                    return ledger.rejected('superseded', format('Attempt %s of task %s has gone on to n=%s; n=%s was never'
                        ' accepted and comes too late.', before.attempt, task_id, before.n, asked.n));
                end if;
                move := case
                    when asked.cancel = 'delivered' then 'deliver' when asked.cancel = 'refused' then 'refuse'
                    when asked.status = 'pending' then 'wait' when asked.status = 'completed' then 'complete'
                    when asked.status = 'failed' then 'fail' when asked.status = 'cancelled' then 'stop'
                    else 'run' end;
                after.status := ledger.next_status(before.status, move);
                if after.status is null then
                    return ledger.rejected('illegal_transition', format('Task %s is %s and cannot %s.', task_id, before.status,
                        coalesce(format('answer a cancel request (%s)', asked.cancel), 'become ' || asked.status)));
                end if;
                if before.status = 'cancelling' then
                    stage := case move when 'deliver' then 'delivered' when 'refuse' then 'refused' when 'stop' then 'honoured'
                        when 'complete' then 'too_late' when 'fail' then 'too_late' end;
                    if stage = 'delivered' and before.cancel_stage = 'delivered' and asked.digest is null then
                        return ledger.stands(before); -- said twice without a key: still one effect
                    end if;
                end if;
                after.attempt := case when asked.new_attempt then before.attempt + 1
                    else coalesce(asked.attempt, before.attempt) end;
                after.n := case when after.attempt = before.attempt then before.n else 0 end;
            end if;
            after.n := coalesce(asked.n, after.n);
            after.progress := case when not 'progress' = any (asked.clear) then coalesce(asked.progress, before.progress) end;
            after.stage := case when not 'stage' = any (asked.clear) then coalesce(asked.stage, before.stage) end;
            after.message := case when not 'message' = any (asked.clear) then coalesce(asked.message, before.message) end;
        end if;
        after.seq := before.seq + 1;
        after.kind := coalesce(before.kind, asked.kind);
        after.owner := coalesce(before.owner, asked.owner);
        after.lease_ms := coalesce(asked.lease_ms, before.lease_ms);
        after.cancel_stage := coalesce(stage, before.cancel_stage);
        after.data_seq := case when asked.data is null then before.data_seq else after.seq end;
        after.result_seq := case when asked.result is null then before.result_seq else after.seq end;
        after.error_seq := case when asked.error is null then before.error_seq else after.seq end;
        moment := clock_timestamp(); -- a transaction may have begun long ago
        -- When the reaper looks at the latest, which then knows how patient this server is.
        due := moment + interval '1 ms' * least(
            asked.deadline_ms,
            case when after.status in ('running', 'cancelling') then coalesce(least(after.lease_ms, 5000), 5000) end
        );
        perform ledger.hold(task_key);
        if not known then
            insert into ledger.task (
                key, tenant, task_id, kind, owner, created, status, seq, attempt, n, progress, stage, message, data_seq,
                result_seq, error_seq, cancel_stage, cancel_seq, cancel_reason, created_at, updated_at, beat_at, lease_ms,
                deadline_at, due_at
            ) values (
                task_key, tenant, task_id, after.kind, after.owner, after.created, after.status, 1, after.attempt, after.n,
                after.progress, after.stage, after.message, after.data_seq, after.result_seq, after.error_seq,
                after.cancel_stage, after.cancel_seq, after.cancel_reason, moment, moment,
                case when asked.what = 'report' then moment end, after.lease_ms, moment + asked.deadline_ms * interval '1 ms',
                case when after.status in ('pending', 'running', 'cancelling') then due end
            ) on conflict do nothing;
            continue when not found;
        end if;
        insert into ledger.transition (
            key, seq, status, attempt, n, progress, stage, message, cancel, reason, digest, idem, data, result, error, at
        ) values (
            task_key, after.seq, after.status, after.attempt,
            case when asked.n is null then -after.n else after.n end, after.progress, after.stage, after.message, stage,
            case when asked.what = 'cancel' then asked.reason end, coalesce(asked.digest, gen_random_uuid()), asked.idem,
            asked.data, asked.result, asked.error, moment
        ) on conflict do nothing;
        continue when not found;
        if known and not plain then
            update ledger.task t
            set kind = after.kind, owner = after.owner, created = after.created, status = after.status, seq = after.seq,
                attempt = after.attempt, n = after.n, progress = after.progress, stage = after.stage,
                message = after.message, data_seq = after.data_seq, result_seq = after.result_seq,
                error_seq = after.error_seq, cancel_stage = after.cancel_stage, cancel_seq = after.cancel_seq,
                cancel_reason = after.cancel_reason, lease_ms = after.lease_ms, updated_at = moment,
                deadline_at = coalesce(moment + asked.deadline_ms * interval '1 ms', t.deadline_at),
                due_at = case when after.status in ('pending', 'running', 'cancelling') then least(t.due_at, due) end,
                beat_at = case when asked.what = 'report' then moment else greatest(t.beat_at, before.beat_at) end
            where t.key = task_key;
        end if;
        return (true, after.seq, after.status, after.attempt, false,
            case when after.status = 'cancelling' then after.cancel_stage end,
            case when after.status = 'cancelling' then after.cancel_seq end,
            case when after.status = 'cancelling' then after.cancel_reason end, null, null)::ledger.answer;
    end loop;
    raise serialization_failure using message = format('Others write to task %s without a pause.', task_id);
end $$;
