// node ws: a channel is a set of sockets; each message is made a frame once, and written to each of them.
// GET /s/CHANNEL subscribes; GET /p is a publisher, whose messages are `CHANNEL text`.
import { Sender, WebSocketServer } from "ws";

const [port, pingSeconds] = process.argv.slice(2).map(Number);
const server = new WebSocketServer({ host: "127.0.0.1", port, perMessageDeflate: false, backlog: 4096 });
const channels = new Map();
const whole = { fin: true, rsv1: false, opcode: 1, mask: false, readOnly: false };

function publish(message) {
  const sockets = channels.get(message.toString("latin1", 0, 6));
  if (!sockets) return;
  const frame = [Buffer.concat(Sender.frame(message.subarray(7), { ...whole }))];
  for (const socket of sockets) socket._sender.sendFrame(frame); // what Socket.IO does with a prepared frame
}

server.on("connection", (socket, request) => {
  if (request.url === "/p") {
    socket.on("message", publish);
    return;
  }
  const channel = request.url.slice(3);
  if (!channels.has(channel)) channels.set(channel, new Set());
  channels.get(channel).add(socket);
  socket.on("close", () => channels.get(channel).delete(socket));
  const timer = setInterval(() => socket.ping(), pingSeconds * 1000);
  socket.on("close", () => clearInterval(timer));
});
