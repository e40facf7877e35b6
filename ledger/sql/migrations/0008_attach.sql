-- Mirrors tables of an application: ledger.attach and detach, and ledger.bind for those who may.
-- What it costs the application: docs/adr/0012-sql-is-an-api.md.

-- How a column of a row is written, as an expression. By its type's output and not by a cast, which may be the application's own:
-- it would run with the rights of the trigger function.
create function ledger.written(relation regclass, row_name text, name text) returns text
language sql stable
return (
    select format(
        case
            when t.typcategory = 'B' then 'case format(''%%s'', %1$s.%2$I) when ''t'' then ''true'' else ''false'' end'
            when 'bpchar'::regtype in (t.oid, t.typbasetype) then 'rtrim(format(''%%s'', %1$s.%2$I))'
            else 'format(''%%s'', %1$s.%2$I)'
        end, row_name, name
    )
    from pg_attribute a
    join pg_type t on t.oid = a.atttypid
    where a.attrelid = relation and a.attname = name and not a.attisdropped
);

-- The body of a table's trigger function: it leaves in the inbox what was said, and does not fail its caller.
create function ledger.mirror_body(attachment integer, relation regclass, spec jsonb) returns text
language plpgsql stable
as $$
declare
    is_json boolean;
    names text := '';
    cells text := '';
    written text;
    asked text;
    each text;
begin
    foreach each in array array['progress', 'stage', 'message', 'owner', 'data', 'result', 'error'] loop
        continue when spec ->> each is null;
        select a.atttypid in ('json'::regtype, 'jsonb'::regtype) into is_json from pg_attribute a
        where a.attrelid = relation and a.attname = spec ->> each and not a.attisdropped;
        written := ledger.written(relation, 'new', spec ->> each);
        asked := format('new.%I is not null', spec ->> each);
        if each in ('data', 'result', 'error') then
            asked := format('%s and (is_new or %s is distinct from %s)', asked, written,
                ledger.written(relation, 'old', spec ->> each));
        end if;
        names := names || ', ' || each;
        cells := cells || format(', case when %s then %s end', asked, format(
            case
                when each = 'progress' then 'greatest(least(%s::double precision, 100), 0)'
                when each in ('stage', 'message', 'owner') then '%s'
                when is_json then '%s::json'
                when each = 'error' then 'json_build_object(''message'', left(%s, 3000))'
                else 'to_json(%s)'
            end, written
        ));
    end loop;
    return format($body$
declare
    is_new boolean := tg_op = 'INSERT' or %1$s is distinct from %2$s;
begin
    if new.%3$I is not null and new.%4$I is not null then
        insert into ledger.inbox (attachment, task_id, word, is_new%5$s)
        values (%6$s, left(%1$s, 200), left(%7$s, 200), is_new%8$s);
        -- First without a call: nearly always somebody has rung just now.
        if abs(extract(epoch from clock_timestamp()) * 1000 - coalesce(pg_sequence_last_value('ledger.bell'), 0)) >= 100
            and ledger.may_ring()
        then
            perform ledger.notify('');
        end if;
    end if;
    return null;
exception when others then
    begin
        perform ledger.note_unmade(%6$s, sqlstate, sqlerrm);
    exception when others then
        null;
    end;
    return null;
end $body$, ledger.written(relation, 'new', spec ->> 'id'), ledger.written(relation, 'old', spec ->> 'id'), spec ->> 'id',
        spec ->> 'status', names, attachment, ledger.written(relation, 'new', spec ->> 'status'), cells);
end $$;

-- Why a table cannot be mirrored so; raises.
create function ledger.check_attachable(relation regclass, spec jsonb) returns void
language plpgsql stable
as $$
declare
    class pg_class;
    name_ text;
    type_ regtype;
    category "char";
    wanted text;
