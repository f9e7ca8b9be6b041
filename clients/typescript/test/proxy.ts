import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";

/** When a connection is cut: before the server hears of it, or when its answer is on the way. */
export type Cut = "request" | "answer" | "never";

/** A proxy that loses what the test wants lost. */
export interface Proxy {
  url: string;
  /** What clients sent, one text for each connection. */
  heard: string[];
  /** Cuts all connections that are open. */
  cutAll(): void;
  stop(): Promise<void>;
}

/** Starts a proxy before the server at target; the first connections meet their cuts in order. */
export async function startProxy(target: string, ...cuts: Cut[]): Promise<Proxy> {
  const to = new URL(target);
  const heard: string[] = [];
  const open = new Set<Socket>();
  const server = createServer((client) => {
    const n = heard.push("") - 1;
    const cut = cuts[n] ?? "never";
    const upstream = connect(Number(to.port), to.hostname);
    for (const [socket, other] of [[client, upstream], [upstream, client]] as const) {
      open.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        open.delete(socket);
        other.destroy();
      });
    }
    client.on("data", (bytes) => {
      heard[n] += bytes.toString("latin1");
      if (cut === "request") client.destroy();
      else upstream.write(bytes);
    });
    upstream.on("data", (bytes) => {
      if (cut === "answer") client.destroy();
      else client.write(bytes);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const cutAll = (): void => open.forEach((socket) => socket.destroy());
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    heard,
    cutAll,
    async stop() {
      server.close();
      cutAll();
      await once(server, "close");
    },
  };
}
