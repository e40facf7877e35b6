-- API keys, and single-use tickets. What each column is for is said in ../schema.sql.

create table ledger.api_key (
    id         text        primary key,
    tenant     text        not null,
    subject    text        not null,
    grants     text[]      not null,
    digest     bytea       not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create table ledger.ticket (
    digest     bytea       primary key,
    tenant     text        not null,
    subject    text        not null,
    grants     text[]      not null,
    issuer     text,
    token_id   text,
    token_ends timestamptz,
    expires_at timestamptz not null
);

create index ticket_by_principal on ledger.ticket (tenant, subject);
create index ticket_by_time on ledger.ticket (expires_at);
