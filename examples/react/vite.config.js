import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

// The page and the gateway have one origin here, so the gateway needs no --allow-origin.
const gateway = process.env.LEDGERWIRE_URL ?? "http://127.0.0.1:8080";
const proxy = { "/v1": { target: gateway, changeOrigin: true, ws: true, rewriteWsOrigin: true, configure: sameOrigin } };

function sameOrigin(server) {
  server.on("proxyReq", (request) => request.removeHeader("origin"));
  server.on("proxyReqWs", (request) => request.removeHeader("origin"));
}

export default defineConfig({
  plugins: [react()],
  resolve: { dedupe: ["react"] },
  server: { host: "127.0.0.1", proxy },
  preview: { host: "127.0.0.1", proxy },
});
