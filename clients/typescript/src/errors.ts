import type { components } from "./schema.js";

/** A field that is wrong, and why. `location` is a path such as `body.stock`. */
export type FieldError = components["schemas"]["ErrorDetail"];

const prefix = "urn:holdfast:problem:";

/** What an answer that is an error says of itself. */
export interface ProblemInit {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors: readonly FieldError[];
  retryAfter: number | undefined;
  idempotencyKey: string | undefined;
}

/**
 * The server refused: an RFC 9457 problem. Nothing was done, unless `kind` is `outcome-unknown`
 * or `internal`. `type` is stable and made for programs; `title` and `detail` are for people and
 * may change. An answer that is no problem (a proxy's error page) has the type `about:blank`, and
 * leaves open what was done, like no answer: repeat with `idempotencyKey`.
 */
export class HoldfastProblem extends Error {
  override readonly name = "HoldfastProblem";
  /** Such as `urn:holdfast:problem:sold-out`. */
  readonly type: string;
  readonly title: string;
  /** The HTTP status. */
  readonly status: number;
  readonly detail: string;
  /** The fields that are wrong; empty for most problems. */
  readonly errors: readonly FieldError[];
  /** Seconds after which to ask again; undefined when the server did not say. */
  readonly retryAfter: number | undefined;
  /** The key that was sent. To ask for the same thing again, pass it again. */
  readonly idempotencyKey: string | undefined;

  constructor(init: ProblemInit) {
    super(`${init.status} ${init.type}${init.detail === "" ? "" : `: ${init.detail}`}`);
    this.type = init.type;
    this.title = init.title;
    this.status = init.status;
    this.detail = init.detail;
    this.errors = init.errors;
    this.retryAfter = init.retryAfter;
    this.idempotencyKey = init.idempotencyKey;
  }

  /** The type without its prefix, such as `sold-out`; the whole type if it is none of Holdfast's. */
  get kind(): string {
    return this.type.startsWith(prefix) ? this.type.slice(prefix.length) : this.type;
  }
}

/**
 * No answer came, however often it was asked. What was asked for may have happened: repeat with
 * `idempotencyKey` (GET and DELETE may be repeated anyway) and you will know. `cause` is the last
 * thing that went wrong.
 */
export class HoldfastUnanswered extends Error {
  override readonly name = "HoldfastUnanswered";
  readonly idempotencyKey: string | undefined;

  constructor(what: string, cause: unknown, idempotencyKey: string | undefined) {
    super(`no answer to ${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    this.idempotencyKey = idempotencyKey;
  }
}

/** Reads the problem out of an answer that is an error. Never fails: a body may be anything. */
export async function readProblem(response: Response, idempotencyKey: string | undefined): Promise<HoldfastProblem> {
  const retryAfter = parseRetryAfter(response.headers.get("Retry-After"), Date.now());
  let body: Record<string, unknown> = {};
  try {
    const parsed: unknown = await response.json();
    if (typeof parsed === "object" && parsed !== null) body = parsed as Record<string, unknown>;
  } catch {
    // The status is there all the same.
  }
  const text = (name: string, otherwise: string): string => {
    const value = body[name];
    return typeof value === "string" ? value : otherwise;
  };
  return new HoldfastProblem({
    type: text("type", "about:blank"),
    title: text("title", response.statusText),
    status: response.status,
    detail: text("detail", ""),
    errors: Array.isArray(body["errors"]) ? (body["errors"] as FieldError[]) : [],
    retryAfter,
    idempotencyKey,
  });
}

/** Retry-After is seconds or a date. */
export function parseRetryAfter(header: string | null, now: number): number | undefined {
  if (header === null) return undefined;
  if (/^\d+$/.test(header.trim())) return Number(header);
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, (at - now) / 1000);
}
