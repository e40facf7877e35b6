// The agent as a mini-program. `options` and `tell` are the test's.
/* global App, options, tell */
var ledgerwire = require("ledgerwire");
var makeAgent = require("../agent.cjs");

App({ agent: makeAgent(ledgerwire, options, tell) });
