-- release.lua (behind begin.lua): end a lease or leave the line. Where others wait, next.lua goes on.
-- KEYS    as in begin.lua
-- ARGV    1 name, 2 owner, 3 token of the lease that is meant (0: any, or a place in line; -1: a place alone)
-- Returns {outcome}: 0 the owner had neither (any more), 1 a lease, 2 a place in line
-- Clock: the engine's. Retry: safe, there is nothing to end the second time.
local owner, meant = ARGV[2], tonumber(ARGV[3])
local was = 0
local v = redis.call('HGET', KEYS[2], owner)
local token, w, o, d
if v then token, w, o, d = string.match(v, '^(%d+) (%d+) (%d+) (%d+) ') end
if v and (meant == 0 or meant == tonumber(token)) then
  redis.call('HDEL', KEYS[2], owner)
  if tonumber(d) > now then was = 1 end
  if w == o or redis.call('HLEN', KEYS[2]) == 0 then redis.call('ZREM', KEYS[5], ARGV[1]) end
elseif meant <= 0 and redis.call('ZREM', KEYS[3], owner) == 1 then
  redis.call('HDEL', KEYS[4], owner)
  was = 2
end
if redis.call('EXISTS', KEYS[3]) == 0 then return {was} end
