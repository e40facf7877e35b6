"""Who may say what in SQL: a database role is bound to one tenant, and reaches nothing else of the ledger."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ledger.model import task_key
from tests.support.node import connected

Connection = Any  # asyncpg's own type is generic for type checkers only


class Roles:
    """Two applications with a tenant each, and a role that nobody has bound."""

    def __init__(self, admin: Connection) -> None:
        self.admin = admin
        mark = secrets.token_hex(4)  # roles are the whole server's
        self.one, self.two, self.nobody = (f"ledgerwire_test_{name}_{mark}" for name in ("one", "two", "nobody"))

    async def be(self, role: str) -> Connection:
        await self.admin.execute(f"set role {role}")
        return self.admin

    async def owner(self) -> Connection:
        await self.admin.execute("reset role")
        return self.admin


@pytest.fixture
async def roles(database: str) -> AsyncIterator[Roles]:
    async with connected(database) as admin:
        it = Roles(admin)
        names = (it.one, it.two, it.nobody)
        for name in names:
            await admin.execute(f"create role {name}; grant create on schema public to {name}")
        await admin.execute(f"select ledger.bind('{it.one}', 'first'), ledger.bind('{it.two}', 'second')")
        yield it
        await admin.execute("reset role")
        for name in names:
            await admin.execute(f"drop owned by {name} cascade; drop role {name}")


async def test_a_role_has_the_tasks_of_its_tenant(roles: Roles) -> None:
    """The same id is another task for another tenant: to report, to cancel and to create are its own alone."""
    for role in (roles.one, roles.two):
        here = await roles.be(role)
        assert (await here.fetchrow("select * from ledger.create('a')"))["seq"] == 1
        assert not (await here.fetchrow("select * from ledger.report('a', progress => 1)"))["repeat"]
        assert (await here.fetchrow("select * from ledger.cancel('a')"))["cancel_seq"] == 3
    admin = await roles.owner()
    rows = await admin.fetch("select key, tenant, seq from ledger.head order by tenant")
    assert [(row["key"].hex, row["tenant"], row["seq"]) for row in rows] == [
        (task_key("first", "a"), "first", 3),
        (task_key("second", "a"), "second", 3),
    ]


@pytest.mark.parametrize(
    "call",
    [
        "select * from ledger.task",
        "select * from ledger.head",
        "select * from ledger.role_tenant",
        "select * from ledger.inbox",
        "delete from ledger.transition",
        "insert into ledger.inbox (attachment, task_id, word, is_new) values (1, 'a', 'x', true)",
        "select ledger.settle('second', 'a', null)",
        "select ledger.settle_and_tell('second', 'a', null)",
        "select ledger.read_inbox(1)",
        "select ledger.bind(current_user, 'second')",
        "select ledger.unbind(current_user)",
        "select setval('ledger.bell', 1)",
        "select ledger.drop_attachment(1)",
        "select ledger.mirror(null, 'second', null)",
    ],
)
async def test_a_bound_role_reaches_nothing_else(roles: Roles, call: str) -> None:
    """No table, and none of the functions that take a tenant's name."""
    here = await roles.be(roles.one)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await here.execute(call)


async def test_a_role_that_nobody_bound(roles: Roles) -> None:
    """It has no tasks, and is told who gives it some; the same when it was unbound."""
    here = await roles.be(roles.nobody)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await here.execute("select ledger.report('a')")
    admin = await roles.owner()
    await admin.execute(
        f"grant usage on schema ledger to {roles.nobody}; grant execute on function ledger.report to {roles.nobody}"
    )
    here = await roles.be(roles.nobody)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="has no tasks here") as caught:
        await here.execute("select ledger.report('a')")
    assert "ledger.bind" in str(caught.value.hint)
    admin = await roles.owner()
    await admin.execute(f"select ledger.unbind('{roles.one}')")
    here = await roles.be(roles.one)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await here.execute("select ledger.report('a')")


async def test_names_of_the_callers_own_are_not_used(roles: Roles) -> None:
    """A search path with functions and operators of the caller's does not get into those of the ledger."""
    here = await roles.be(roles.one)
    await here.execute("create function public.sha256(bytea) returns bytea language sql as $$ select '\\x00'::bytea $$")
    await here.execute("set search_path = public, pg_catalog")
    assert (await here.fetchrow("select * from ledger.report('a')"))["ok"]
    admin = await roles.owner()
    assert (await admin.fetchval("select key from ledger.task")).hex == task_key("first", "a")


async def test_a_table_of_another_tenant_cannot_be_attached_or_detached(roles: Roles) -> None:
    """Neither without the right to put a trigger on it, nor once it is attached for another tenant."""
    words = """'job', id => 'id', status => 'status', map => '{"on": "running"}'"""
    here = await roles.be(roles.one)
    await here.execute("create table job (id text primary key, status text)")
    here = await roles.be(roles.two)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="may not put a trigger"):
        await here.execute(f"select ledger.attach({words})")
    here = await roles.be(roles.one)
    await here.execute(f"select ledger.attach({words}); grant trigger on job to {roles.two}")
    assert await here.fetchval("select count(*) from ledger.attached()") == 1
    here = await roles.be(roles.two)
    with pytest.raises(asyncpg.UniqueViolationError, match="attached already"):
        await here.execute(f"select ledger.attach({words})")
    assert await here.fetchval("select count(*) from ledger.attached()") == 0
    with pytest.raises(asyncpg.PostgresError, match=r"owner|not attached"):
        await here.execute("select ledger.detach('job')")
    here = await roles.be(roles.one)
    await here.execute(f"grant insert on job to {roles.two}")
    here = await roles.be(roles.two)
    await here.execute("insert into job values ('x', 'on')")  # by whom does not matter: it is the table's tenant
    admin = await roles.owner()
    await admin.fetch("select * from ledger.read_inbox(10)")
    assert await admin.fetchval("select tenant from ledger.task") == "first"


async def test_casts_of_the_callers_own_are_not_used(roles: Roles) -> None:
    """Neither in the attached table nor in another with its trigger: they would run with the ledger's rights."""
    here = await roles.be(roles.one)
    await here.execute(
        """
        create table ran_as (who text); grant insert on ran_as to public;
        create type word as enum ('on', 'off');
        create function spy_text(word) returns text language plpgsql as $$
            begin insert into public.ran_as values (current_user); return 'off'; end $$;
        create function spy_number(word) returns float language plpgsql as $$
            begin insert into public.ran_as values (current_user); return 1; end $$;
        create cast (word as text) with function spy_text(word);
        create cast (word as float) with function spy_number(word);
        create table job (id text primary key, status word, stage word, pct int);
        create table like_it (id text, status word, stage word, pct word);
        select ledger.attach('job', id => 'id', status => 'status', stage => 'stage', progress => 'pct',
            map => '{"on": "running", "off": "failed"}');
        create trigger mine after insert on like_it for each row execute function ledger.mirror_1();
        insert into job values ('x', 'on', 'off', 1);
        insert into like_it values ('y', 'on', 'on', 'on')
        """
    )
    admin = await roles.owner()
    assert await admin.fetchval("select count(*) from ran_as") == 0
    assert await admin.fetchval("select entries from ledger.read_inbox(10)") == 1
    assert [*map(tuple, await admin.fetch("select task_id, status, stage from ledger.head"))] == [
        ("x", "running", "off")
    ]
