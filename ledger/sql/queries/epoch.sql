select epoch, started_at from ledger.epoch