begin
    select * into class from pg_class c where c.oid = relation;
    if class.relkind <> 'r' or class.relispartition or class.relpersistence = 't'
        or class.relnamespace in ('ledger'::regnamespace, 'pg_catalog'::regnamespace)
        or exists (select from pg_inherits i where relation in (i.inhrelid, i.inhparent))
    then
        raise wrong_object_type using message = format('%s cannot be attached.', relation),
            hint = 'It must be a table of its own: no view, foreign or temporary table, partition or parent of others.';
    end if;
    for name_, wanted in select * from (values
        ('id', 'SUN'), ('status', 'SENB'), ('progress', 'N'), ('stage', 'SE'), ('message', 'SE'), ('owner', 'SEUN'),
        ('error', 'SU'), ('data', 'SU'), ('result', 'SU')
    ) as columns (name, wanted) loop
        continue when spec ->> name_ is null and name_ not in ('id', 'status');
        select t.oid, t.typcategory into type_, category from pg_attribute a join pg_type t on t.oid = a.atttypid
        where a.attrelid = relation and a.attname = spec ->> name_ and a.attnum > 0 and not a.attisdropped;
        if not found then
            raise undefined_column using message = format('%s has no column %L for %s.', relation, spec ->> name_, name_);
        elsif position(category in wanted) = 0
            or category = 'U' and (type_ = 'uuid'::regtype) <> (name_ in ('id', 'owner'))
            or category = 'U' and type_ not in ('uuid'::regtype, 'json'::regtype, 'jsonb'::regtype)
        then
            raise datatype_mismatch using message = format('The type of column %L of %s does not suit %s.', spec ->> name_,
                relation, name_);
        end if;
    end loop;
    if jsonb_typeof(spec -> 'map') is distinct from 'object' or spec -> 'map' = '{}' then
        raise invalid_parameter_value using message = 'map says which word of the table means which status.',
            hint = 'For example ''{"queued": "pending", "processing": "running", "done": "completed", "draft": null}''.';
    end if;
    for name_, wanted in select * from jsonb_each_text(spec -> 'map') loop
        if wanted not in ('pending', 'running', 'completed', 'failed', 'cancelled') then
            raise invalid_parameter_value using message = format('%L is mapped to %L, which is no status.', name_, wanted),
                hint = 'It may be pending, running, completed, failed or cancelled, or null for what is not to be mirrored.';
        end if;
    end loop;
    if length(spec ->> 'kind') > 128 then
        raise invalid_parameter_value using message = 'A kind has 128 characters at most.';
    end if;
end $$;

create function ledger.drop_attachment(attachment integer) returns void
language plpgsql
as $$
begin
    execute format('drop function if exists ledger.mirror_%s', attachment);
    execute format('drop sequence if exists ledger.unmade_%s', attachment);
    delete from ledger.inbox i where i.attachment = drop_attachment.attachment;
    delete from ledger.unmade u where u.attachment = drop_attachment.attachment;
    delete from ledger.attachment a where a.id = drop_attachment.attachment;
end $$;

-- The part of attach that the caller may not do: makes the trigger function, and returns its name.
create function ledger.prepare_attachment(relation regclass, spec jsonb) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    caller name := coalesce(nullif(current_setting('role'), 'none'), session_user);
    tenant text := ledger.my_tenant();
    id integer;
begin
    if not has_table_privilege(caller, relation, 'TRIGGER') then
        raise insufficient_privilege using message = format('Role %s may not put a trigger on %s.', caller, relation);
    end if;
    perform ledger.check_attachable(relation, spec);
    perform ledger.drop_attachment(a.id)
    from ledger.attachment a
    where not exists (select from pg_class c where c.oid = a.relation);
    insert into ledger.attachment (relation, tenant, spec) values (relation, tenant, spec)
    on conflict do nothing returning attachment.id into id;
    if id is null then
        raise unique_violation using message = format('%s is attached already.', relation), hint = 'Detach it first.';
    end if;
    execute format('create sequence ledger.unmade_%s', id);
    execute format(
        'create function ledger.mirror_%s() returns trigger language plpgsql security definer'
        ' set search_path = pg_catalog, pg_temp as %L',
        id, ledger.mirror_body(id, relation, spec)
    );
    execute format('revoke execute on function ledger.mirror_%s from public', id);
    execute format('grant execute on function ledger.mirror_%s to %I', id, caller);
    return format('ledger.mirror_%s', id);
end $$;

