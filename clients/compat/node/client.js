// ioredis as an application would use it, configured for Sentinel. It writes until its input ends, and
// prints what was acknowledged.
import Redis from "ioredis";

const [master, sentinels, password] = process.argv.slice(2);
const redis = new Redis({
  name: master,
  sentinels: sentinels.split(",").map((a) => ({ host: a.split(":")[0], port: Number(a.split(":")[1]) })),
  sentinelPassword: password,
  password,
});
redis.on("error", (err) => console.error("error", err.message));

let more = true;
process.stdin.resume();
process.stdin.on("end", () => (more = false));

for (let i = 0; more; i++) {
  try {
    await redis.sadd("compat:node", i);
    const count = await redis.incr("compat:node:n");
    console.log("ack", i, count);
  } catch (err) {
    console.error(i, err.message);
    await new Promise((done) => setTimeout(done, 20));
  }
}
redis.disconnect();
