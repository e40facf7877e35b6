// Socket.IO: a channel is a room; WebSocket only, no compression. The handshake's `c` is the channel, or p: a publisher.
import { createServer } from "node:http";
import { Server } from "socket.io";

const [port, pingSeconds] = process.argv.slice(2).map(Number);
const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  serveClient: false,
  perMessageDeflate: false,
  httpCompression: false,
  pingInterval: pingSeconds * 1000,
  pingTimeout: 20000,
});

io.on("connection", (socket) => {
  const { c } = socket.handshake.query;
  if (c === "p") socket.on("p", (channel, message) => io.to(channel).emit("m", message));
  else socket.join(c);
  socket.emit("ready");
});
http.listen({ host: "127.0.0.1", port, backlog: 4096 });
