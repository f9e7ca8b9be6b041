import { pause, repeatable, Watch, type CallOptions, type Caller } from "./call.js";
import { readProblem } from "./errors.js";

/** The whole stock of a sale. `version` rises with every change. */
export interface Stock {
  stock: number;
  held: number;
  sold: number;
  version: number;
}

/** What the process that answers was asked for and refused. */
export interface Activity {
  attempts: number;
  refused: number;
}

/** What a sale's stream brings. */
export type SaleEvent =
  | { event: "stock"; id: string; data: Stock }
  | { event: "activity"; data: Activity };

/** What watching takes. */
export interface WatchOptions extends CallOptions {
  /** The `id` of the last stock event that you have: nothing comes until there is a newer one. */
  lastEventId?: string;
}

const silence = 45_000; // the server says something every 15 s
const longestText = 1 << 20;

/** One message of a stream of server-sent events. */
interface Message {
  event: string;
  data: string;
  id: string | undefined;
  retry: number | undefined;
}

/** See Holdfast.sales.events. */
export async function* watch(caller: Caller, path: string, options: WatchOptions): AsyncGenerator<SaleEvent, void, void> {
  const { signal } = options;
  let lastEventId = options.lastEventId;
  let version = -1;
  let reconnect = 1_000;
  for (let failures = 0; ; failures++) {
    try {
      for await (const message of connect(caller, path, lastEventId, signal)) {
        failures = 0;
        reconnect = message.retry ?? reconnect;
        lastEventId = message.id ?? lastEventId;
        const event = parse(message);
        if (event === undefined) continue;
        if (event.event === "stock") {
          // Another server can be some moments behind the one that we had.
          if (event.data.version <= version) continue;
          version = event.data.version;
        }
        yield event;
      }
    } catch (error) {
      signal?.throwIfAborted();
      if (!repeatable(error)) throw error;
    }
    await pause(failures, reconnect / 1000, signal);
  }
}

/** One connection, until it ends or fails. */
async function* connect(caller: Caller, path: string, last: string | undefined, signal: AbortSignal | undefined): AsyncGenerator<Message> {
  const watch = new Watch(signal);
  watch.expect(silence);
  try {
    const response = await caller.stream(path, last, watch.signal);
    if (!response.ok) throw await readProblem(response, undefined);
    if (response.body !== null) yield* messages(response.body, () => watch.expect(silence));
  } finally {
    watch.end();
  }
}

/** Cuts bytes into messages. What comes after the last blank line was cut off, and is dropped. */
async function* messages(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<Message> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop() ?? "";
    if (text.length > longestText) throw new Error("an event without an end");
    for (const block of blocks) yield fields(block);
  }
}

/** Reads the fields of a message; lines that begin with a colon are comments. */
function fields(block: string): Message {
  const message: Message = { event: "message", data: "", id: undefined, retry: undefined };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const value = line.slice(colon + 1).replace(/^ /, "");
    switch (line.slice(0, Math.max(colon, 0))) {
      case "event":
        message.event = value;
        break;
      case "data":
        message.data += message.data === "" ? value : `\n${value}`;
        break;
      case "id":
        message.id = value;
        break;
      case "retry":
        if (/^\d+$/.test(value)) message.retry = Math.min(Number(value), 30_000);
        break;
    }
  }
  return message;
}

/** Events of a kind that this client does not know are passed over. */
function parse(message: Message): SaleEvent | undefined {
  switch (message.event) {
    case "stock":
      return { event: "stock", id: message.id ?? "", data: JSON.parse(message.data) as Stock };
    case "activity":
      return { event: "activity", data: JSON.parse(message.data) as Activity };
    default:
      return undefined;
  }
}
