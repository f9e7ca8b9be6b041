-- acquire.lua (behind begin.lua, free.lua and grant.lua): lease a name, wait in line for it, or say that it is held.
-- KEYS    as in begin.lua
-- ARGV    1 name, 2 owner, 3 permits wanted, 4 of how many, 5 ttl µs, 6 longest hold µs,
--         7 how long this waiter counts as alive, µs (0: it does not wait), 8 channel to wake it,
--         9 most waiters, 10 who, for people
-- Returns {outcome, token, µs left of the lease, µs after which to ask again (0: at leisure)}
--   0 held   1 leased   2 waits   3 held with another number of permits   4 too many wait
-- Clock: the engine's. Retry: safe, the same owner has one lease, or one place in line.
local name, owner = ARGV[1], ARGV[2]
local w, o, alive = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[7])
scan()
local waits = redis.call('ZCARD', queue)
local mine = waits > 0 and redis.call('ZSCORE', queue, owner)
if mine and alive > 0 then
  redis.call('HSET', waiters, owner, num(w) .. ' ' .. num(o) .. ' ' .. num(now + alive) .. ' ' .. ARGV[5] .. ' ' ..
    ARGV[6] .. ' ' .. ARGV[10] .. '\n' .. ARGV[8])
  redis.call('PEXPIREAT', waiters, at(now + 120000000))
  redis.call('PEXPIREAT', queue, at(now + 120000000))
end
if waits > 0 then
  grant(name)
  waits = redis.call('ZCARD', queue)
end
local v = used > 0 and redis.call('HGET', held, owner)
if v then
  local token, w0, o0, _, since, stop, who = string.match(v, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
  local deadline = math.min(now + ARGV[5], tonumber(stop))
  redis.call('HSET', held, owner, token .. ' ' .. w0 .. ' ' .. o0 .. ' ' .. num(deadline) .. ' ' .. since .. ' ' ..
    stop .. ' ' .. who)
  return {1, tonumber(token), deadline - now, 0}
end
if used > 0 and of ~= o then return {3, 0, 0, 0} end
if waits == 0 then
  if used + w <= o then
    local token, deadline = lease(name, owner, w, o, tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[10])
    return {1, token, deadline - now, 0}
  end
end
if alive == 0 then return {0, 0, 0, math.max(soonest - now, 0)} end
if not mine then
  if waits >= tonumber(ARGV[9]) then return {4, 0, 0, 0} end
  redis.call('ZADD', queue, num(draw()), owner)
  redis.call('HSET', waiters, owner, num(w) .. ' ' .. num(o) .. ' ' .. num(now + alive) .. ' ' .. ARGV[5] .. ' ' ..
    ARGV[6] .. ' ' .. ARGV[10] .. '\n' .. ARGV[8])
  redis.call('PEXPIREAT', waiters, at(now + 120000000))
  redis.call('PEXPIREAT', queue, at(now + 120000000))
end
if redis.call('ZRANGEBYSCORE', queue, '-inf', '+inf', 'LIMIT', 0, 1)[1] == owner then return {2, 0, 0, math.max(soonest - now, 0)} end
return {2, 0, 0, 0}
