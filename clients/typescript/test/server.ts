import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const binary = process.env["HOLDFAST_BIN"] ?? fileURLToPath(new URL("../../../../bin/holdfast", import.meta.url));

/** A server of its own for one file of tests. */
export interface Server {
  url: string;
  /** Ends it, by its process, and removes its data. */
  stop(): Promise<void>;
}

/** Starts the binary on a free port, with its data in a new directory. */
export async function start(): Promise<Server> {
  const data = await mkdtemp(join(tmpdir(), "holdfast-client-"));
  const child = spawn(binary, ["up", "--no-faults", "--listen", "127.0.0.1:0", "--data", join(data, "data")]);
  let said = "";
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await ended;
    clearTimeout(late);
    await rm(data, { recursive: true, force: true });
  };
  const address = new Promise<string>((resolve, reject) => {
    const hear = (text: Buffer): void => {
      said += text.toString();
      const found = /Holdfast is at {2}(http:\/\/[\d.:]+)\//.exec(said);
      if (found?.[1] !== undefined) resolve(found[1]);
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.once("error", reject);
    void ended.then(() => reject(new Error(`${binary} ended: ${said}`)));
  });
  const late = setTimeout(() => child.kill("SIGKILL"), 30_000);
  const url = await address.finally(() => clearTimeout(late));
  return { url, stop };
}
