-- renew.lua: give a lease its time again, up to its end.
-- KEYS[1] held, as in begin.lua
-- ARGV    1 owner, 2 token of the lease that is meant (0: any), 3 ttl µs
-- Returns {token, µs left}; {0, 0} when there is no such lease (any more)
-- Clock: the engine's. Retry: safe.
local v = redis.call('HGET', KEYS[1], ARGV[1])
if not v then return {0, 0} end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local token, w, o, d, since, stop, who = string.match(v, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (.*)$')
if tonumber(d) <= now then return {0, 0} end
local meant = tonumber(ARGV[2])
if meant ~= 0 and meant ~= tonumber(token) then return {0, 0} end
local deadline = math.min(now + ARGV[3], tonumber(stop))
redis.call('HSET', KEYS[1], ARGV[1], token .. ' ' .. w .. ' ' .. o .. ' ' .. string.format('%.0f', deadline) .. ' ' ..
  since .. ' ' .. stop .. ' ' .. who)
return {tonumber(token), deadline - now}
