import { HoldfastProblem, HoldfastUnanswered, readProblem } from "./errors.js";

/** How a Holdfast is made. */
export interface HoldfastOptions {
  /** Where the server is, such as `http://127.0.0.1:8080`. */
  baseUrl: string;
  /** A key of `holdfast key new`. It speaks for all buyers: keep it out of browsers. */
  apiKey?: string;
  /** What to call instead of the global fetch. */
  fetch?: typeof globalThis.fetch;
  /** Milliseconds that one attempt may take. Default 15,000: the server gives up after 10,000. */
  timeout?: number;
  /** How often a call is repeated after its first attempt. Default 4; 0 repeats nothing. */
  retries?: number;
}

/** What every call takes beside its arguments. */
export interface CallOptions {
  /** Ends the call, also while it waits to try again; it then throws the signal's reason. */
  signal?: AbortSignal;
}

/** What calls that need an Idempotency-Key take. */
export interface KeyedOptions extends CallOptions {
  /**
   * Names what you want, so that it happens once however often you ask. Made by the client for
   * each call if left out, and then sure to hold only as long as this process lives: to be able
   * to ask again after a crash, make one, write it down, and pass it. 1 to 255 characters of
   * printable ASCII.
   */
  idempotencyKey?: string;
}

/** A request, without what is the same for all. */
export interface Call extends KeyedOptions {
  method: "GET" | "POST" | "DELETE";
  path: string;
  body?: unknown;
}

const longestWait = 30; // seconds; a server that says more is given up at once
const firstPause = 100; // milliseconds
const longestPause = 5_000;

/**
 * Sends requests. Every request that it sends may be repeated: it is a GET or DELETE, or has a
 * key or an id that makes it happen once.
 */
export class Caller {
  readonly #base: string;
  readonly #headers: Record<string, string>;
  readonly #fetch: typeof globalThis.fetch;
  readonly #timeout: number;
  readonly #retries: number;

  constructor(options: HoldfastOptions) {
    this.#base = new URL(options.baseUrl).href.replace(/\/+$/, "");
    this.#headers = options.apiKey === undefined ? {} : { Authorization: `Bearer ${options.apiKey}` };
    // A browser's fetch wants to be called on its window.
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.#timeout = options.timeout ?? 15_000;
    this.#retries = options.retries ?? 4;
  }

  /** Asks until there is an answer that is final, or the attempts are used up. */
  async json<T>(call: Call): Promise<T> {
    const request = this.#request(call); // what is wrong with it is thrown here, and not tried again
    for (let attempt = 0; ; attempt++) {
      call.signal?.throwIfAborted();
      try {
        return await this.#once<T>(call, request);
      } catch (error) {
        call.signal?.throwIfAborted();
        const final = attempt >= this.#retries || !repeatable(error);
        if (final && error instanceof HoldfastProblem) throw error;
        if (final) throw new HoldfastUnanswered(`${call.method} ${call.path}`, error, call.idempotencyKey);
        await pause(attempt, error instanceof HoldfastProblem ? error.retryAfter : undefined, call.signal);
      }
    }
  }

  /** One attempt, from the connection to the end of the body, within the timeout. */
  async #once<T>(call: Call, request: RequestInit): Promise<T> {
    const watch = new Watch(call.signal);
    watch.expect(this.#timeout);
    try {
      const response = await this.#fetch(this.#base + call.path, { ...request, signal: watch.signal });
      if (!response.ok) throw await readProblem(response, call.idempotencyKey);
      if (response.status === 204) return undefined as T;
      // A body that is cut off is no answer, and asked for again like one that never came.
      return (await response.json()) as T;
    } finally {
      watch.end();
    }
  }

  /** Begins to read a stream; returns when its answer has begun. */
  stream(path: string, lastEventId: string | undefined, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = { ...this.#headers, Accept: "text/event-stream" };
    if (lastEventId !== undefined) headers["Last-Event-ID"] = lastEventId;
    return this.#fetch(this.#base + path, { headers, signal, redirect: "manual" });
  }

  #request(call: Call): RequestInit {
    const headers: Record<string, string> = { ...this.#headers };
    const init: RequestInit = { method: call.method, headers, redirect: "manual" };
    if (call.idempotencyKey !== undefined) headers["Idempotency-Key"] = quoted(call.idempotencyKey);
    if (call.body !== undefined) {
      headers["Content-Type"] = "application/json";
      init.body = JSON.stringify(call.body);
    }
    return init;
  }
}

/** Says whether asking again can help: no answer, a 503 (or what proxies say), 409 in-flight. */
export function repeatable(error: unknown): boolean {
  if (!(error instanceof HoldfastProblem)) return true;
  if ((error.retryAfter ?? 0) > longestWait) return false;
  return [502, 503, 504].includes(error.status) || error.kind === "in-flight";
}

/**
 * Waits before another attempt: a random part of a time that doubles, on top of what the server
 * asked for, so that clients which failed together do not come back together.
 */
export function pause(attempt: number, retryAfter: number | undefined, signal: AbortSignal | undefined): Promise<void> {
  const most = Math.min(longestPause, firstPause * 2 ** attempt);
  return sleep((retryAfter ?? 0) * 1000 + Math.random() * most, signal);
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}

/** A signal that fires with the caller's, or when what is expected does not come in time. */
export class Watch {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | undefined;
  readonly #stop = (): void => this.#controller.abort(this.#outer?.reason);
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(outer: AbortSignal | undefined) {
    this.#outer = outer;
    if (outer?.aborted === true) this.#stop();
    else outer?.addEventListener("abort", this.#stop, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Starts the time anew. */
  expect(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(new Error(`nothing for ${ms} ms`)), ms);
  }

  /** Has to be called when it is over; ends the request if that still runs. */
  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#stop);
    this.#controller.abort();
  }
}

/** The key as a string of RFC 8941. */
function quoted(key: string): string {
  if (!/^[\x20-\x7e]{1,255}$/.test(key)) throw new TypeError("an idempotencyKey is 1 to 255 characters of printable ASCII");
  return `"${key.replace(/[\\"]/g, "\\$&")}"`;
}

/** A path of the API. An id that would mean another path is refused before it is sent. */
export function path(parts: TemplateStringsArray, ...ids: string[]): string {
  return parts.reduce((all, part, i) => {
    const id = ids[i - 1] ?? "";
    if (id === "" || id === "." || id === "..") throw new TypeError(`not an id: ${JSON.stringify(id)}`);
    return all + encodeURIComponent(id) + part;
  });
}
