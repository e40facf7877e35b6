-- Sends each payload on a channel, all in one commit. Never in the transaction of an append.
select pg_notify($1, payload) from unnest($2::text[]) as payload
