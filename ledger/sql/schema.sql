-- The whole schema as it stands, for reading. The numbered files in migrations/ make it; a test compares the two.
-- PostgreSQL 15 to 18, no extension. Every primary and unique key of tasks begins with the task's key, so that the tables can be
-- distributed by it.

create schema ledger;

-- Which migrations were applied; kept by ledger/migrate.py.
create table ledger.migration (
    version    integer     primary key,
    name       text        not null,
    checksum   text        not null,
    applied_at timestamptz not null default now()
);

-- The identity of this ledger's history, one row. It changes when history is rewound (a restore, a forced failover).
create table ledger.epoch (
    only_one   boolean     primary key default true check (only_one),
    epoch      text        not null,
    started_at timestamptz not null default now()
);

-- One row per task: its state as of `seq`, the last transition that was more than progress. What followed is progress of
-- the same attempt, and stands in the transitions alone: `ledger.head` joins the two. Payloads stay with the transition
-- that brought them (data_seq, result_seq, error_seq; 0 for none), so that an update writes a small row.
create table ledger.task (
    key           uuid        primary key, -- first half of sha256(tenant || 0x1f || task_id)
    tenant        text        not null,
    task_id       text        not null,
    kind          text,
    owner         text,
    created       boolean     not null,    -- false while it exists only by a report or a cancel
    status        text        not null check (status in
        ('pending', 'running', 'cancelling', 'completed', 'failed', 'cancelled', 'lost')),
    seq           bigint      not null,    -- of the last transition that this row has taken in
    attempt       integer     not null,    -- the hold in force; a lower one is fenced
    n             integer     not null,    -- the last number accepted from that attempt
    progress      double precision,
    stage         text,
    message       text,
    data_seq      bigint      not null,
    result_seq    bigint      not null,
    error_seq     bigint      not null,
    cancel_stage  text check (cancel_stage in ('recorded', 'delivered', 'honoured', 'forced', 'refused', 'too_late')),
    cancel_seq    bigint,
    cancel_reason text,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    beat_at       timestamptz,             -- the worker's last sign of life: a beat, or a report that this row has taken in
    lease_ms      integer,                 -- how long the worker may be silent, where it said so itself
    deadline_at   timestamptz,
    due_at        timestamptz default now() -- when the reaper looks next, at the latest; null when it need not
) with (fillfactor = 60); -- room for HOT updates: no index holds a column that changes with a report

create index task_by_time on ledger.task (tenant, created_at desc, key desc);
create index task_by_owner on ledger.task (tenant, owner, created_at desc, key desc) where owner is not null;
create index task_due on ledger.task (due_at) where due_at is not null;

-- Every committed change, numbered per task 1..n in commit order. Never updated.
create table ledger.transition (
    key      uuid        not null,
    seq      bigint      not null,
    status   text        not null,
    attempt  integer     not null,
    n        integer,                      -- the worker's number within the attempt; without one the last, negated
    progress double precision,
    stage    text,
    message  text,
    data     json,                         -- null: unchanged. json, not jsonb: kept as it came, and cheaper
    result   json,
    error    json,
    cancel   text,                         -- the cancel stage that this change reached
    reason   text,
    digest   uuid        not null,         -- of the request's content: tells a repeat from a reused key
    idem     uuid,                         -- digest of the caller's key
    at       timestamptz not null default now(),
    primary key (key, seq)
);

create unique index transition_by_idem on ledger.transition (key, idem) where idem is not null;

-- The tasks as they stand. A running task's last transition has all that progress changes, except data that it did not
-- bring: that is the row's, as whoever appends without data what follows one with data has the row take it in.
create view ledger.head as
select
    t.key, t.tenant, t.task_id, t.kind, t.owner, t.created, t.status, coalesce(p.seq, t.seq) as seq, t.seq as anchor,
    t.attempt, case when p.seq is null then t.n else abs(p.n) end as n,
    case when p.seq is null then t.progress else p.progress end as progress,
    case when p.seq is null then t.stage else p.stage end as stage,
    case when p.seq is null then t.message else p.message end as message,
    case when p.brings_data then p.seq else t.data_seq end as data_seq, t.result_seq, t.error_seq,
    t.cancel_stage, t.cancel_seq, t.cancel_reason, t.created_at, coalesce(p.at, t.updated_at) as updated_at,
    greatest(t.beat_at, p.at) as beat_at, t.lease_ms, t.deadline_at, t.due_at
from ledger.task t
left join lateral (
    select seq, n, progress, stage, message, data is not null as brings_data, at
    from ledger.transition
    where t.status = 'running' and key = t.key and seq > t.seq
    order by seq desc
    limit 1
) p on true;

-- Which history this is, and which copy of it answers: another server, another database, or a table that was filled anew may
-- lack what was committed.
create view ledger.copy as
select
    e.epoch,
    concat_ws(
        '@', pg_relation_filenode('ledger.transition'), d.oid, extract(epoch from pg_postmaster_start_time())
    ) as copy
from ledger.epoch e
join pg_database d on d.datname = current_database()
where e.only_one; -- as the planner knows, one row

-- Who may come in besides those whom a token file or an issuer vouches for. Few rows; not distributed.
create table ledger.api_key (
    id         text        primary key,     -- public, the middle of lwk_<id>_<secret>
    tenant     text        not null,
    subject    text        not null,
    grants     text[]      not null,        -- in the words of docs/security.md
    digest     bytea       not null,        -- sha256 of the secret, which has 256 random bits and is nowhere
    created_at timestamptz not null default now(),
    expires_at timestamptz,                 -- null: never by itself
    revoked_at timestamptz
);

-- Tickets that were given and not used yet. Whoever deletes the row has used it, on whatever node.
create table ledger.ticket (
    digest     bytea       primary key,     -- sha256 of the ticket
    tenant     text        not null,
    subject    text        not null,
    grants     text[]      not null,
    issuer     text,                        -- of the token that it was given for, as the two below
    token_id   text,
    token_ends timestamptz,
    expires_at timestamptz not null
);

create index ticket_by_principal on ledger.ticket (tenant, subject);
create index ticket_by_time on ledger.ticket (expires_at);
