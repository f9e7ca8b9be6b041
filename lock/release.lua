-- release.lua (behind grant.lua): end a lease or leave the line, and let others have what is free.
-- KEYS    as in grant.lua
-- ARGV    1 name, 2 owner, 3 token of the lease that is meant (0: any, or a place in line; -1: a place alone)
-- Returns {outcome}: 0 the owner had neither (any more), 1 a lease, 2 a place in line
-- Clock: the engine's. Retry: safe, there is nothing to end the second time.
local name, owner, meant = ARGV[1], ARGV[2], tonumber(ARGV[3])
local was = 0
local v = redis.call('HGET', held, owner)
local token, w, o, d
if v then token, w, o, d = string.match(v, '^(%d+) (%d+) (%d+) (%d+) ') end
if v and (meant == 0 or meant == tonumber(token)) then
  redis.call('HDEL', held, owner)
  if tonumber(d) > now then was = 1 end
  if w == o or redis.call('HLEN', held) == 0 then redis.call('ZREM', names, name) end
elseif meant <= 0 and redis.call('ZREM', queue, owner) == 1 then
  redis.call('HDEL', waiters, owner)
  was = 2
end
if redis.call('EXISTS', queue) == 1 then
  scan()
  grant(name)
end
return {was}
