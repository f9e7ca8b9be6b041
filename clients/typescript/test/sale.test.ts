// Against the real server: what the client promises, seen from the sale's own numbers.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Holdfast, HoldfastProblem, HoldfastUnanswered, type Sale } from "../src/index.js";
import { startProxy } from "./proxy.js";
import { start, type Server } from "./server.js";

let server: Server;
let shop: Holdfast;

before(async () => {
  server = await start();
  shop = new Holdfast({ baseUrl: server.url });
});
after(() => server.stop());

const terms = { name: "Tour", price: 4900, currency: "EUR" };
const sell = (stock: number): Promise<Sale> => shop.sales.create({ ...terms, stock });

/** The problem that a call ends with. */
async function refused(call: Promise<unknown>): Promise<HoldfastProblem> {
  const error = await call.then(() => undefined, (e: unknown) => e);
  assert.ok(error instanceof HoldfastProblem, `wanted a problem, got ${String(error)}`);
  return error;
}

test("buys from the sale to the order", async () => {
  const sale = await sell(2);
  const hold = await shop.holds.create(sale.id, "ada");
  assert.equal(hold.state, "held");
  const accepted = await shop.payments.create({ hold: hold.id, buyer: "ada", amount: hold.price, currency: hold.currency });
  const payment = await shop.payments.settled(accepted.id, { signal: AbortSignal.timeout(20_000) });
  assert.equal(payment.state, "captured");
  const order = await shop.orders.get(payment.order ?? "");
  assert.deepEqual([order.state, order.buyer, order.amount, order.hold], ["confirmed", "ada", 4900, hold.id]);
  const now = await shop.sales.get(sale.id);
  assert.deepEqual([now.held, now.sold], [0, 1]);
  assert.ok((await shop.sales.list()).some((s) => s.id === sale.id));
  assert.equal((await refused(shop.holds.release(sale.id, hold.id))).kind, "hold-paid");
});

test("the same key holds once, also when another client sends it", async () => {
  const sale = await sell(5);
  const idempotencyKey = 'cart 7 of "ada" \\ 1';
  const first = await shop.holds.create(sale.id, "ada", { idempotencyKey });
  const again = await new Holdfast({ baseUrl: `${server.url}/` }).holds.create(sale.id, "ada", { idempotencyKey });
  assert.deepEqual(again, first);
  assert.equal((await shop.sales.get(sale.id)).held, 1);
  const other = await refused(shop.holds.create(sale.id, "eve", { idempotencyKey }));
  assert.deepEqual([other.kind, other.status, other.idempotencyKey], ["key-reused", 422, idempotencyKey]);
});

test("a sale is created once by its id", async () => {
  const sale = await sell(3);
  assert.deepEqual(await shop.sales.create({ ...terms, id: sale.id, stock: 3 }), sale);
  assert.equal((await refused(shop.sales.create({ ...terms, id: sale.id, stock: 4 }))).kind, "exists");
});

test("sold out, and then not", async () => {
  const sale = await sell(1);
  const hold = await shop.holds.create(sale.id, "ada");
  const none = await refused(shop.holds.create(sale.id, "bob", { idempotencyKey: "bob" }));
  assert.equal(none.type, "urn:holdfast:problem:sold-out");
  assert.equal(none.status, 409);
  assert.ok((none.retryAfter ?? 0) > 0 && none.title !== "" && none.detail !== "");
  await shop.holds.release(sale.id, hold.id);
  await shop.holds.release(sale.id, hold.id); // twice is as good as once
  const deadline = Date.now() + 10_000;
  for (;;) {
    const answer = await shop.holds.create(sale.id, "bob", { idempotencyKey: "bob" }).catch((e: unknown) => e);
    if (!(answer instanceof HoldfastProblem)) break;
    assert.ok(answer.kind === "sold-out" && Date.now() < deadline, answer.message);
  }
  assert.equal((await shop.sales.get(sale.id)).held, 1);
});

