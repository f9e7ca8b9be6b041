// Against a server that answers what the test wants: when the client asks again, and when not.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";

import { parseRetryAfter } from "../src/errors.js";
import { Holdfast, HoldfastProblem, HoldfastUnanswered } from "../src/index.js";

interface Answer {
  status: number;
  kind?: string;
  retryAfter?: string;
  body?: string;
}

/** A server that gives its answers in order, and the last one for ever. */
async function scripted(t: TestContext, ...answers: Answer[]): Promise<{ url: string; asked: IncomingHttpHeaders[] }> {
  const asked: IncomingHttpHeaders[] = [];
  const server = createServer((request, response) => {
    request.resume();
    asked.push(request.headers);
    const answer = answers[Math.min(asked.length, answers.length) - 1];
    if (answer === undefined) return; // no answer at all
    const { status, kind, retryAfter } = answer;
    if (retryAfter !== undefined) response.setHeader("Retry-After", retryAfter);
    const problem = { type: `urn:holdfast:problem:${kind}`, title: "t", status, detail: "d" };
    response.writeHead(status).end(answer.body ?? JSON.stringify(kind === undefined ? { id: "done" } : problem));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

test("503, in-flight and half a body are asked again with the same key; Retry-After is kept", async (t) => {
  const { url, asked } = await scripted(
    t,
    { status: 503, kind: "busy", retryAfter: "1" },
    { status: 409, kind: "in-flight", retryAfter: "0" },
    { status: 201, body: '{"id":"do' },
    { status: 201 },
  );
  const began = Date.now();
  const hold = await new Holdfast({ baseUrl: url, apiKey: "secret" }).holds.create("tour", "ada");
  assert.equal(hold.id, "done");
  assert.ok(Date.now() - began >= 1000, "came back before the second was over");
  assert.equal(asked.length, 4);
  assert.equal(new Set(asked.map((h) => h["idempotency-key"])).size, 1);
  assert.equal(asked[3]?.authorization, "Bearer secret");
});

test("each call has a key of its own", async (t) => {
  const { url, asked } = await scripted(t, { status: 201 });
  const shop = new Holdfast({ baseUrl: url });
  await shop.holds.create("tour", "ada");
  await shop.holds.create("tour", "ada");
  assert.equal(new Set(asked.map((h) => h["idempotency-key"])).size, 2);
});

for (const answer of [
  { status: 409, kind: "sold-out", retryAfter: "1" },
  { status: 422, kind: "key-reused" },
  { status: 500, kind: "internal" },
  { status: 503, kind: "closing", retryAfter: "3600" },
]) {
  test(`${answer.kind} is not asked again`, async (t) => {
    const { url, asked } = await scripted(t, answer);
    await assert.rejects(new Holdfast({ baseUrl: url }).sales.list(), (e) => e instanceof HoldfastProblem && e.kind === answer.kind);
    assert.equal(asked.length, 1);
  });
}

test("attempts are bounded, and a page of a proxy is a problem too", async (t) => {
  const { url, asked } = await scripted(t, { status: 502, body: "<html>" });
  await assert.rejects(
    new Holdfast({ baseUrl: url, retries: 2 }).sales.list(),
    (e) => e instanceof HoldfastProblem && e.status === 502 && e.type === "about:blank" && e.kind === "about:blank",
  );
  assert.equal(asked.length, 3);
});

test("an answer that does not come in time is none", async (t) => {
  const { url, asked } = await scripted(t);
  const slow = new Holdfast({ baseUrl: url, retries: 1, timeout: 50 });
  await assert.rejects(slow.sales.list(), (e) => e instanceof HoldfastUnanswered && e.cause instanceof Error);
  assert.equal(asked.length, 2);
});

test("the signal ends the wait for another attempt", { timeout: 10_000 }, async (t) => {
  const { url } = await scripted(t, { status: 503, kind: "busy", retryAfter: "30" });
  const enough = new AbortController();
  const call = new Holdfast({
    baseUrl: url,
    fetch: async (input, init) => {
      const response = await fetch(input, init);
      setTimeout(() => enough.abort("enough"), 20);
      return response;
    },
  }).sales.list({ signal: enough.signal });
  await assert.rejects(call, (e) => e === "enough");
});

test("Retry-After is seconds or a date", () => {
  const now = Date.parse("Wed, 21 Oct 2015 07:28:00 GMT");
  assert.equal(parseRetryAfter("7", now), 7);
  assert.equal(parseRetryAfter("Wed, 21 Oct 2015 07:28:30 GMT", now), 30);
  assert.equal(parseRetryAfter("Wed, 21 Oct 2015 07:27:30 GMT", now), 0);
  assert.equal(parseRetryAfter("soon", now), undefined);
  assert.equal(parseRetryAfter(null, now), undefined);
});
