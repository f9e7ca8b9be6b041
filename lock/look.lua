-- look.lua: who has a name, and who waits for it.
-- KEYS[1] held, KEYS[2] queue, KEYS[3] waiters, as in begin.lua
-- ARGV    1 most waiters to tell
-- Returns {now µs, leases that live ("owner token weight of deadline since end who"), how many wait,
--   the first of them in order ("owner weight of alive ttl hold who\nchannel")}
-- Clock: the engine's. It writes nothing.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local leases, line = {}, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+ %d+ %d+ (%d+) ')) > now then
    leases[#leases + 1] = all[i] .. ' ' .. all[i + 1]
  end
end
table.sort(leases)
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, ARGV[1])) do
  local v = redis.call('HGET', KEYS[3], owner)
  if v then line[#line + 1] = owner .. ' ' .. v end
end
return {now, leases, redis.call('ZCARD', KEYS[2]), line}
