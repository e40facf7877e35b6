select epoch from ledger.epoch
