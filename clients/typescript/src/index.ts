/**
 * A client for Holdfast's HTTP API.
 *
 * Promised: a call that creates something happens once, however often the client has to ask. It
 * makes an Idempotency-Key for each call (or takes yours), and sends the same one in every
 * attempt. It asks again when there was no answer, after 502, 503 and 504, and after 409
 * `in-flight`; it waits as long as Retry-After says, and some random time more, and gives up after
 * `retries` attempts. Every other refusal is thrown at once, as a HoldfastProblem.
 *
 * Not promised: that a call which threw HoldfastUnanswered did nothing. Repeat it with the
 * error's `idempotencyKey` and you will know.
 *
 * Not checked: that an answer has the shape of its type. The types are made from the server's own
 * /openapi.json, and the server's newer fields are passed through.
 */
import { Caller, path, pause, type CallOptions, type HoldfastOptions, type KeyedOptions } from "./call.js";
import { watch, type SaleEvent, type WatchOptions } from "./events.js";
import type { components } from "./schema.js";

export type { CallOptions, HoldfastOptions, KeyedOptions } from "./call.js";
export { HoldfastProblem, HoldfastUnanswered, type FieldError } from "./errors.js";
export type { Activity, SaleEvent, Stock, WatchOptions } from "./events.js";
export type { components, operations, paths } from "./schema.js";

type Schemas = components["schemas"];
/** A sale as it is now. */
export type Sale = Schemas["Sale"];
/** The terms of a sale. `price` is of one unit, in minor units of the currency (cents). */
export type NewSale = Optional<Schemas["NewSaleInputBody"], "hold_seconds" | "per_buyer">;
/** A unit that a buyer has until `expires_at`. */
export type Hold = Schemas["Hold"];
/** A payment as it is now: `pending`, `authorised`, `capturing`, `captured`, `voided`, `refunded`, `failed`. */
export type Payment = Schemas["Payment"];
/** What is paid for, and by whom. `amount` has to be the hold's price. */
export type NewPayment = Schemas["PayInputBody"];
/** What was bought: `confirmed`, or `cancelled` when the capture was refused. */
export type Order = Schemas["Order"];

// The generator takes a field with a default for one that is always there; in a request it is not.
type Optional<T, K extends keyof T> = Omit<T, K> & Partial<Pick<T, K>>;

/** A client. It keeps no state between calls: one for the whole program is enough. */
export class Holdfast {
  readonly sales: Sales;
  readonly holds: Holds;
  readonly payments: Payments;
  readonly orders: Orders;

  constructor(options: HoldfastOptions) {
    const caller = new Caller(options);
    this.sales = new Sales(caller);
    this.holds = new Holds(caller);
    this.payments = new Payments(caller);
    this.orders = new Orders(caller);
  }
}

class Sales {
  readonly #caller: Caller;
  constructor(caller: Caller) {
    this.#caller = caller;
  }

  /**
   * Creates a sale. It happens once by its `id`, which is made here if you leave it out; a sale
   * that exists with the same terms is returned, one with other terms is a problem `exists`.
   */
  async create(sale: NewSale, options: CallOptions = {}): Promise<Sale> {
    const body = { ...sale, id: sale.id ?? crypto.randomUUID() };
    return this.#caller.json({ ...options, method: "POST", path: "/v1/sales", body });
  }

  /** A sale as it is now. Problem: `not-found`. */
  async get(sale: string, options: CallOptions = {}): Promise<Sale> {
    return this.#caller.json({ ...options, method: "GET", path: path`/v1/sales/${sale}` });
  }

  /** The newest sales, at most 100. */
  async list(options: CallOptions = {}): Promise<Sale[]> {
    const answer = await this.#caller.json<Schemas["SalesOutputBody"]>({ ...options, method: "GET", path: "/v1/sales" });
    return answer.sales ?? [];
  }

  /**
   * Watches a sale. The first stock event is the present state; each one is all that there is to
   * know, and changes within 100 ms come as one. Versions rise: none comes twice, none goes back.
   * When the connection is lost, or silent for 45 s, it is made again from the last event, for as
   * long as you read. Leave the loop to end it, or abort the signal, whose reason is then thrown.
   * Problems that asking again cannot mend (`not-found`, `unauthorized`) are thrown.
   */
  events(sale: string, options: WatchOptions = {}): AsyncGenerator<SaleEvent, void, void> {
    return watch(this.#caller, path`/v1/sales/${sale}/events`, options);
  }
}

class Holds {
  readonly #caller: Caller;
  constructor(caller: Caller) {
    this.#caller = caller;
  }

  /**
   * Holds a unit for a buyer. Happens once for each key; a repeat returns the same hold, as it was
   * when it was made. Problems: `sold-out` (held units may come back: `retryAfter`), `limit`,
   * `not-open`, `not-found`. They are not stored: the same key can succeed later.
   */
  async create(sale: string, buyer: string, options: KeyedOptions = {}): Promise<Hold> {
    return this.#caller.json({ ...keyed(options), method: "POST", path: path`/v1/sales/${sale}/holds`, body: { buyer } });
  }

  /** Gives a held unit back. Succeeds too when the hold has ended. Problem: `hold-paid`. */
  async release(sale: string, hold: string, options: CallOptions = {}): Promise<void> {
    return this.#caller.json({ ...options, method: "DELETE", path: path`/v1/sales/${sale}/holds/${hold}` });
  }
}

class Payments {
  readonly #caller: Caller;
  constructor(caller: Caller) {
    this.#caller = caller;
  }

  /**
   * Pays for a hold. The payment that is returned was accepted: it will be settled or taken back,
   * whatever dies. Happens once for each key. Problems: `hold-gone`, `hold-paid`, `amount`.
   */
  async create(payment: NewPayment, options: KeyedOptions = {}): Promise<Payment> {
    return this.#caller.json({ ...keyed(options), method: "POST", path: "/v1/payments", body: payment });
  }

  /**
   * Asks until the payment is settled: `captured`, `voided`, `refunded` or `failed`. That is mostly
   * a matter of a second, but has no limit while the provider does not answer: bring a signal.
   */
  async settled(payment: string, options: CallOptions = {}): Promise<Payment> {
    for (let attempt = 0; ; attempt++) {
      const now = await this.get(payment, options);
      if (["captured", "voided", "refunded", "failed"].includes(now.state)) return now;
      await pause(Math.min(attempt, 4), 0.05, options.signal);
    }
  }

  /** A payment as it is now. Problem: `not-found`. */
  async get(payment: string, options: CallOptions = {}): Promise<Payment> {
    return this.#caller.json({ ...options, method: "GET", path: path`/v1/payments/${payment}` });
  }
}

class Orders {
  readonly #caller: Caller;
  constructor(caller: Caller) {
    this.#caller = caller;
  }

  /** An order. Its id is the payment's `order`, from `capturing` on. Problem: `not-found`. */
  async get(order: string, options: CallOptions = {}): Promise<Order> {
    return this.#caller.json({ ...options, method: "GET", path: path`/v1/orders/${order}` });
  }
}

/** One key for one call, made before its first attempt. */
function keyed(options: KeyedOptions): KeyedOptions {
  return { ...options, idempotencyKey: options.idempotencyKey ?? crypto.randomUUID() };
}

export type { Holds, Orders, Payments, Sales };