create function ledger.forget_attachment(relation regclass) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
    attachment integer;
begin
    select a.id into attachment from ledger.attachment a
    where a.relation = forget_attachment.relation and a.tenant = ledger.my_tenant();
    if attachment is null then
        raise undefined_object using message = format('%s is not attached.', relation);
    end if;
    perform ledger.drop_attachment(attachment);
end $$;

-- Mirrors a table from now on: each insert and each change of a named column becomes transitions of the task `id`. `map` says
-- which status a word means (null: not mirrored). Deleting a row leaves its task as it is. docs/adopt.md.
create function ledger.attach(
    relation regclass, id text, status text, map jsonb, progress text default null, stage text default null,
    message text default null, error text default null, data text default null, result text default null,
    owner text default null, kind text default null
) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    spec jsonb := jsonb_build_object('id', id, 'status', status, 'map', map, 'progress', progress, 'stage', stage, 'message',
        message, 'error', error, 'data', data, 'result', result, 'owner', owner, 'kind', kind);
    function_name text := ledger.prepare_attachment(relation, spec);
begin
    execute format(
        'create trigger ledgerwire_insert after insert on %s for each row execute function %s()', relation, function_name
    );
    execute format('create trigger ledgerwire_update after update on %s for each row when (%s) execute function %s()',
        relation, (
        select string_agg(distinct format(
            case when a.atttypid = 'json'::regtype then 'old.%1$I::text is distinct from new.%1$I::text'
            else 'old.%1$I is distinct from new.%1$I' end, a.attname), ' or ')
        from unnest(array['id', 'status', 'progress', 'stage', 'message', 'error', 'data', 'result']) name
        join pg_attribute a on a.attrelid = relation and a.attname = spec ->> name
    ), function_name);
end $$;

-- Mirrors it no longer. The tasks stay.
create function ledger.detach(relation regclass) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('drop trigger if exists ledgerwire_insert on %s', relation);
    execute format('drop trigger if exists ledgerwire_update on %s', relation);
    perform ledger.forget_attachment(relation);
end $$;

-- The tables that are attached for the caller's tenant, how many of their changes were not mirrored, and why.
create function ledger.attached() returns table (relation text, attached_at timestamptz, unmade bigint, reasons jsonb)
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    each ledger.attachment;
begin
    for each in select * from ledger.attachment a where a.tenant = ledger.my_tenant() order by a.id loop
        relation := each.relation::text;
        attached_at := each.attached_at;
        unmade := coalesce(pg_sequence_last_value(format('ledger.unmade_%s', each.id)::regclass), 0);
        select coalesce(jsonb_agg(jsonb_build_object('code', u.code, 'detail', u.detail, 'first_at', u.first_at)
            order by u.first_at), '[]') into reasons from ledger.unmade u where u.attachment = each.id;
        return next;
    end loop;
end $$;

-- Says whose tasks a database role reports, and lets it. For an owner of the ledger.
create function ledger.bind(role name, tenant text) returns void
language plpgsql
as $$
begin
    if tenant is null or tenant !~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$' then
        raise invalid_parameter_value using message = format('%L is no name of a tenant.', tenant);
    end if;
    insert into ledger.role_tenant values (role, tenant)
    on conflict on constraint role_tenant_pkey do update set tenant = excluded.tenant;
    execute format('grant usage on schema ledger to %I', role);
    execute format('grant execute on function ledger.create, ledger.report, ledger.cancel, ledger.attach, ledger.detach,'
        ' ledger.attached, ledger.prepare_attachment, ledger.forget_attachment to %I', role);
end $$;

-- Takes that back. What the role has attached stays attached.
create function ledger.unbind(role name) returns void
language plpgsql
as $$
begin
    delete from ledger.role_tenant r where r.role = unbind.role;
    execute format('revoke execute on function ledger.create, ledger.report, ledger.cancel, ledger.attach, ledger.detach,'
        ' ledger.attached, ledger.prepare_attachment, ledger.forget_attachment from %I', role);
    execute format('revoke usage on schema ledger from %I', role);
end $$;

revoke execute on all functions in schema ledger from public;
