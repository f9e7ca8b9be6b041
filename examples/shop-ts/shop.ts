// A small shop: opens a sale, watches it, and lets more buyers in than there are units. At the end
// it compares what each buyer was told with what the server says, and fails if they differ.
import { setTimeout as sleep } from "node:timers/promises";

import { Holdfast, HoldfastProblem, type Order, type Sale } from "@holdfast/client";

const stock = 5;
const buyers = ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"];

const baseUrl = process.argv[2] ?? "http://127.0.0.1:8080";
const apiKey = process.env["HOLDFAST_KEY"];
const shop = new Holdfast({ baseUrl, ...(apiKey === undefined ? {} : { apiKey }) });
const signal = AbortSignal.timeout(60_000); // the whole evening

/** One buyer's way from the hold to the order; undefined means sold out, or not paid. */
async function buy(sale: Sale, buyer: string): Promise<Order | undefined> {
  // Made of what is wanted, not of when it is asked for: whoever asks again, from another process
  // too, gets the same hold and the same payment.
  const idempotencyKey = `${sale.id}/${buyer}`;
  const hold = await patiently(() => shop.holds.create(sale.id, buyer, { idempotencyKey, signal }));
  if (hold === undefined) {
    console.log(`${buyer}: sold out`);
    return undefined;
  }
  const accepted = await shop.payments.create(
    { hold: hold.id, buyer, amount: hold.price, currency: hold.currency },
    { idempotencyKey: hold.id, signal },
  );
  const payment = await shop.payments.settled(accepted.id, { signal });
  if (payment.state !== "captured" || payment.order === undefined) {
    // The provider refused. The buyer could pay for the hold again; this one gives up, and gives
    // it back now, so that nobody waits until it expires.
    await shop.holds.release(sale.id, hold.id, { signal });
    console.log(`${buyer}: ${payment.state}, ${payment.reason ?? "without a reason"}`);
    return undefined;
  }
  const order = await shop.orders.get(payment.order, { signal });
  console.log(`${buyer}: order ${order.id} is ${order.state}`);
  return order;
}

/** Sold out is not final while units are only held: asks three times before it believes it. */
async function patiently<T>(ask: () => Promise<T>): Promise<T | undefined> {
  for (let times = 1; ; times++) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof HoldfastProblem) || error.kind !== "sold-out") throw error;
      if (times === 3) return undefined;
      await sleep((error.retryAfter ?? 1) * 1000, undefined, { signal });
    }
  }
}

/** Prints the stock whenever it changes. */
async function watch(sale: Sale, until: AbortSignal): Promise<void> {
  try {
    for await (const event of shop.sales.events(sale.id, { signal: until })) {
      if (event.event !== "stock") continue;
      const { held, sold } = event.data;
      console.log(`  stock: ${sale.stock - held - sold} free, ${held} held, ${sold} sold`);
    }
  } catch (error) {
    if (!until.aborted) throw error;
  }
}

const sale = await shop.sales.create({ name: "Posters", stock, price: 1900, currency: "EUR" }, { signal });
console.log(`sale ${sale.id}: ${sale.stock} posters, ${buyers.length} buyers`);
const closing = new AbortController();
const watching = watch(sale, closing.signal);
const orders = await Promise.all(buyers.map((buyer) => buy(sale, buyer)));
closing.abort();
await watching;

const sold = orders.filter((order) => order?.state === "confirmed").length;
const now = await shop.sales.get(sale.id, { signal });
console.log(`${sold} buyers have an order; the server says ${now.sold} sold, ${now.held} held, of ${now.stock}`);
if (now.sold !== sold || now.sold > now.stock) {
  console.error("these do not agree");
  process.exitCode = 1;
}
