const { createClient } = require("ledgerwire");
const config = require("./config");

// One client for the whole application: one socket, however many pages watch however many tasks.
App({
  client: createClient({ url: config.url, timing: config.timing }),
});
