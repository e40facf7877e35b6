/* global options */
const { createClient } = require("ledgerwire");

App({ base: options.base, pollMs: options.pollMs, client: createClient(options.client) });
