// Where the gateway is. Released, both hosts must be in the mini-program's lists of domains: request (https), socket (wss).
module.exports = {
  url: "ws://127.0.0.1:8080/v1/ws",
  // Whose tasks the history shows. With tokens, leave it out: the server knows who asks.
  owner: undefined,
};