test("an invalid field is named", async () => {
  const problem = await refused(shop.sales.create({ ...terms, stock: -1 }));
  assert.deepEqual([problem.kind, problem.status], ["invalid", 422]);
  assert.deepEqual(problem.errors.map((e) => e.location), ["body.stock"]);
  assert.equal((await refused(shop.sales.get("nothing"))).kind, "not-found");
});

test("what could only be a mistake is not sent", async () => {
  const proxy = await startProxy(server.url);
  const far = new Holdfast({ baseUrl: proxy.url });
  try {
    await assert.rejects(far.sales.get(".."), TypeError);
    await assert.rejects(far.orders.get(""), TypeError);
    await assert.rejects(far.holds.create("demo", "ada", { idempotencyKey: "ä" }), TypeError);
    await assert.rejects(far.sales.list({ signal: AbortSignal.abort("enough") }), (e) => e === "enough");
    assert.deepEqual(proxy.heard, []);
  } finally {
    await proxy.stop();
  }
});

for (const cut of ["request", "answer"] as const) {
  test(`a connection that is cut at the ${cut}: the unit is held once, under one key`, async () => {
    const proxy = await startProxy(server.url, cut);
    try {
      const sale = await sell(5);
      const hold = await new Holdfast({ baseUrl: proxy.url }).holds.create(sale.id, "ada");
      assert.equal(hold.state, "held");
      assert.equal((await shop.sales.get(sale.id)).held, 1);
      const keys = proxy.heard.map((text) => /idempotency-key: (.*)\r/i.exec(text)?.[1]);
      assert.equal(keys.length, 2);
      assert.match(keys[0] ?? "", /^"[0-9a-f-]{36}"$/);
      assert.equal(keys[1], keys[0]);
    } finally {
      await proxy.stop();
    }
  });
}

test("without any answer it says so, and the key tells what happened", async () => {
  const proxy = await startProxy(server.url, "answer", "answer");
  try {
    const sale = await sell(5);
    const lost = await new Holdfast({ baseUrl: proxy.url, retries: 1 }).holds.create(sale.id, "ada").catch((e: unknown) => e);
    assert.ok(lost instanceof HoldfastUnanswered && lost.idempotencyKey !== undefined, String(lost));
    await shop.holds.create(sale.id, "ada", { idempotencyKey: lost.idempotencyKey });
    assert.equal((await shop.sales.get(sale.id)).held, 1);
  } finally {
    await proxy.stop();
  }
});

test("events go on from the last one over a connection that is cut", { timeout: 30_000 }, async () => {
  const proxy = await startProxy(server.url);
  const sale = await sell(3);
  const seen: string[] = [];
  let cut = "";
  try {
    for await (const e of new Holdfast({ baseUrl: proxy.url }).sales.events(sale.id)) {
      if (e.event !== "stock") continue;
      seen.push(`${e.data.held} of ${e.data.stock}`);
      if (seen.length === 3) break;
      if (seen.length === 2) {
        cut = e.id;
        proxy.cutAll();
      }
      await shop.holds.create(sale.id, `buyer ${seen.length}`);
    }
  } finally {
    await proxy.stop();
  }
  assert.deepEqual(seen, ["0 of 3", "1 of 3", "2 of 3"]);
  assert.equal(proxy.heard.length, 2);
  assert.ok(proxy.heard[1]?.toLowerCase().includes(`last-event-id: ${cut.toLowerCase()}\r`), proxy.heard[1]);
});

test("watching ends with the signal, and at a sale that is not there", { timeout: 20_000 }, async () => {
  const enough = new AbortController();
  const watching = async (sale: string): Promise<void> => {
    for await (const e of shop.sales.events(sale, { signal: enough.signal })) {
      if (e.event === "stock") enough.abort("enough");
    }
  };
  assert.equal((await refused(watching("nothing"))).kind, "not-found");
  await assert.rejects(watching("demo"), (e) => e === "enough");
});
