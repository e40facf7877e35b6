import { createClient } from "ledgerwire";
import { LedgerwireProvider } from "ledgerwire/react";
import { createRoot } from "react-dom/client";
import { App } from "./App.jsx";
import "./style.css";

const { protocol, host } = window.location;
const client = createClient({ url: `${protocol.replace("http", "ws")}//${host}/v1/ws` });

createRoot(document.getElementById("root")).render(
  <LedgerwireProvider client={client}>
    <App />
  </LedgerwireProvider>,
);
