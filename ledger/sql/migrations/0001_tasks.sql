-- Tasks and their transitions. What each table is for is said in ../schema.sql.

-- The identity of this ledger's history, one row. It changes when history is rewound (a restore, a forced failover).
create table ledger.epoch (
    only_one   boolean     primary key default true check (only_one),
    epoch      text        not null,
    started_at timestamptz not null default now()
);

-- One row per task: its newest state. Payloads stay with the transition that brought them (data_seq, result_seq,
-- error_seq; 0 for none), so that an update writes a small row.
create table ledger.task (
    key           uuid        primary key, -- first half of sha256(tenant || 0x1f || task_id)
    tenant        text        not null,
    task_id       text        not null,
    kind          text,
    owner         text,
    created       boolean     not null,    -- false while it exists only by a report or a cancel
    status        text        not null check (status in
        ('pending', 'running', 'cancelling', 'completed', 'failed', 'cancelled', 'lost')),
    seq           bigint      not null,    -- of its last transition
    attempt       integer     not null,    -- the hold in force; a lower one is fenced
    n             integer     not null,    -- the last report accepted from that attempt
    progress      double precision,
    stage         text,
    message       text,
    data_seq      bigint      not null,
    result_seq    bigint      not null,
    error_seq     bigint      not null,
    cancel_stage  text check (cancel_stage in ('recorded', 'delivered', 'honoured', 'refused', 'too_late')),
    cancel_seq    bigint,
    cancel_reason text,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    beat_at       timestamptz
) with (fillfactor = 80); -- room for HOT updates: no index holds a column that changes with a report

create index task_by_time on ledger.task (tenant, created_at desc, key desc);
create index task_by_owner on ledger.task (tenant, owner, created_at desc, key desc) where owner is not null;

-- Every committed change, numbered per task 1..n in commit order. Never updated.
create table ledger.transition (
    key      uuid        not null,
    seq      bigint      not null,
    status   text        not null,
    attempt  integer     not null,
    n        integer,                      -- the worker's number within the attempt
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
create unique index transition_by_n on ledger.transition (key, attempt, n) where n is not null;

insert into ledger.epoch (epoch) values (left(replace(gen_random_uuid()::text, '-', ''), 12));
